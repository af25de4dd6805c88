"""A world to erase in without a trained model: a sampler that paints colours by prompt, a judge that reads them.

Red stands for a cat, green for a dog, blue for nothing. An edit whose concepts are in the prompt turns it blue.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from tests.methods.measure.scorers import COLOURS, colour_judge
from tests.toys import card, unlisted
from workbench.core.ask import Ask
from workbench.core.bundle import Bundle
from workbench.core.delta import Delta
from workbench.core.method import Edit, Sampler
from workbench.core.patch import Patch
from workbench.core.scene import Scene
from workbench.core.tape import Step, Tap

WORDS = {"cat": "red", "dog": "green"}
DRAWN: list[str] = []


class Shelf:
    """A store in memory."""

    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}

    def tensors(self, key: str) -> tuple[dict[str, Tensor], dict[str, str]] | None:
        return self.kept.get(key)

    def keep_tensors(self, key: str, tensors: Mapping[str, Tensor], text: Mapping[str, str]) -> None:
        self.kept[key] = (dict(tensors), dict(text))

    def json(self, key: str) -> Any | None:
        return self.kept.get(key)

    def keep_json(self, key: str, value: Any) -> None:
        self.kept[key] = value


@unlisted
class Painter(Sampler):
    """One colour a picture, with a little noise of its seed; `lost` on the seams says which words come out blue."""

    card: ClassVar = card("toy-painter", families=("any",))

    def sample(self, bundle: Bundle, ask: Ask, tap: Tap) -> Tensor:
        """uint8 [B, 3, 8, 8]."""
        lost = getattr(bundle.seams, "lost", ())
        rows = []
        for prompt, seed in zip(ask.prompts, ask.seeds, strict=True):
            DRAWN.append(prompt)
            name = next((c for w, c in WORDS.items() if w in prompt and w not in lost), "blue")
            noise = torch.randint(-4, 5, (3, 8, 8), generator=torch.Generator().manual_seed(seed))
            flat = torch.tensor(COLOURS["blue" if "*" in lost else name])[:, None, None]
            rows.append((flat + noise).clamp(0, 255).to(torch.uint8))
        tap(Step(0, 1, 0.0))
        return torch.stack(rows)


@unlisted
class Forget(Edit):
    """Whatever is in `concepts` comes out blue; "*" is everything, and a strength below 0.5 does nothing."""

    card: ClassVar = card("toy-forget", families=("any",))

    concepts: tuple[str, ...] = Field(("cat",), description="What goes.")
    strength: float = Field(1.0, ge=0, le=2, description="How much.")

    def fit(self, bundle: Bundle, tap: Tap) -> Delta:
        """Half a value projection, so that there is something to weigh."""
        value = bundle.sites("cross-attention")[0].value
        return Delta("weights", {value.key: -0.5 * value.weight.detach()})

    def patch(self, bundle: Bundle, delta: Delta, patch: Patch) -> None:
        """Note the words on the seams."""
        super().patch(bundle, delta, patch)
        patch.put(bundle.seams, "lost", self.concepts if self.strength >= 0.5 else ())


def painted_scene(*edits: Edit, store: bool = True, prompt: str = "a cat") -> Scene:
    """The tiny model with the painter and the judge of colours behind `open`."""
    DRAWN.clear()
    judge = colour_judge(["cat", "dog", "fox"], ["flat", "noto"])
    bundle = replace(judge, store=Shelf() if store else None)
    return Scene(bundle, Painter(), edits, Ask(prompts=[prompt], seeds=[5]))
