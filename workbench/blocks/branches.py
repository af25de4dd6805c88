"""A further prediction for each image under another text, made in the same call as the guided pair.

    branch = Branch(bundle, "cat, dog")
    patch.wrap("predict", branch.wrap)
    patch.wrap("guide", ...)             # branch.output is there by then, [B, C, h, w]

Edits of the guidance that need more than the prompt's and the negative's predictions take it from here. Outside a run,
and where a run is not guided, nothing is added and `output` is None.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from workbench.blocks.denoise import condition
from workbench.core.ask import Ask
from workbench.core.bundle import Bundle, Condition


class Branch:
    """Rows of role `branch` behind the guided pair's, one an image, told `prompt`; their prediction is `output`."""

    def __init__(self, bundle: Bundle, prompt: str, when: Callable[[Condition], bool] = lambda cond: True) -> None:
        self.prompt, self.when = prompt, when
        self.output: Tensor | None = None
        _, height, width = bundle.shapes.image
        with torch.no_grad():
            self.text = condition(bundle, Ask(prompts=[prompt]), False, (width, height)).text

    def told(self, cond: Condition) -> Condition:
        """The conditional rows' condition, told the branch's prompt instead."""
        rows = cond.where("cond")
        here = cond.rows(rows)
        copies: dict[str, Tensor | None] = {}
        for name in ("states", "pooled", "mask", "ids"):
            mine, theirs = getattr(self.text, name), getattr(here.text, name)
            copies[name] = None if theirs is None else mine.to(theirs).expand(len(rows), *mine.shape[1:])
        return replace(here, text=replace(here.text, **copies), roles=("branch",) * len(rows))  # type: ignore[arg-type]

    def wrap(self, inner: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """`predict` with the branch's rows behind the others; they are taken off again."""

        def predict(x: Tensor, t: Tensor, cond: Condition) -> Tensor:
            self.output = None
            rows = cond.where("cond")
            if cond.step is None or not rows or not cond.where("uncond") or not self.when(cond):
                return inner(x, t, cond)
            made = inner(torch.cat([x, x[rows]]), torch.cat([t, t[rows]]), both(cond, self.told(cond)))
            self.output = made[len(x) :]
            return made[: len(x)]

        return predict


def both(first: Condition, second: Condition) -> Condition:
    """The rows of two conditions of one step, one after the other."""
    texts: dict[str, Tensor | None] = {}
    for name in ("states", "pooled", "mask", "ids"):
        mine, theirs = getattr(first.text, name), getattr(second.text, name)
        texts[name] = None if mine is None else torch.cat([mine, theirs])
    extra = {name: torch.cat([value, second.extra[name]]) for name, value in first.extra.items()}
    return replace(
        first,
        text=replace(first.text, **texts),  # type: ignore[arg-type]
        seeds=first.seeds + second.seeds,
        roles=first.roles + second.roles,
        extra=extra,
    )
