"""Results as data: a closed set of panels of plain arrays, and numbers."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, UInt8


@dataclass(frozen=True, eq=False)
class Picture:
    """One RGB picture, uint8 [H, W, 3] in 0..255, sRGB."""

    pixels: UInt8[np.ndarray, "H W 3"]
    title: str = ""


@dataclass(frozen=True, eq=False)
class Film:
    """Labelled frames of one size, to step through; `over` is a picture to lay them on when they are heat maps.

    `frames` is uint8 [T, H, W, 3] (pictures) or float [T, h, w] (maps).
    """

    frames: np.ndarray
    labels: tuple[str, ...]
    title: str = ""
    over: UInt8[np.ndarray, "H W 3"] | None = None


@dataclass(frozen=True, eq=False)
class Heat:
    """A map float [h, w] with its unit and range; `signed` maps are shown around zero; `over` lies underneath."""

    values: Float[np.ndarray, "h w"]
    title: str = ""
    unit: str = ""
    low: float | None = None
    high: float | None = None
    signed: bool = False
    over: UInt8[np.ndarray, "H W 3"] | None = None


@dataclass(frozen=True, eq=False)
class Curve:
    """Lines over a shared axis: `x` [n], `ys` [k, n], one name a line, units (x, y)."""

    x: Float[np.ndarray, " n"]
    ys: Float[np.ndarray, "k n"]
    names: tuple[str, ...]
    title: str = ""
    units: tuple[str, str] = ("", "")


@dataclass(frozen=True)
class Table:
    """Rows of text and numbers under named columns."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str | int | float, ...], ...]
    title: str = ""


@dataclass(frozen=True)
class Note:
    """A remark; `text` is Markdown of ours, quoted text of others must be escaped before it gets here."""

    text: str
    title: str = ""


Panel = Picture | Film | Heat | Curve | Table | Note


@dataclass(frozen=True)
class Report:
    """What a lens or a metric found: panels to look at and numbers to compare."""

    panels: tuple[Panel, ...] = ()
    numbers: Mapping[str, float] = field(default_factory=dict[str, float])

    def problems(self) -> list[str]:
        """What is wrong with the report's shapes and values; empty when it is sound."""
        found = [f"number {name} is not finite" for name, value in self.numbers.items() if not np.isfinite(value)]
        for panel in self.panels:
            found += [f"{type(panel).__name__} {panel.title!r}: {trouble}" for trouble in _troubles(panel)]
        return found


def _troubles(panel: Panel) -> list[str]:
    match panel:
        case Picture(pixels=pixels):
            return [] if pixels.dtype == np.uint8 and pixels.ndim == 3 else ["pixels must be uint8 [H, W, 3]"]
        case Film(frames=frames, labels=labels):
            found = [] if len(frames) == len(labels) else [f"{len(frames)} frames, {len(labels)} labels"]
            return found + ([] if np.isfinite(frames).all() else ["frames are not finite"])
        case Heat(values=values):
            found = [] if values.ndim == 2 else ["values must be [h, w]"]
            return found + ([] if np.isfinite(values).all() else ["values are not finite"])
        case Curve(x=x, ys=ys, names=names):
            fits = ys.shape == (len(names), len(x))
            return [] if fits else [f"ys {ys.shape} does not fit {len(names)} names and {len(x)} points"]
        case Table(columns=columns, rows=rows):
            return [f"row {i} has {len(r)} cells" for i, r in enumerate(rows) if len(r) != len(columns)]
        case Note():
            return []
