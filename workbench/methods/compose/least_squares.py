"""Least squares: the one change of each matrix that answers every adapter's own inputs as that adapter does.

Papers: Gu et al. 2023, "Mix-of-Show: Decentralized Low-Rank Adaptation for Multi-Concept Customization of Diffusion
Models", arXiv 2305.18292 (gradient fusion); Jin, Ren, Preotiuc-Pietro and Cheng 2022, "Dataless Knowledge Fusion by
Merging Weights of Language Models" (RegMean), arXiv 2212.09849; Nasery, Hayase, Koh and Oh 2024, "PLeaS: Merging Models
with Permutations and Least Squares", arXiv 2407.02447 (its second step; adapters of one model need no permutation).

Equation, with the inputs X_i [in, n] that a matrix sees while adapter i draws its own prompts, G_i = X_i X_i^T:
    min_D sum_i |D X_i - w_i dW_i X_i|^2 + s |D|^2    so    D = (sum w_i dW_i G_i) (sum G_i + s I)^-1,
s = `ridge` times the mean diagonal of sum G_i. Where adapters see inputs in different directions, D is every one of
them at once; where they see the same, it is their mean.

Differs: solved in closed form in place of Mix-of-Show's 50 to 500 iterations of LBFGS; inputs come from a few steps of
the loop that draws, guided, with the adapter at its weight. Rows without a prompt count, since they are drawn, too.
A convolution is solved over its patches. Matrices that are never called, or are read outside of the network (text
towers), have no inputs here and are added up.

Official numbers: none that compare.

Licence of the references: Mix-of-Show, Apache-2.0 (read, not copied), function `update_quasi_newton`; PLeaS-Merging
(read, not copied).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from workbench.blocks import composing
from workbench.blocks.adapters import attach
from workbench.blocks.concepts import Names, templates
from workbench.blocks.denoise import Course, denoise, picture_size
from workbench.blocks.gates import scalar
from workbench.core.ask import Ask
from workbench.core.bundle import Bundle
from workbench.core.delta import Delta
from workbench.core.errors import AskError
from workbench.core.method import Card, Edit
from workbench.core.patch import Patch
from workbench.core.tape import Tap
from workbench.ops.linear_edit import System, factors
from workbench.ops.low_rank import Factors, LowRank


class LeastSquares(Edit):
    """Merge adapters so that each keeps its answers to its own inputs."""

    card: ClassVar[Card] = Card("least-squares", "Least squares", "arXiv 2305.18292", composing.FAMILIES, "minutes")
    neutral: ClassVar[Mapping[str, Any] | None] = {"strength": 0.0}
    quick: ClassVar[Mapping[str, Any]] = {"adapters": composing.TWO, "prompts": ("a cat", "a dog"), "steps": 2}

    adapters: composing.Adapters
    weights: composing.Weights = ()
    strength: composing.Strength = 1.0
    prompts: Names = Field(
        (), max_length=composing.MOST, description="What each adapter draws; empty is its trigger in common prompts."
    )
    steps: int = Field(8, ge=1, le=200, description="Steps of the drawings in which inputs are seen.")
    pictures: int = Field(2, ge=1, le=64, description="Drawings an adapter.")
    ridge: float = Field(1e-3, gt=0, le=10, description="Pull towards no change, in units of the mean squared input.")
    rank: int = Field(0, ge=0, le=1024, description="Highest rank of the result; 0 leaves it dense.")
    seed: int = Field(0, ge=0, le=2**32, description="What the drawings follow from.")

    def fit(self, bundle: Bundle, tap: Tap) -> Delta:
        """The solved change of every matrix; those without inputs are added up."""
        found = composing.read(bundle, self)
        said = self.said(bundle, found.triggers)
        keys = [key for key in found.keys() if bundle.all_sites[0].part == key.partition(":")[0]]  # noqa: SIM118
        seen: list[Mapping[str, Tensor]] = []
        for (change, weight), prompts in zip(found.pairs(), said, strict=True):
            seen.append(self.inputs(bundle, change.scaled(weight), prompts, keys, tap))
        low: dict[str, Factors] = {key: pair for key, pair in found.sum().factors.items() if key not in seen[0]}
        dense: dict[str, Tensor] = {}
        for key in (key for key in keys if key in seen[0]):
            changes = [weight * each.dense(key).double() if key in each else None for each, weight in found.pairs()]
            made = solved(changes, [grams[key] for grams in seen], self.ridge)
            if self.rank:
                low[key] = factors(made, most=self.rank)
            else:
                dense[key] = made
        return found.delta(LowRank(low), dense)

    def said(self, bundle: Bundle, triggers: Sequence[str]) -> list[list[str]]:
        """The prompts of each adapter's drawings. Raises `AskError` where there are none to be had."""
        if self.prompts and len(self.prompts) != len(triggers):
            raise AskError(
                f"least-squares: there are {len(triggers)} adapters and {len(self.prompts)} prompts. Give one each."
            )
        rows: list[list[str]] = []
        for index, trigger in enumerate(triggers):
            if not self.prompts and not trigger:
                raise AskError(
                    f"least-squares: {self.adapters[index]} names no trigger word, so what it draws is not known. "
                    "Set prompts, one an adapter."
                )
            ways = [self.prompts[index]] if self.prompts else [w.format(trigger) for w in templates(bundle, trigger)]
            rows.append([ways[row % len(ways)] for row in range(self.pictures)])
        return rows

    def inputs(
        self, bundle: Bundle, low: LowRank, prompts: Sequence[str], keys: Sequence[str], tap: Tap
    ) -> Mapping[str, Tensor]:
        """X X^T of every matrix that is called while the prompts are drawn with an adapter in force."""
        grams: dict[str, Tensor] = {}

        def watch(key: str) -> Callable[..., None]:
            def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                rows = patches(module, args[0] if args else next(iter(kwargs.values())))
                grams[key] = grams.get(key, 0.0) + rows.T @ rows

            return before

        ask = Ask(prompts=list(prompts), seeds=[self.seed + row for row in range(len(prompts))])
        with torch.no_grad(), Patch(bundle) as patch:
            attach(patch, bundle, low, scalar(1.0))
            for key in keys:
                patch.hook(patch.find(key)[0], watch(key), "before")
            denoise(bundle, ask, tap, Course(steps=self.steps), picture_size(bundle, ask))
        return grams


def patches(module: nn.Module, x: Tensor) -> Float[Tensor, "n k"]:
    """What a linear module, or a convolution at each of its places, multiplies its matrix with; in float64."""
    if isinstance(module, nn.Conv2d):
        spread = F.unfold(x.double(), module.kernel_size, module.dilation, module.padding, module.stride)  # type: ignore[arg-type]
        return spread.transpose(1, 2).flatten(0, 1)
    return x.double().flatten(0, -2)


def solved(
    changes: Sequence[Float[Tensor, "o k"] | None], grams: Sequence[Float[Tensor, "k k"]], ridge: float
) -> Float[Tensor, "o k"]:
    """D of the module's equation; None is an adapter that leaves the matrix alone."""
    total = torch.stack(list(grams)).sum(0)
    wanted = [change @ gram for change, gram in zip(changes, grams, strict=True) if change is not None]
    return System(total, ridge * float(total.diagonal().mean())).solve(torch.stack(wanted).sum(0))
