"""Judge accuracy: does a trained judge see the objects and the style that the prompts name?

Paper: the protocol of concept-erasure work, a classifier's accuracy on generated pictures: Gandikota et al. 2023,
"Erasing Concepts from Diffusion Models", arXiv 2303.07345 (there with a ResNet-50 on Imagenette classes).

Equations: a picture of k named objects is right when all k are among the judge's k likeliest objects (top-1 for one);
its style is right when the likeliest style is the named one. value = share of right pictures, with Wilson's interval
    (p + z^2 / 2n +- z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n),  z = 1.96   (Wilson 1927).

Differs: the in-house judge of the emoji world, which may also answer "none of these"; a synonym shared by several
objects counts for each of them; pictures whose prompt names no object of the world are passed over.

There are no official numbers. Licence of the reference: ESD, MIT (read, not copied), script `imageclassify.py`.
"""

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from workbench.blocks.judging import halves
from workbench.blocks.wording import Said, parse
from workbench.blocks.world import World
from workbench.core.ask import Ask
from workbench.core.bundle import Bundle, Images
from workbench.core.errors import AskError
from workbench.core.fields import Role
from workbench.core.method import Card, Metric
from workbench.core.report import Report, Table
from workbench.ops.stats import wilson


class JudgeAccuracy(Metric):
    """Share of pictures in which the judge sees what was asked for."""

    card: ClassVar[Card] = Card("judge-accuracy", "Judge accuracy", "arXiv 2303.07345", ("any",), "seconds")
    unit: ClassVar[str] = "share"
    better: ClassVar[Literal["higher", "lower"]] = "higher"

    judge: Annotated[str, Role("model")] = Field("emoji-judge", description="The model that looks at the pictures.")

    @torch.no_grad()
    def score(self, images: Images, ask: Ask, bundle: Bundle) -> Report:
        """Object accuracy as `value`, style accuracy where styles are named, and a line a picture."""
        world = bundle.world or World.load()
        asked = [parse(world, prompt) for prompt in ask.prompts]
        if not any(said.objects for said in asked):
            raise AskError(
                f"judge-accuracy knows the {len(world.concepts)} objects of the emoji world; no prompt names one "
                f'({ask.prompts[0][:60]!r}). Ask for one, for example "a cat".'
            )
        judge = bundle.open(self.judge)
        pixels = images.to(judge.device).to(judge.dtype) / 127.5 - 1
        objects, styles = halves(torch.cat([judge.encode(row) for row in pixels.split(1)]), judge)
        lines: list[tuple[str, str, str, str]] = []
        right: list[bool] = []
        fitting: list[bool] = []
        for said, prompt, seen, way in zip(asked, ask.prompts, objects, styles, strict=True):
            best, style = _top(seen, judge.about["objects"], said), _top(way, judge.about["styles"], None)[0]
            if said.objects:
                right.append(_all_seen(said, best))
            if said.style:
                fitting.append(style == said.style)
            verdict = "-" if not said.objects else "right" if right[-1] else "wrong"
            lines.append((prompt, ", ".join(best), style, verdict))
        low, high = wilson(sum(right), len(right))
        numbers = {"value": sum(right) / len(right), "low": low, "high": high, "count": float(len(right))}
        if fitting:
            low, high = wilson(sum(fitting), len(fitting))
            numbers |= {"style": sum(fitting) / len(fitting), "style_low": low, "style_high": high}
        return Report((Table(("prompt", "seen", "style", "objects"), tuple(lines), "What the judge saw"),), numbers)


def _top(logits: Tensor, names: list[str], said: Said | None) -> list[str]:
    """The likeliest names, as many as objects were named and one at least."""
    count = 1 if said is None else max(1, len(said.objects))
    return [([*names, "none"])[i] for i in logits.topk(min(count, len(logits))).indices.tolist()]


def _all_seen(said: Said, best: list[str]) -> bool:
    """Whether every named object is among the likeliest, each answer used once."""
    left = list(best)
    for names in sorted(said.objects, key=len):
        found = next((name for name in left if name in names), None)
        if found is None:
            return False
        left.remove(found)
    return True
