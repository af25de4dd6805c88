"""STF: one matrix that does to every adapter's input directions what that adapter does to them.

Paper: Qiu, Wu, Li, Guo and Yao 2025, "Superpose Task-specific Features for Model Merging", arXiv 2502.10698
(EMNLP 2025).

Equations, with the singular triples w_i dW_i = sum_j s_j u_j v_j^T of each adapter, all of them numbered through:
    dW = sum_j a_j u_j v_j^T    with    u_j^T dW v_j = s_j for every j,    so    ((U^T U) * (V^T V)) a = s,
* element by element. Directions that adapters share are interpolated, directions of one alone are added: the same
adapter twice gives that adapter once (plain addition gives it twice), adapters at right angles give their sum.

Differs: adapters are merged, not whole models, so everything is narrow: the system has as many unknowns as the adapters
have ranks together, and the result is a LoRA of that rank. Shared directions make the system singular; the smallest
solution is taken. The equations were read in the published abstract and in descriptions of the method, not in its code,
whose repository could not be had; the paper's own choice of how many triples to keep is not known here, so all are
kept unless `energy` says less.

Official numbers: none for pictures; the paper merges language and vision models.

Licence of the reference: not known (LARS-research/STF, not read).
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# torch.linalg carries no types

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from workbench.blocks import composing
from workbench.core.bundle import Bundle
from workbench.core.delta import Delta
from workbench.core.method import Card, Edit
from workbench.core.tape import Tap
from workbench.ops.low_rank import Factors, svd

SINGULAR = 1e-9  # of the largest eigenvalue: below it two directions count as the same
NOTHING = 1e-12  # of the largest singular value: below it a direction is rounding


class Stf(Edit):
    """Merge adapters so that each still does to its own directions what it did alone."""

    card: ClassVar[Card] = Card("stf", "STF", "arXiv 2502.10698", composing.FAMILIES, cost="seconds")
    neutral: ClassVar[Mapping[str, Any] | None] = {"strength": 0.0}
    quick: ClassVar[Mapping[str, Any]] = {"adapters": composing.TWO}

    adapters: composing.Adapters
    weights: composing.Weights = ()
    strength: composing.Strength = 1.0
    energy: float = Field(1.0, gt=0, le=1, description="Share of each adapter's squared norm whose directions count.")

    def fit(self, bundle: Bundle, tap: Tap) -> Delta:
        """The superposed change of every matrix, as factors."""
        return composing.merged(bundle, self, lambda key, parts, weights: superposed(parts, weights, self.energy))


def superposed(parts: Sequence[Factors], weights: Sequence[float], energy: float = 1.0) -> Factors:
    """The factors (U a, V^T) of the module's equation; triples beyond a share of an adapter's energy are left out."""
    lefts: list[Tensor] = []
    sizes: list[Tensor] = []
    rights: list[Tensor] = []
    for (up, down), weight in zip(parts, weights, strict=True):
        left, values, right = svd(weight * up, down)
        held = values.square().cumsum(0)
        kept = int((held < energy * held[-1] * (1 - 1e-12)).sum()) + 1
        kept = min(kept, int((values > NOTHING * values[0]).sum()))
        lefts, sizes, rights = [*lefts, left[:, :kept]], [*sizes, values[:kept]], [*rights, right[:kept]]
    u, s, v = torch.cat(lefts, 1), torch.cat(sizes), torch.cat(rights)
    system = (u.T @ u) * (v @ v.T)
    return u * (torch.linalg.pinv(system, rtol=SINGULAR, hermitian=True) @ s), v
