"""TCD: few steps along the trajectory, with as much fresh noise as wished.

Paper: Zheng, Hu, Fan, Wang, Ding, Tao and Cham 2024, "Trajectory Consistency Distillation", arXiv 2402.19159.

Equations: for a step from t to the next time t' the network's x0 and e lead to s = floor((1 - eta) t'), without noise,
and noise leads up again:
    x_s = sqrt(bar_s) x0 + sqrt(1 - bar_s) e
    x'  = sqrt(bar_t' / bar_s) x_s + sqrt(1 - bar_t' / bar_s) z,   z ~ N(0, I)
eta 0 is DDIM, the way of shortcut and flow-map students; eta 1 goes to the clean picture each time, as LCM does. The
last step goes to time 0 without noise.

Differs: noise comes from each image's own seed. The paper calls eta gamma.

Official numbers: they are of SDXL with TCD-LoRA (the paper's Table 1) and do not carry over; eta 0.3 is the
reference's default. The emoji student's are in assets/benchmarks/fewstep.json.

Licence of the reference: diffusers, Apache-2.0 (read, not copied), `TCDScheduler`, which is used.
"""

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, ClassVar

from pydantic import Field

from workbench.blocks.denoise import Course
from workbench.blocks.students import few, spaced, studying
from workbench.core.ask import Ask
from workbench.core.bundle import Bundle, Images
from workbench.core.fields import Role
from workbench.core.method import Card, Sampler
from workbench.core.tape import Tap


class Tcd(Sampler):
    """Walk down past the next time, then up to it with noise."""

    card: ClassVar[Card] = Card("tcd", "Trajectory consistency", "arXiv 2402.19159", ("unet",), "seconds")
    quick: ClassVar[Mapping[str, Any]] = {"student": "random:1", "steps": 3}

    student: Annotated[str, Role("adapter")] = Field(
        "emoji-student", description='An adapter or model that takes few steps; "" when the model itself does.'
    )
    steps: int = Field(4, ge=1, le=1000, description="Calls of the network (twice that with guidance).")
    eta: float = Field(0.3, ge=0, le=1, description="Fresh noise: 0 is none (one path), 1 as much as LCM adds.")
    guidance: float = Field(1.0, ge=0, le=50, description="1 and below: as distilled; above, two calls a step.")
    origin: int = Field(50, ge=1, le=1000, description="Timesteps of the distillation, of which the steps are taken.")
    strength: float = Field(0.75, ge=0, le=1, description="How much of a given picture is redrawn; 1 is all of it.")

    def sample(self, bundle: Bundle, ask: Ask, tap: Tap) -> Images:
        """Draw `ask`: uint8 [B, 3, H, W]."""

        def tune(scheduler: Any) -> None:
            spaced("tcd", scheduler, self.steps, self.origin)
            scheduler.step = partial(scheduler.step, eta=self.eta)

        with studying(bundle, self.student) as (drawn, _):
            return few(drawn, ask, tap, Course("tcd", self.steps, self.guidance, self.strength), tune)
