"""Turbo: one to four Euler steps with fresh noise, for adversarially distilled models.

Paper: Sauer, Lorenz, Blattmann and Rombach 2023, "Adversarial Diffusion Distillation", arXiv 2311.17042 (SD-Turbo,
SDXL-Turbo); the step is Euler ancestral of Karras et al. 2022, arXiv 2206.00364, in k-diffusion's form.

Equations, with sigma = s / a of a timestep, x in units of a, timesteps spaced backwards from 999 ("trailing"):
    up^2 = sigma'^2 (sigma^2 - sigma'^2) / sigma^2,   down^2 = sigma'^2 - up^2
    x' = x + (x - x0) / sigma (down - sigma) + up z,   z ~ N(0, I);   the last step gives x0
Without guidance: the student was taught guided pictures.

Differs: noise comes from each image's own seed.

Official numbers: preference studies and FID of SDXL-Turbo at 512 px (the paper, section 4); they do not carry over.
The emoji student's are in assets/benchmarks/fewstep.json.

Licence of the reference: diffusers, Apache-2.0 (read, not copied), `EulerAncestralDiscreteScheduler`, which is used.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field

from workbench.blocks.denoise import Course
from workbench.blocks.students import few, studying
from workbench.core.ask import Ask
from workbench.core.bundle import Bundle, Images
from workbench.core.fields import Role
from workbench.core.method import Card, Sampler
from workbench.core.tape import Tap


class Turbo(Sampler):
    """Euler ancestral from pure noise."""

    card: ClassVar[Card] = Card("turbo", "Turbo", "arXiv 2311.17042", ("unet",), "seconds")
    quick: ClassVar[Mapping[str, Any]] = {"student": "random:1", "steps": 2}

    student: Annotated[str, Role("adapter")] = Field(
        "emoji-student", description='An adapter or model that takes few steps; "" when the model itself does.'
    )
    steps: int = Field(1, ge=1, le=50, description="Calls of the network (twice that with guidance).")
    guidance: float = Field(1.0, ge=0, le=50, description="1 and below: as distilled; above, two calls a step.")
    strength: float = Field(0.75, ge=0, le=1, description="How much of a given picture is redrawn; 1 is all of it.")

    def sample(self, bundle: Bundle, ask: Ask, tap: Tap) -> Images:
        """Draw `ask`: uint8 [B, 3, H, W]."""

        def tune(scheduler: Any) -> None:
            scheduler.register_to_config(timestep_spacing="trailing")
            scheduler.set_timesteps(self.steps, device=scheduler.timesteps.device)

        with studying(bundle, self.student) as (drawn, _):
            return few(drawn, ask, tap, Course("euler-a", self.steps, self.guidance, self.strength), tune)
