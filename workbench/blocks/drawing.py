"""Rasterise the emoji world's drawings and lay them over a background, with exact coverage."""

from __future__ import annotations

import io
import json
import lzma
import zipfile
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Sheet:
    """One style's drawings: SVG bodies in `<style>.json.xz`, or WebP pictures in `3d.zip`."""

    style: str
    folder: Path
    _drawn: dict[tuple[str, int], Pixels] = field(
        default_factory=dict[tuple[str, int], Pixels], repr=False, compare=False
    )

    @cached_property
    def _icons(self) -> dict[str, Any]:
        return json.loads(lzma.decompress((self.folder / f"{self.style}.json.xz").read_bytes()))

    @cached_property
    def _pictures(self) -> dict[str, bytes]:
        with zipfile.ZipFile(self.folder / "3d.zip") as packed:
            return {name.removesuffix(".webp"): packed.read(name) for name in packed.namelist()}

    def sprite(self, name: str, size: int) -> Pixels:
        """Return the drawing as read-only uint8 RGBA [size, size, 4], straight alpha; kept in memory."""
        if (name, size) not in self._drawn:
            picture = self._solid(name, size) if self.style == "3d" else self._vector(name, size)
            picture.setflags(write=False)
            self._drawn[name, size] = picture
        return self._drawn[name, size]

    def _vector(self, name: str, size: int) -> Pixels:
        import resvg_py

        icon, data = self._icons["icons"][name], self._icons
        width, height = icon.get("width", data["width"]), icon.get("height", data["height"])
        left, top = icon.get("left", 0), icon.get("top", 0)
        side = max(width, height)
        # a drawing that is not square is centred on one: every sprite shares one frame
        box = f"{left - (side - width) / 2:g} {top - (side - height) / 2:g} {side:g} {side:g}"
        body = icon["body"].replace("currentColor", "#000")
        svg = f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{box}" '
        png = resvg_py.svg_to_bytes(
            svg_string=f'{svg}width="{size}" height="{size}">{body}</svg>',
            width=size,
            height=size,
            skip_system_fonts=True,
        )
        with Image.open(io.BytesIO(bytes(png))) as picture:
            return np.array(picture.convert("RGBA"))

    def _solid(self, name: str, size: int) -> Pixels:
        with Image.open(io.BytesIO(self._pictures[name])) as picture:
            return resize(np.array(picture.convert("RGBA")), size)


def resize(sprite: Pixels, size: int) -> Pixels:
    """Scale straight-alpha RGBA [S, S, 4] to [size, size, 4] without dark seams (in premultiplied colour)."""
    if sprite.shape[0] == size:
        return sprite
    small = Image.fromarray(sprite).convert("RGBa").resize((size, size), Image.Resampling.BILINEAR)
    return np.array(small.convert("RGBA"))


def place(sprite: Pixels, size: int, left: int, top: int) -> Pixels:
    """Put a sprite on an empty canvas RGBA [size, size, 4]; what hangs over the edge is cut."""
    canvas = np.zeros((size, size, 4), np.uint8)
    side = sprite.shape[0]
    y0, x0, y1, x1 = max(top, 0), max(left, 0), min(top + side, size), min(left + side, size)
    if y1 > y0 and x1 > x0:
        canvas[y0:y1, x0:x1] = sprite[y0 - top : y1 - top, x0 - left : x1 - left]
    return canvas


def compose(layers: list[Pixels], ground: tuple[int, int, int]) -> tuple[Pixels, list[NDArray[np.float32]]]:
    """Lay layers RGBA [H, W, 4] over a colour, later on top: RGB [H, W, 3] and each visible coverage [H, W]."""
    height, width = layers[0].shape[:2]
    picture = np.empty((height, width, 3), np.float32)
    picture[:] = ground
    covers: list[NDArray[np.float32]] = []
    for layer in layers:
        alpha = layer[..., 3].astype(np.float32) / 255
        picture += alpha[..., None] * (layer[..., :3] - picture)
        covers = [(cover * (1 - alpha)).astype(np.float32) for cover in covers] + [alpha]
    return np.rint(picture).astype(np.uint8), covers


def bounds(alpha: NDArray[np.float32], floor: float = 0.1) -> tuple[int, int, int, int]:
    """Return the tight box (x0, y0, x1, y1), ends excluded, of what is covered; zeros when nothing is."""
    rows, columns = np.flatnonzero((alpha > floor).any(1)), np.flatnonzero((alpha > floor).any(0))
    if not len(rows):
        return (0, 0, 0, 0)
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
