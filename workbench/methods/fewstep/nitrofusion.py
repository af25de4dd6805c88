"""NitroFusion's schedule: pure noise is declared to be far less noisy than it is.

Paper: Chen, Zhang, Xie, Xu, Shi and Song 2024, "NitroFusion: High-Fidelity Single-Step Diffusion through Dynamic
Adversarial Training", arXiv 2412.02030 (the schedule stands in the model card of NitroSD).

Equations, with timesteps t of LCM (999, 749, 499, 249 for four steps) and t~ = floor(t shift / 1000):
    the network is told t~, and x0 is read off its answer at the level of t~:  x0 = (x - s~ e) / a~,  or a~ x - s~ v
    x' = a' f + s' z at the next *unshifted* time,  f = c_skip x + c_out x0,  z ~ N(0, I)
Shift 250 is that of NitroSD-Realism, 500 that of NitroSD-Vibrant. Levels of SDXL: bar 0.675432 at 249, 0.277670 at 499.

Differs: written as a wrap of two seams around diffusers' `LCMScheduler`, which is handed the answer that means the same
x0 at the unshifted time; c_skip and c_out are those of t instead of t~ (both are 1 - O(1e-7) there). Noise comes from
each image's own seed. Shift 1000 is LCM itself.

Official numbers: they are of NitroSD's weights (CC-BY-NC for Realism), which are not here; on a model that was not
trained for it the schedule draws poorly.

Licence of the reference: MIT (read, not copied), README of ChenDarYen/NitroFusion, class `TimestepShiftLCMScheduler`.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from workbench.blocks.denoise import Course
from workbench.blocks.students import few, spaced, studying
from workbench.core.ask import Ask
from workbench.core.bundle import Bundle, Condition, Images
from workbench.core.fields import Role
from workbench.core.method import Card, Sampler
from workbench.core.tape import Tap
from workbench.ops.consistency import clean_of, output_of

TIMESTEPS = 1000
ORIGIN = 4


class Nitrofusion(Sampler):
    """LCM steps whose network is told an earlier time."""

    card: ClassVar[Card] = Card("nitrofusion", "NitroFusion", "arXiv 2412.02030", ("unet",), "seconds")
    quick: ClassVar[Mapping[str, Any]] = {"student": "random:1", "steps": 3}

    student: Annotated[str, Role("adapter")] = Field(
        "", description='An adapter or model trained for this schedule; "" when the loaded model is (NitroSD).'
    )
    steps: int = Field(1, ge=1, le=ORIGIN, description="Calls of the network (twice that with guidance).")
    shift: int = Field(250, ge=1, le=TIMESTEPS, description="Where the range of times ends: 250 Realism, 500 Vibrant.")
    guidance: float = Field(1.0, ge=0, le=50, description="1 and below: as distilled; above, two calls a step.")
    strength: float = Field(0.75, ge=0, le=1, description="How much of a given picture is redrawn; 1 is all of it.")

    def shifted(self, t: Tensor) -> Tensor:
        """The times that the network is told, floor(t shift / 1000)."""
        return (t * self.shift).div(TIMESTEPS, rounding_mode="floor").long()

    def sample(self, bundle: Bundle, ask: Ask, tap: Tap) -> Images:
        """Draw `ask`: uint8 [B, 3, H, W]."""

        def told(inner: Callable[..., Tensor]) -> Callable[..., Tensor]:
            def predict(x: Tensor, t: Tensor, cond: Condition) -> Tensor:
                return inner(x, self.shifted(t), cond)

            return predict

        def read(inner: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., tuple[Tensor, Tensor]]:
            def advance(
                x: Tensor, guided: Tensor, t: Tensor, cond: Condition, scheduler: Any, generators: list[torch.Generator]
            ) -> tuple[Tensor, Tensor]:
                kind, bars = scheduler.config.prediction_type, scheduler.alphas_cumprod.to(x.device)
                clean = clean_of(kind, x, guided, bars[self.shifted(t)])
                return inner(x, output_of(kind, x, clean, bars[t]), t, cond, scheduler, generators)

            return advance

        with studying(bundle, self.student) as (drawn, patch):
            patch.wrap("predict", told)
            patch.wrap("advance", read)
            course = Course("lcm", self.steps, self.guidance, self.strength)
            return few(drawn, ask, tap, course, lambda s: spaced("nitrofusion", s, self.steps, ORIGIN))
