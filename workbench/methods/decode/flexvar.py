"""Any schedule of scales, any shape: decoding without residuals.

Paper: Jiao, Zhang, Qian, Ma, Zhang, Ma, Zheng, Jiao and Chen 2025, "FlexVAR: Flexible Visual Autoregressive Modeling
without Residual Prediction", arXiv 2502.20313 (NeurIPS 2025).

Equations: each scale says the whole picture at its size, not what the coarser ones lack: scale k + 1 is told
up(e[r_k]), the codes of scale k enlarged bicubically, and the picture is decoded from the last scale's codes alone.
Places are one 32x32 table, averaged down to each grid. Guidance grows as 1 + guidance k / (S - 1).

Differs from the official code: grids of any shape (there squares only), each side rounded from the latent's; guidance
never grows past what was asked for (there k / min(S - 1, 9) passes 1 after ten steps); scales finer than the model's
own last one take the likeliest token, as there; other scales are drawn, whatever their side. On a model of residual
prediction the model's own schedule is the only one, and this is next-scale decoding.

Official numbers: ImageNet 256, d24 in 10 steps FID 2.21, with 13 steps 2.08; zero-shot 512 (README, abstract).

Licence of the reference: jiaosiyu1999/FlexVAR, MIT (read, not copied), `FlexVAR.autoregressive_infer_cfg`.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field

from workbench.blocks import scales
from workbench.blocks.denoise import picture_size
from workbench.core.ask import Ask
from workbench.core.bundle import Bundle, Images
from workbench.core.errors import AskError
from workbench.core.fields import Role
from workbench.core.method import Card, Sampler
from workbench.core.tape import Tap
from workbench.ops.residual_scales import Grid, check_schedule, read_grid, shaped


class FlexVar(Sampler):
    """Decode over scales of your choice."""

    card: ClassVar[Card] = Card("flexvar", "Flexible scales", "arXiv 2502.20313", ("var",), "seconds")
    quick: ClassVar[Mapping[str, Any]] = {"guidance": 1.5, "top_p": 0.9}

    schedule: Annotated[tuple[Annotated[str, Field(coerce_numbers_to_str=True)], ...], Role("schedule")] = Field(
        (), description="Scales from coarse to fine, each a side such as 4 or rows x columns such as 4x6; none is the "
        "model's own."
    )  # fmt: skip
    steps: int = Field(0, ge=0, le=64, description="How many scales to spread evenly; 0 keeps the schedule.")
    guidance: float = Field(
        2.5, ge=0, le=50, description="How hard to follow the prompt at the last scale; it grows from 0 at the first."
    )
    top_k: int = Field(0, ge=0, description="How many tokens to draw from at each place; 0 is all.")
    top_p: float = Field(0.95, gt=0, le=1, description="Share of the probability to draw from; 1 is all of it.")
    temperature: float = Field(1.0, gt=0, le=10, description="Below 1 the likely tokens are drawn more often.")

    def sample(self, bundle: Bundle, ask: Ask, tap: Tap) -> Images:
        """Draw `ask`: uint8 [B, 3, H, W]."""
        scales.refuse_picture(ask, self.card.name)
        grids = self.grids(bundle, ask)
        guided = self.guidance > 0
        memory = scales.Memory(grids, len(ask) * (2 if guided else 1))
        most = max(map(max, scales.own_grids(bundle)))
        top_k = tuple(self.top_k if max(grid) <= most else 1 for grid in grids)
        run = scales.Descent(
            bundle, (scales.turn(bundle, ask, memory, guided),), scales.ramp(self.guidance, len(grids)),
            scales.Choice(top_k, self.top_p, self.temperature), scales.generators(bundle, ask), tap)  # fmt: skip
        x = scales.descend(run, scales.blank(bundle, len(ask), grids[-1]))
        return scales.pictures(bundle, x)

    def grids(self, bundle: Bundle, ask: Ask) -> tuple[Grid, ...]:
        """The schedule for a request's size. Raises `AskError` where it cannot be decoded."""
        own = scales.own_grids(bundle)
        if not bundle.about.get("any_schedule"):
            if self.schedule or self.steps:
                raise AskError(
                    f"flexvar: {bundle.name} predicts residuals over its own scales and takes no other schedule. Leave "
                    "schedule and steps out, or take a model trained for any (prediction: direct)."
                )
            scales.own_size(bundle, ask)
            return own
        width, height = picture_size(bundle, ask)
        latent = (height // bundle.shapes.multiple, width // bundle.shapes.multiple)
        if self.schedule:
            return check_schedule([read_grid(text) for text in self.schedule], latent)
        sides = [max(grid) for grid in own]
        if self.steps:
            sides = _spread(max(latent), self.steps)
        return check_schedule(_rising(shaped(sides, latent)), latent)


def _spread(most: int, steps: int) -> list[int]:
    """Sides from 1 to the last, evenly."""
    if steps > most:
        raise AskError(f"flexvar: steps is {steps}; a latent of {most} cells a side has at most {most} scales.")
    return [round(1 + (most - 1) * i / max(steps - 1, 1)) for i in range(steps)] if steps > 1 else [most]


def _rising(grids: tuple[Grid, ...]) -> tuple[Grid, ...]:
    """Without scales that rounding made equal."""
    return tuple(dict.fromkeys(grids))
