"""Safe latent diffusion: guidance that steers away from concepts, more where the prompt comes near them. No training.

Paper: Schramowski, Brack, Deiseroth and Kersting 2022, "Safe Latent Diffusion: Mitigating Inappropriate Degeneration in
Diffusion Models", arXiv 2211.05105 (CVPR 2023).

Equations, for predictions e at the prompt p, nothing 0 and the concepts S, element by element:
    mu = min(|scale (e(p) - e(S))|, 1) where e(p) - e(S) < threshold, else 0
    nu = mu (e(S) - e(0)) + momentum m,   m <- memory m + (1 - memory) nu
    e  = e(0) + g [ (e(p) - e(0)) - nu ] after the warm-up, without nu during it

Differs: the concepts are the user's, not the paper's list of unsafe ones. The warm-up is a share of the run, not a
number of steps, so it means the same for 10 steps and for 50. Networks that predict velocity are guided in velocities.
"Nothing" is the request's negative prompt where it has one. One more row an image is predicted.

Official settings (diffusers; warm-up of 50 steps, scale, threshold, momentum, memory): weak 15/50, 20, 0, 0, 0; medium
10/50, 1000, 0.01, 0.3, 0.4 (the defaults here); strong 7/50, 2000, 0.025, 0.5, 0.7; max 0, 5000, 1, 0.5, 0.7.
Official numbers: share of I2P pictures called inappropriate 39 % without and 9 % with the strongest setting (paper's
abstract and figures, from memory). UnlearnDiffAtk leaderboard: nudity 33.1 % before attack, 82.4 % after.

Licence of the reference: diffusers, Apache-2.0 (read, not copied), function `perform_safety_guidance`.
"""

from collections.abc import Callable, Mapping
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
from workbench.core.tape import Event, Started


class SafeGuidance(Edit):
    """Steer away from concepts while drawing; the weights stay as they are."""

    card: ClassVar[Card] = Card("safe-guidance", "Safe latent diffusion", "arXiv 2211.05105", ("unet",))
    # the official threshold is a jump, at which the rounding of another batch size could tip a value
    quick: ClassVar[Mapping[str, Any]] = {"concepts": ("cat",), "warmup": 0.0, "scale": 5.0, "threshold": 10.0}
    neutral: ClassVar[Mapping[str, Any] | None] = {"strength": 0.0}

    concepts: lessons.Concepts
    strength: float = Field(1.0, ge=0, le=4, description="Factor of the steering (nu); 0 changes nothing.")
    warmup: float = Field(0.2, ge=0, le=1, description="Share of the run before steering begins.")
    scale: float = Field(1000.0, ge=0, le=10_000, description="How soon a place counts as near the concepts.")
    threshold: float = Field(0.01, ge=-1, le=10, description="How far above them a place is left alone.")
    momentum: float = Field(0.3, ge=0, le=1, description="How much of past steering is added.")
    memory: float = Field(0.4, ge=0, lt=1, description="How long past steering is remembered (beta).")

    def patch(self, bundle: Bundle, delta: Delta, patch: Patch) -> None:
        """Predict one more row an image, and take nu off the prompt's prediction."""
        found = read_concepts(bundle, "safe-guidance", self.concepts)
        if self.strength == 0:
            return
        branch, past = Branch(bundle, ", ".join(found.targets)), dict[str, Tensor]()

        def forget(event: Event) -> None:
            if isinstance(event, Started):
                past.clear()

        def wrap(inner: Callable[..., Tensor]) -> Callable[..., Tensor]:
            def guide(positive: Tensor, negative: Tensor, scale: float, cond: Condition) -> Tensor:
                if branch.output is None or cond.step is None:
                    return inner(positive, negative, scale, cond)
                nu, past["m"] = self.steer(positive, negative, branch.output, past.get("m"))
                if cond.step.index < self.warmup * cond.step.total:
                    nu = torch.zeros_like(nu)
                return inner(positive - self.strength * nu, negative, scale, cond)

            return guide

        patch.each(forget)
        patch.wrap("predict", branch.wrap)
        patch.wrap("guide", wrap)

    def steer(self, positive: Tensor, negative: Tensor, unsafe: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor]:
        """nu and the next m; without a past m is 0."""
        gap = positive - unsafe
        mu = torch.where(gap < self.threshold, (self.scale * gap).abs().clamp_max(1.0), torch.zeros_like(gap))
        m = torch.zeros_like(gap) if past is None else past
        nu = mu * (unsafe - negative) + self.momentum * m
        return nu, self.memory * m + (1 - self.memory) * nu
