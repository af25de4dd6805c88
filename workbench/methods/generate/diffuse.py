"""Ordinary diffusion sampling with classifier-free guidance.

Paper: Ho and Salimans 2022, "Classifier-Free Diffusion Guidance", arXiv 2207.12598, with the schedulers of diffusers
(DDIM arXiv 2010.02502, DDPM arXiv 2006.11239, DPM-Solver++ arXiv 2211.01095, UniPC arXiv 2302.04867, LCM arXiv
2310.04378, Euler and Euler ancestral arXiv 2206.00364).

Equation: e = e(x, "") + w (e(x, c) - e(x, "")), the form of diffusers; the paper's w is this one minus 1. A model of
flow matching (SD3, FLUX) answers with the velocity noise - x0 instead, walks x from noise at sigma = 1 to 0, and knows
the schedulers euler, dpm++, unipc and lcm.

Differs from diffusers' pipelines: one generator an image (a batch of 4 is four images of 1), the kept part of an
inpainting is the original picture's pixels, not its reconstruction. Otherwise equal to 1e-5 in float32.

Licence of the reference: diffusers, Apache-2.0 (read, not copied); its function `StableDiffusionPipeline.__call__`.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from workbench.blocks.denoise import Course, draw
from workbench.core.ask import Ask
from workbench.core.bundle import Bundle, Images
from workbench.core.method import Card, Sampler
from workbench.core.tape import Tap

Scheduler = Literal["dpm++", "ddim", "ddpm", "euler", "euler-a", "unipc", "lcm"]


class Diffuse(Sampler):
    """Draw from noise, from a picture, or inside a mask."""

    card: ClassVar[Card] = Card("diffuse", "Diffusion", "arXiv 2207.12598", ("unet", "dit", "mmdit"), "seconds")
    quick: ClassVar[Mapping[str, Any]] = {"steps": 3, "guidance": 3.0}

    scheduler: Scheduler = Field(
        "dpm++",
        description="How a step is taken; euler-a, ddpm and lcm add fresh noise.",
    )
    steps: int = Field(
        20,
        ge=1,
        le=1000,
        description="Calls of the network (twice that with guidance).",
    )
    guidance: float = Field(
        5.0,
        ge=0,
        le=50,
        description="How hard to follow the prompt; 1 and below switch it off.",
    )
    strength: float = Field(
        0.75,
        ge=0,
        le=1,
        description="How much of a given picture is redrawn; 1 is all of it.",
    )

    true_guidance: float = Field(
        1.0,
        ge=0,
        le=50,
        description="Guidance by two calls, of a model that takes its own as an input (FLUX dev); 1 is off.",
    )

    def sample(self, bundle: Bundle, ask: Ask, tap: Tap) -> Images:
        """Draw `ask`: uint8 [B, 3, H, W]."""
        return draw(
            bundle,
            ask,
            tap,
            Course(self.scheduler, self.steps, self.guidance, self.strength, self.true_guidance),
        )
