"""LCM: one to eight steps with a student of latent consistency distillation.

Paper: Luo, Tan, Huang, Li and Zhao 2023, "Latent Consistency Models", arXiv 2310.04378; as a LoRA: Luo et al. 2023,
"LCM-LoRA", arXiv 2311.05556. Sampling is Algorithm 1 of Song et al. 2023, arXiv 2303.01469.

Equations, with a = sqrt(bar_t), s = sqrt(1 - bar_t):
    f(x, t) = c_skip x + c_out x0(x, t),  c_skip = d^2 / ((10 t)^2 + d^2),  c_out = 10 t / sqrt((10 t)^2 + d^2),  d = .5
    x' = a' f(x, t) + s' z,  z ~ N(0, I),  and at the last step x' = f(x, t)
Timesteps are taken evenly from the `origin` ones of the distillation: 999, 759, 499, 259 for four of fifty.

Differs: noise comes from each image's own seed. A network that reads its guidance (a whole LCM) is told it and called
once; one that does not is guided by two calls when guidance is above 1. Negatives act only in the second case.

Official numbers: FID 11.1 on LAION-Aesthetic-6+ at 512 px in 4 steps with guidance 8 (Table 1); they do not carry over.
The emoji student's are in assets/benchmarks/fewstep.json.

Licence of the reference: diffusers, Apache-2.0 (read, not copied), `LCMScheduler` (used) and
`LatentConsistencyModelPipeline.get_guidance_scale_embedding`.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field

from workbench.blocks.denoise import Course
from workbench.blocks.students import few, spaced, studying
from workbench.core.ask import Ask
from workbench.core.bundle import Bundle, Images
from workbench.core.fields import Role
from workbench.core.method import Card, Sampler
from workbench.core.tape import Tap


class Lcm(Sampler):
    """Jump to the picture, add noise, jump again."""

    card: ClassVar[Card] = Card("lcm", "Latent consistency", "arXiv 2310.04378", ("unet",), "seconds")
    quick: ClassVar[Mapping[str, Any]] = {"student": "random:1", "steps": 3}

    student: Annotated[str, Role("adapter")] = Field(
        "emoji-student", description='An adapter or model that takes few steps; "" when the model itself does.'
    )
    steps: int = Field(4, ge=1, le=1000, description="Calls of the network (twice that with guidance).")
    guidance: float = Field(1.0, ge=0, le=50, description="1 and below: as distilled. LCM-LoRAs bear 1 to 2.")
    origin: int = Field(50, ge=1, le=1000, description="Timesteps of the distillation, of which the steps are taken.")
    strength: float = Field(0.75, ge=0, le=1, description="How much of a given picture is redrawn; 1 is all of it.")

    def sample(self, bundle: Bundle, ask: Ask, tap: Tap) -> Images:
        """Draw `ask`: uint8 [B, 3, H, W]."""
        course = Course("lcm", self.steps, self.guidance, self.strength)
        with studying(bundle, self.student) as (drawn, _):
            return few(drawn, ask, tap, course, lambda s: spaced("lcm", s, self.steps, self.origin))
