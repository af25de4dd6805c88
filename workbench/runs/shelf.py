"""What a face shows to choose from: models by name, the request inside a picture, pictures to start from."""

import json
import shutil
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from workbench.blocks.disk import whole
from workbench.blocks.pictures import open_picture, read_meta, save_png
from workbench.core.errors import AskError, WorkbenchError
from workbench.core.plan import Plan
from workbench.models import files

#: Characters of the metadata that is read from a picture; ours are a few thousand.
MOST_META = 256_000
#: Levels of 255 that a pixel may change on its way through a browser's canvas.
CLOSE = 3


def model_names(models: Path | str | None = None) -> list[str]:
    """Names that `load` knows without a network and that can draw: shipped ones first, then those in `models`."""
    try:
        listed = files.list_models(models)
    except WorkbenchError:
        listed = files.list_models()
    return list(dict.fromkeys(entry.name for entry in listed if not entry.problem and entry.family != "clip"
                              and entry.family != "judge"))  # fmt: skip


def has_default() -> bool:
    """Whether the default model is there."""
    try:
        return files.find("") is not None
    except WorkbenchError:
        return False


def plan_inside(path: Path | str) -> Plan:
    """The plan that drew a picture, from its metadata. Raises `AskError` where there is none, or none that is sound."""
    meta = read_meta(path)
    if meta is None or "plan" not in meta:
        raise AskError(
            f"{Path(path).name} holds no settings of ours. Pictures keep them as long as they stay PNG files."
        )
    text = json.dumps(meta["plan"])
    if len(text) > MOST_META:
        raise AskError(f"{Path(path).name} holds {len(text):,} characters of settings; at most {MOST_META:,} are read.")
    return Plan.from_json(text)


def facts_inside(path: Path | str) -> dict[str, Any]:
    """All that a picture of ours says of itself; {} for others."""
    meta = read_meta(path)
    return meta if meta is not None and len(str(meta)) <= 2 * MOST_META else {}


def keep_canvas(background: Path | str, layers: Iterable[Path | str], folder: Path,
                pad: int = 0) -> tuple[Path, Path | None]:  # fmt: skip
    """A picture to start from and what was painted over it, as files: (image, mask or None).

    The mask is white wherever a layer is painted, and in the border when `pad` pixels are added on every side
    (outpainting: the border repeats the picture's edge). Raises `AskError` for files that cannot be read.
    """
    pixels = open_picture(background)
    mask = np.zeros(pixels.shape[:2], np.uint8)
    for layer in layers:
        mask = np.maximum(mask, _painted(Path(layer), pixels.shape[:2]))
    if pad:
        pixels = np.pad(pixels, ((pad, pad), (pad, pad), (0, 0)), mode="edge")
        mask = np.pad(mask, pad, constant_values=255)
    image = folder / "start.png"
    save_png(image, pixels, {})
    if not mask.any():
        return image, None
    save_png(folder / "mask.png", np.repeat(mask[..., None], 3, axis=2), {})
    return image, folder / "mask.png"


def _painted(path: Path, size: tuple[int, ...]) -> UInt8[np.ndarray, "h w"]:
    open_picture(path)  # refuses what is damaged or too large
    with Image.open(path) as layer:
        alpha = layer.convert("RGBA").getchannel("A").resize((size[1], size[0]))
        return np.where(np.asarray(alpha) > 16, 255, 0).astype(np.uint8)


def alike(one: Path | str, other: Path | str) -> bool:
    """Whether two files show the same picture, each pixel to within `CLOSE` levels; False where one is gone."""
    if not (Path(one).is_file() and Path(other).is_file()):
        return False
    a, b = (open_picture(path).astype(np.int16) for path in (one, other))
    return a.shape == b.shape and bool(np.abs(a - b).max() <= CLOSE)


def throw_away(picture: Path, bin_: Path) -> Path:
    """Move a picture into a bin, under its run's name; returns where it is now."""
    kept = bin_ / picture.parent.name / picture.name
    kept.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.move(picture, kept))


def take_back(kept: Path, runs: Path) -> Path:
    """Move a picture from the bin to its run again. Raises `AskError` when its run is gone."""
    folder = runs / kept.parent.name
    if not kept.is_file() or not folder.is_dir():
        raise AskError(f"{kept.name} cannot be brought back: the picture or its run is no longer there.")
    return Path(shutil.move(kept, folder / kept.name))


def pack_zip(pictures: Iterable[Path], target: Path) -> Path:
    """The pictures, byte for byte, in one zip, named by run and picture."""
    with whole(target) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for picture in pictures:
            archive.write(picture, f"{picture.parent.name}-{picture.name}")
    return target
