"""Diversity distillation: the base takes the first step, its student the others.

Paper: Gandikota and Bau 2025, "Distilling Diversity and Control in Diffusion Models", arXiv 2503.10637.

Equations: x0_i = f_base(x_i, t_i) for i < k, f_student(x_i, t_i) for i >= k, on the student's own timesteps with its
noise; k = 1. The first step decides what is drawn, and the base decides more variously.

Differs: k may be larger. With guidance above 1 only the base's steps are guided, as the student was taught guided
pictures; the notebook of the reference does without, its script guides by 7. Both share one schedule of LCM (the
reference: the student's, entered at the base's nearest time, which is the same here).

Official numbers: SDXL with DMD2 as the student: 0.64 s an image against 9.22 s of the base at the base's diversity
(Figure 1). The emoji student's are in assets/benchmarks/fewstep.json.

Licence of the reference: rohitgandikota/distillation, MIT (read, not copied), `improved_sdxl_inference.py`.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from workbench.blocks.denoise import Course
from workbench.blocks.students import few, spaced, studying
from workbench.core.ask import Ask
from workbench.core.bundle import Bundle, Condition, Images
from workbench.core.fields import Role
from workbench.core.method import Card, Sampler
from workbench.core.tape import Tap


class DiversityDistillation(Sampler):
    """Let the base begin and the student finish."""

    card: ClassVar[Card] = Card(
        "diversity-distillation", "Diversity distillation", "arXiv 2503.10637", ("unet",), "seconds"
    )
    quick: ClassVar[Mapping[str, Any]] = {"student": "random:1", "steps": 3, "guidance": 3.0}

    student: Annotated[str, Role("adapter")] = Field(
        "emoji-student", description="The adapter or model that finishes in few steps.", min_length=1
    )
    steps: int = Field(4, ge=2, le=50, description="Steps in all.")
    base_steps: int = Field(1, ge=0, le=50, description="Steps that the base takes first; 0 leaves all to the student.")
    guidance: float = Field(1.0, ge=0, le=50, description="Of the base's steps alone; 1 and below switch it off.")
    origin: int = Field(50, ge=1, le=1000, description="Timesteps of the distillation, of which the steps are taken.")
    strength: float = Field(0.75, ge=0, le=1, description="How much of a given picture is redrawn; 1 is all of it.")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.base_steps > self.steps:
            raise ValueError(f"has base_steps {self.base_steps} of {self.steps} steps, must have base_steps <= steps")
        return self

    def students_turn(self, cond: Condition | None) -> bool:
        """Whether the student answers: from step `base_steps` on."""
        return cond is None or cond.step is None or cond.step.index >= self.base_steps

    def sample(self, bundle: Bundle, ask: Ask, tap: Tap) -> Images:
        """Draw `ask`: uint8 [B, 3, H, W]."""

        def alone(inner: Callable[..., Tensor]) -> Callable[..., Tensor]:
            """Ask the student for the conditional rows only; the unconditional ones take over their answers."""

            def predict(x: Tensor, t: Tensor, cond: Condition) -> Tensor:
                rows = cond.where("cond")
                if not self.students_turn(cond) or len(rows) == len(cond.roles):
                    return inner(x, t, cond)
                return torch.cat([inner(x[rows], t[rows], cond.rows(rows))] * 2)

            return predict

        with studying(bundle, self.student, self.students_turn) as (drawn, patch):
            patch.wrap("predict", alone)
            course = Course("lcm", self.steps, self.guidance, self.strength)
            return few(drawn, ask, tap, course, lambda s: spaced("diversity-distillation", s, self.steps, self.origin))
