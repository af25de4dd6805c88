"""Reports to and from disk: plain data for the JSON, arrays for one npz."""

import dataclasses
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from workbench.blocks.disk import write_bytes
from workbench.core.report import Curve, Film, Heat, Note, Panel, Picture, Report, Table

_KINDS: dict[str, type[Panel]] = {cls.__name__: cls for cls in (Picture, Film, Heat, Curve, Table, Note)}


def pack(report: Report, prefix: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A report as plain data and named arrays; `prefix` keeps the names of several reports apart."""
    panels: list[dict[str, Any]] = []
    arrays: dict[str, np.ndarray] = {}
    for index, panel in enumerate(report.panels):
        plain: dict[str, Any] = {"panel": type(panel).__name__}
        for field in dataclasses.fields(panel):
            value = getattr(panel, field.name)
            if isinstance(value, np.ndarray):
                name = f"{prefix}.{index}.{field.name}"
                arrays[name] = value
                plain[field.name] = {"array": name}
            else:
                plain[field.name] = tame(value)
        panels.append(plain)
    return {"numbers": tame(report.numbers), "panels": panels}, arrays


def unpack(plain: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Report:
    """The report that `pack` took apart."""
    panels = [_panel(entry, arrays) for entry in plain.get("panels", ())]
    numbers = {name: math.nan if value is None else float(value) for name, value in plain.get("numbers", {}).items()}
    return Report(tuple(panels), numbers)


def _panel(entry: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Panel:
    cls = _KINDS[entry["panel"]]
    values: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        value = entry.get(field.name)
        if isinstance(value, Mapping) and "array" in value:
            value = arrays[value["array"]]
        values[field.name] = _tuples(value)
    return cls(**values)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(part) for part in value) if isinstance(value, list) else value


def tame(value: Any) -> Any:
    """Plain JSON data: numpy and torch scalars as numbers, what is not finite as None."""
    if isinstance(value, Mapping):
        return {str(key): tame(part) for key, part in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [tame(part) for part in value]
    item = getattr(value, "item", None)
    value = value if item is None else item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def pictures(report: Report, prefix: str) -> list[tuple[str, UInt8[np.ndarray, "H W 3"]]]:
    """File names and pixels of the panels that are pictures: films side by side, maps in grey from low to high."""
    found: list[tuple[str, UInt8[np.ndarray, "H W 3"]]] = []
    for index, panel in enumerate(report.panels):
        match panel:
            case Picture(pixels=pixels):
                found.append((f"{prefix}.{index}.png", pixels))
            case Film(frames=frames) if len(frames):
                rows = frames if frames.dtype == np.uint8 else _grey(frames)
                found.append((f"{prefix}.{index}.png", np.concatenate(list(rows[:64]), axis=1)))
            case Heat(values=values, low=low, high=high):
                found.append((f"{prefix}.{index}.png", _grey(values, low, high)))
            case _:
                pass
    return found


def _grey(values: np.ndarray, low: float | None = None, high: float | None = None) -> np.ndarray:
    least = float(values.min()) if low is None else low
    most = float(values.max()) if high is None else high
    shown = np.clip((values - least) / max(most - least, 1e-12), 0, 1) * 255
    return np.repeat(shown.round().astype(np.uint8)[..., None], 3, axis=-1)


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write an npz, whole or not at all."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # pyright: ignore[reportArgumentType]
    write_bytes(path, buffer.getvalue())


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an npz; none where there is no file. Never unpickles."""
    if not path.is_file():
        return {}
    with np.load(path, allow_pickle=False) as file:
        return dict(file)
