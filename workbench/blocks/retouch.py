"""Redrawing a picture by scale: one run of the decoder in which some places keep what the picture has there."""

from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from workbench.blocks import scales
from workbench.blocks.requantise import Canvas, Keep, Keeper, Source
from workbench.core.ask import Ask
from workbench.core.bundle import Bundle, Images
from workbench.core.tape import Tap, ignore


@dataclass(frozen=True)
class Course:
    """How to draw what is new, and how to keep the rest; `more` goes to the `Choice` of tokens as it stands."""

    guidance: float = 4.0
    top_k: int = 0
    top_p: float = 0.95
    smooth: bool = False
    keep: Keep = "requantise"
    more: dict[str, Any] = field(default_factory=dict[str, Any])


def redraw(bundle: Bundle, ask: Ask, tap: Tap, surface: Canvas, course: Course, source: Source | None = None) -> Images:
    """Draw a request over a picture where it is new: uint8 [B, 3, H, W], nothing pasted yet."""
    source = source or Source.of(bundle, surface.pixels, len(ask))
    keeper = Keeper(source, surface.kept(source.grids[-1]).to(bundle.device), course.keep)
    choice = scales.Choice(
        course.top_k, course.top_p, smooth=course.smooth, change=keeper if keeper.kept.any() else None, **course.more
    )
    return scales.pictures(bundle, decode(bundle, ask, tap, choice, course.guidance))


def decode(bundle: Bundle, ask: Ask, tap: Tap, choice: scales.Choice, guidance: float) -> Tensor:
    """The final state [B, C, h, w] of a run over the model's own schedule."""
    scales.own_size(bundle, ask.but(image=None, mask=None))
    grids = scales.own_grids(bundle)
    guided = guidance > 0
    memory = scales.Memory(grids, len(ask) * (2 if guided else 1))
    run = scales.Descent(
        bundle, (scales.turn(bundle, ask, memory, guided),), scales.ramp(guidance, len(grids)), choice,
        scales.generators(bundle, ask), tap)  # fmt: skip
    return scales.descend(run, scales.blank(bundle, len(ask), grids[-1]))


def quietly(bundle: Bundle, ask: Ask, choice: scales.Choice, guidance: float) -> None:
    """A run for the sake of its logits, which nobody is told of: for edits that count steps it is outside of a run."""
    decode(replace(bundle, seams=replace(bundle.seams, listeners=())), ask, ignore, choice, guidance)
