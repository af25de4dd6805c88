"""CADS: a condition that starts as noise and anneals to the prompt, for more varied pictures.

Paper: Sadat, Buhmann, Bradley, Hilliges and Weber 2023, "CADS: Unleashing the Diversity of Diffusion Models through
Condition-Annealed Sampling", arXiv 2310.17347 (ICLR 2024).

Equations, with t from 1 (noise) to 0 (picture), condition y and n ~ N(0, I):
    gamma(t) = 1 for t <= tau1, 0 for t >= tau2, else (tau2 - t) / (tau2 - tau1)
    y'  = sqrt(gamma) y + s sqrt(1 - gamma) n
    y'' = psi ((y' - mean y') / std y' * std y + mean y) + (1 - psi) y'

Differs: mean and std are those of one row, not of the whole batch, and n comes from the row's own seed and step, so
an image does not depend on its batch mates; t is the timestep / 1000. Only conditional rows are touched (published
ports offer both). A pooled text vector, where the model has one, is annealed likewise with noise of its own.
Outside a run nothing changes. Not for one step: gamma(1) = 0 would erase the prompt.

Official numbers: FID 1.70 on ImageNet 256 and 2.31 on ImageNet 512, class-conditional (abstract).

There is no official code; defaults are those of the common ports for Stable Diffusion with psi at the paper's 1.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Self

from pydantic import Field, model_validator
from torch import Tensor

from workbench.core.bundle import Bundle, Condition, TextStates
from workbench.core.delta import Delta
from workbench.core.method import Card, Edit
from workbench.core.patch import Patch
from workbench.ops.noise import row_noise

TIMESTEPS = 1000


class Cads(Edit):
    """Noise on the prompt early in the run, none later."""

    card: ClassVar[Card] = Card("cads", "CADS", "arXiv 2310.17347", ("unet", "dit", "mmdit"))
    neutral: ClassVar[Mapping[str, Any] | None] = {"tau1": 1.0, "tau2": 1.0}

    tau1: float = Field(0.6, ge=0, le=1, description="From this time down to 0 the prompt is whole.")
    tau2: float = Field(0.9, ge=0, le=1, description="From 1 (pure noise) down to this time the prompt is all noise.")
    noise: float = Field(0.25, ge=0, le=2, description="Scale of the noise on the prompt (s).")
    rescale: float = Field(1.0, ge=0, le=1, description="How far to restore the prompt's mean and spread (psi).")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.tau1 > self.tau2:
            raise ValueError(f"has tau1 {self.tau1} above tau2 {self.tau2}, must have tau1 <= tau2")
        return self

    def gamma(self, t: float) -> float:
        """The share of the prompt's variance that is left at time t in 0..1."""
        if t <= self.tau1:
            return 1.0
        return 0.0 if t >= self.tau2 else (self.tau2 - t) / (self.tau2 - self.tau1)

    def patch(self, bundle: Bundle, delta: Delta, patch: Patch) -> None:
        """Wrap the network so that it reads an annealed condition."""

        def wrap(inner: Callable[..., Tensor]) -> Callable[..., Tensor]:
            def predict(x: Tensor, t: Tensor, cond: Condition) -> Tensor:
                return inner(x, t, self._annealed(cond))

            return predict

        patch.wrap("predict", wrap)

    def _annealed(self, cond: Condition) -> Condition:
        gamma = 1.0 if cond.step is None else self.gamma(cond.step.level / TIMESTEPS)
        rows = cond.where("cond")
        if cond.step is None or gamma == 1.0 or not rows:
            return cond
        text, step = cond.text, cond.step.index
        seeds = [cond.seeds[i] for i in rows]
        states = self._mix(text.states, rows, gamma, row_noise(seeds, text.states.shape[1:], "cads", step))
        pooled = text.pooled
        if pooled is not None:
            pooled = self._mix(pooled, rows, gamma, row_noise(seeds, pooled.shape[1:], "cads pooled", step))
        return replace(cond, text=TextStates(states, pooled, text.mask, text.ids))

    def _mix(self, whole: Tensor, rows: list[int], gamma: float, noise: Tensor) -> Tensor:
        """Anneal some rows of a condition [R, ...]; the others keep their values."""
        y = whole[rows].float()
        axes = tuple(range(1, y.ndim))
        noisy = gamma**0.5 * y + self.noise * (1 - gamma) ** 0.5 * noise.to(y.device)
        spread = noisy.std(axes, keepdim=True).clamp_min(1e-12)  # without noise and with gamma 0 all values are alike
        unit = (noisy - noisy.mean(axes, keepdim=True)) / spread
        rescaled = unit * y.std(axes, keepdim=True) + y.mean(axes, keepdim=True)
        mixed = whole.clone()
        mixed[rows] = (self.rescale * rescaled + (1 - self.rescale) * noisy).to(whole.dtype)
        return mixed
