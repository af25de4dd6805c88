"""Pictures in and out: size checked before decoding, written whole, with the request that made them inside."""

import io
import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError

from workbench.blocks.disk import write_bytes
from workbench.core.errors import AskError

MOST_PIXELS = 64_000_000
CHUNK = "workbench"
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")


def open_picture(path: Path | str, mode: Literal["RGB", "L"] = "RGB") -> UInt8[np.ndarray, "H W *C"]:
    """A picture file as uint8 [H, W, 3] (`RGB`, over white) or [H, W] (`L`, over black), turned as its EXIF says.

    Raises `AskError` when it is missing, damaged or of another format, and, before decoding anything, when it has
    more than 64 megapixels.
    """
    path = Path(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is lower, and an error
            image = Image.open(path, formats=_FORMATS)
        with image:
            _refuse_large(path, *image.size)
            return np.array(_flat(ImageOps.exif_transpose(image), mode))
    except FileNotFoundError:
        raise AskError(f"There is no picture {path}. Give the path of a PNG, JPEG or WebP file.") from None
    except IsADirectoryError:
        raise AskError(f"{path} is a folder. Give the path of a PNG, JPEG or WebP file.") from None
    except Image.DecompressionBombError as error:  # Pillow's own limit, which an app may have lowered, comes first
        count = re.search(r"\((\d+) pixels", str(error))
        size = f"{int(count[1]) / 1e6:.0f} megapixels" if count else "too many pixels"
        raise AskError(f"{path.name} is {size}; at most {MOST_PIXELS / 1e6:.0f} are read. Make it smaller.") from None
    except UnidentifiedImageError:
        raise AskError(f"{path.name} is not a picture that can be read. Possible: {', '.join(_FORMATS)}.") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        if isinstance(error, AskError):
            raise
        raise AskError(f"{path.name} cannot be read as a picture ({error}). Save it again as PNG.") from None


def _refuse_large(path: Path, width: int, height: int) -> None:
    if width * height > MOST_PIXELS:
        raise AskError(
            f"{path.name} is {width}x{height}, {width * height / 1e6:.0f} megapixels; at most "
            f"{MOST_PIXELS / 1e6:.0f} are read. Make it smaller."
        )


def _flat(image: Image.Image, mode: str) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey: PIL would clip it
        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8), "L")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, "white" if mode == "RGB" else "black")
        image = Image.alpha_composite(ground, image)
    return image.convert(mode)


def save_png(path: Path, pixels: UInt8[np.ndarray, "H W 3"], meta: Mapping[str, Any]) -> None:
    """Write a PNG whole or not at all, with `meta` as JSON in a `workbench` text chunk.

    Where `meta` holds a plan, the same is also said in the plain `parameters` text that other programs read.
    Raises `ResourceError` when the disk is full.
    """
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text(CHUNK, json.dumps(dict(meta)))
    if "plan" in meta:
        chunks.add_text("parameters", parameters(meta))
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG", pnginfo=chunks)
    write_bytes(path, buffer.getvalue())


def read_meta(path: Path | str) -> dict[str, Any] | None:
    """What `save_png` wrote into a picture; None for pictures that are not ours."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path, formats=("PNG",))
        with image:
            meta = json.loads(image.info.get(CHUNK, "null"))
    except (OSError, SyntaxError, ValueError, TypeError, RecursionError, Image.DecompressionBombError):
        return None
    return meta if isinstance(meta, dict) else None  # pyright: ignore[reportUnknownVariableType]


def parameters(meta: Mapping[str, Any]) -> str:
    """Prompt, negative prompt and a line of `Key: value` pairs, as web interfaces read them from a PNG."""
    plan: Mapping[str, Any] = meta["plan"]
    ask: Mapping[str, Any] = plan["ask"]
    sampler: Mapping[str, Any] = plan.get("sampler") or {}
    model: Mapping[str, Any] = meta.get("model") or {}
    size = meta.get("size") or ask.get("size")
    pairs = {
        "Steps": sampler.get("steps"), "Sampler": sampler.get("scheduler") or sampler.get("method"),
        "CFG scale": sampler.get("guidance"), "Seed": ask["seeds"][0], "Size": f"{size[0]}x{size[1]}" if size else None,
        "Model": model.get("name"), "Model hash": str(model.get("digest") or "")[:10] or None,
        "Edits": "+".join(edit["method"] for edit in plan.get("edits") or ()) or None,
        "Version": f"workbench {meta['version']}" if meta.get("version") else None}  # fmt: skip
    lines = [ask["prompts"][0]]
    if ask["negatives"][0]:
        lines.append(f"Negative prompt: {ask['negatives'][0]}")
    lines.append(", ".join(f"{key}: {_quoted(value)}" for key, value in pairs.items() if value is not None))
    return "\n".join(lines)


def _quoted(value: object) -> str:
    text = str(value)
    return json.dumps(text) if any(mark in text for mark in ",:\n") else text
