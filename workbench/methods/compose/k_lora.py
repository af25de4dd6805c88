"""K-LoRA: every attention matrix takes the content adapter early in the run and the style adapter later.

Paper: Ouyang, Li and Hou 2025, "K-LoRA: Unlocking Training-Free Fusion of Any Subject and Style LoRAs",
arXiv 2502.18461 (CVPR 2025).

Equations, for the changes C_l of the content adapter and S_l of the style adapter at matrix l, K = rank_C rank_S:
    c_l, s_l = sums of the K largest |entries| of C_l and S_l,    g = mean_l  sum |C_l| / sum |S_l|
    at a share t of the run, 0..1, matrix l uses C_l while c_l / g > s_l (alpha t + beta), S_l afterwards.
The condition is linear in t, so each matrix has one moment at which it turns over,
    t_l = (c_l / (g s_l) - beta) / alpha,
known before the run; the reference sorts both dense matrices anew at every call.

Differs: t is the step's number over the run's steps; the reference counts calls of matrices, which moves a turn by less
than a step. All matrices that both adapters change take part, not attention's alone, and one that a single adapter
changes keeps it throughout. While text is read, before there is a step, the content adapter counts. Weights scale what
acts, and do not change the choice, since g takes them out again.

Official settings: alpha 1.5, beta 0.5. Official numbers: SDXL, style 58.7, CLIP 69.4, DINO 46.9 (from memory).

Licence of the reference: HVision-NKU/K-LoRA (one file read, not copied), `klora.py`.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field

from workbench.blocks import composing
from workbench.blocks.gates import Gate, Now, both, scalar
from workbench.core.bundle import Bundle
from workbench.core.delta import Delta
from workbench.core.method import Card, Edit
from workbench.core.patch import Patch
from workbench.ops.low_rank import LowRank


class KLora(Edit):
    """Content first, style later, each matrix at its own moment."""

    card: ClassVar[Card] = Card("k-lora", "K-LoRA", "arXiv 2502.18461", composing.FAMILIES, cost="seconds")
    neutral: ClassVar[Mapping[str, Any] | None] = {"strength": 0.0}
    quick: ClassVar[Mapping[str, Any]] = {"adapters": composing.TWO}

    adapters: composing.Adapters
    weights: composing.Weights = ()
    strength: composing.Strength = 1.0
    alpha: float = Field(1.5, gt=0, le=10, description="How fast the style's claim grows over the run.")
    beta: float = Field(0.5, ge=0, le=10, description="The style's claim at the start of the run.")
    top: int = Field(0, ge=0, le=1_000_000, description="Entries that speak for a matrix (K); 0 is rank times rank.")

    def patch(self, bundle: Bundle, delta: Delta, patch: Patch) -> None:
        """Hang both adapters on the model, each with its half of the turning moments."""
        found = composing.read(bundle, self, 2, 2)
        if self.strength == 0:
            return
        turns = self.turns(*found.low)
        for index, weight in enumerate(found.weights):
            found.wear(patch, bundle, index, both(scalar(self.strength * weight), turning(turns, first=index == 0)))

    def turns(self, content: LowRank, style: LowRank) -> dict[str, float]:
        """The share of the run at which each matrix that both change turns from content to style."""
        sizes: dict[str, tuple[float, float]] = {}
        ratios: list[float] = []
        for key in (key for key in content if key in style):
            one, other = (each.dense(key).double().abs().flatten() for each in (content, style))
            count = min(self.top or content.rank(key) * style.rank(key), one.numel())
            sizes[key] = float(one.topk(count).values.sum()), float(other.topk(count).values.sum())
            ratios.append(float(one.sum() / other.sum().clamp_min(1e-300)))
        balance = float(torch.tensor(ratios, dtype=torch.float64).mean()) if ratios else 1.0
        return {key: self.turn(one / max(balance, 1e-300), other) for key, (one, other) in sizes.items()}

    def turn(self, content: float, style: float) -> float:
        """t_l of the module's equation, from c_l / g and s_l."""
        return (content / style - self.beta) / self.alpha if style else float("inf")


def turning(turns: Mapping[str, float], first: bool) -> Gate:
    """1 before a matrix's turn and 0 afterwards, for the second adapter the other way round; 1 where there is none."""

    def gate(now: Now) -> float:
        if now.key not in turns:
            return 1.0
        step = None if now.cond is None else now.cond.step
        share = 0.0 if step is None else step.index / step.total
        return float((share < turns[now.key]) == first)

    return gate
