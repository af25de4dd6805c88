"""A concept as negative prompt: guidance away from it instead of away from nothing. The line that erasers have to beat.

Paper: Liu, Li, Du, Torralba and Tenenbaum 2022, "Compositional Visual Generation with Composable Diffusion Models",
arXiv 2206.01714 (ECCV 2022), negation; in common use as "negative prompt" since Stable Diffusion 1.

Equation, for predictions e at the prompt p, the concept c and the request's own negative prompt n:
    e = e(n') + g (e(p) - e(n')),   e(n') = (1 - strength) e(n) + strength e(c)

Differs: strength in between mixes predictions, at the cost of one more row an image; 1 is what every pipeline calls
a negative prompt, at no cost, and then the request's own negative prompt is not read. Several concepts are one prompt,
separated by commas. Outside a run and without guidance nothing changes.

Official numbers: none for erasing. Licence of the reference: diffusers, Apache-2.0 (read, not copied), the argument
`negative_prompt` of `StableDiffusionPipeline`.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from workbench.blocks import lessons
from workbench.blocks.branches import Branch
from workbench.blocks.concepts import read_concepts
from workbench.core.bundle import Bundle, Condition
from workbench.core.delta import Delta
from workbench.core.method import Card, Edit
from workbench.core.patch import Patch


class NegativeConcept(Edit):
    """Guide away from concepts while drawing; the weights stay as they are."""

    card: ClassVar[Card] = Card("negative-concept", "Negative concept", "arXiv 2206.01714", ("unet",))
    quick: ClassVar[Mapping[str, Any]] = {"concepts": ("cat",)}
    neutral: ClassVar[Mapping[str, Any] | None] = {"strength": 0.0}

    concepts: lessons.Concepts
    strength: float = Field(1.0, ge=0, le=1, description="Share of the concept in what is guided away from.")

    def patch(self, bundle: Bundle, delta: Delta, patch: Patch) -> None:
        """Tell the unconditional rows the concept, or mix its prediction into theirs."""
        found = read_concepts(bundle, "negative-concept", self.concepts)
        if self.strength == 0:
            return
        branch = Branch(bundle, ", ".join(found.targets))
        if self.strength == 1:
            patch.wrap("predict", lambda inner: self.swap(inner, branch))
            return

        def wrap(inner: Callable[..., Tensor]) -> Callable[..., Tensor]:
            def guide(positive: Tensor, negative: Tensor, scale: float, cond: Condition) -> Tensor:
                if branch.output is not None:
                    negative = negative + self.strength * (branch.output - negative)
                return inner(positive, negative, scale, cond)

            return guide

        patch.wrap("predict", branch.wrap)
        patch.wrap("guide", wrap)

    def swap(self, inner: Callable[..., Tensor], branch: Branch) -> Callable[..., Tensor]:
        """`predict` with the concept in the unconditional rows' place."""

        def predict(x: Tensor, t: Tensor, cond: Condition) -> Tensor:
            rows, told = cond.where("uncond"), cond.where("cond")
            if cond.step is None or len(rows) != len(told):
                return inner(x, t, cond)
            here, there = cond.text, branch.told(cond).text
            index = torch.tensor(rows, device=here.states.device)
            texts = {}
            for name in ("states", "pooled", "mask", "ids"):
                mine, theirs = getattr(here, name), getattr(there, name)
                texts[name] = None if mine is None else mine.index_copy(0, index, theirs.to(mine))
            return inner(x, t, replace(cond, text=replace(here, **texts)))

        return predict
