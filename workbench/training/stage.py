"""Compose scenes of the emoji world on a device: every sprite lies there once, and plans become pictures in one pass.

`World.draw` scales a sprite with a triangle filter, puts it at whole pixels and lays it over the ground, in bytes. The
same filter is two small matrices a sprite, one for rows and one for columns, so a batch of scenes is two batched matrix
products over premultiplied colour. The only difference left is that no byte is rounded on the way: pictures differ from
`World.draw` by at most `TOLERANCE` levels of 255, coverages by at most `TOLERANCE` / 255.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from workbench.blocks.drawing import Sheet
from workbench.blocks.world import BASE, Plan, World

TOLERANCE = 3
PIECE = 100


class Codes(NamedTuple):
    """Plans as numbers: objects [B, 2] (-1 where there is none), styles and grounds [B], boxes [B, 2, 3] in pixels.

    A box is left, top, side; a side of 0 draws nothing.
    """

    objects: Tensor
    styles: Tensor
    grounds: Tensor
    boxes: Tensor

    def to(self, device: torch.device | str) -> Codes:
        """Move to a device."""
        return Codes(*(part.to(device, non_blocking=True) for part in self))


def coded(world: World, plans: Sequence[Plan], size: int = BASE) -> Codes:
    """Turn plans of one or two objects into numbers, boxes rounded as `World.draw` rounds them."""
    order, grounds = {label: i for i, label in enumerate(world.concepts)}, list(world.backgrounds)
    objects, boxes = np.full((len(plans), 2), -1), np.zeros((len(plans), 2, 3), np.int64)
    for row, plan in enumerate(plans):
        objects[row, : len(plan.objects)] = [order[label] for label in plan.objects]
        # Python's rounding, in double precision: a half goes to the even pixel
        boxes[row, : len(plan.objects)] = np.rint(np.array(plan.frames) * size)
    boxes[..., 2] = np.where(objects >= 0, np.maximum(boxes[..., 2], 1), 0)
    styles = torch.tensor([world.styles.index(p.style) for p in plans])
    numbers = torch.tensor([grounds.index(p.background) for p in plans])
    return Codes(torch.from_numpy(objects), styles, numbers, torch.from_numpy(boxes))


def sprites(folder: Path, style: str, names: Sequence[str]) -> NDArray[np.uint8]:
    """Rasterise drawings of one style: premultiplied RGBA [N, 4, 128, 128]."""
    sheet = Sheet(style, folder)
    rows = [np.asarray(Image.fromarray(sheet.sprite(name, BASE)).convert("RGBa")) for name in names]
    return np.ascontiguousarray(np.stack(rows).transpose(0, 3, 1, 2))


def spread(start: Tensor, side: Tensor, size: int, base: int = BASE) -> Tensor:
    """Return the triangle filter [..., size, base] that scales `base` samples to `side` pixels put at `start` [...]."""
    pixel = torch.arange(size, device=start.device, dtype=torch.float32) - start[..., None]
    inside = (pixel >= 0) & (pixel < side[..., None])
    scale = base / side.clamp(min=1).float()[..., None]
    centre = (pixel + 0.5) * scale
    sample = torch.arange(base, device=start.device, dtype=torch.float32) + 0.5
    distance = (sample - centre[..., None]).abs() / scale.clamp(min=1)[..., None]
    weight = (1 - distance).clamp(min=0) * inside[..., None]
    return weight / weight.sum(-1, keepdim=True).clamp(min=1e-6)


class Stage:
    """All sprites of a world, premultiplied uint8 [objects, styles, 4, 128, 128], and its grounds, on one device."""

    def __init__(self, world: World, device: torch.device | str = "cpu", workers: int = 0) -> None:
        """Rasterise everything, in `workers` processes where there are any: 338 MB for the whole world."""
        names = [thing.name for thing in world.objects]
        parts = [names[first : first + PIECE] for first in range(0, len(names), PIECE)]
        jobs = [(world.folder, style, part) for style in world.styles for part in parts]
        if workers:
            with ProcessPoolExecutor(workers) as pool:
                made = list(pool.map(sprites, *zip(*jobs, strict=True)))
        else:
            made = [sprites(*job) for job in jobs]
        flat = torch.from_numpy(np.concatenate(made)).to(device)
        self.sprites = flat.view(len(world.styles), len(names), 4, BASE, BASE).transpose(0, 1)
        self.grounds = torch.tensor(list(world.backgrounds.values()), device=device, dtype=torch.float32)
        self.ink = world.styles.index("ink")
        self.black = list(world.backgrounds).index("black")

    @torch.no_grad()
    def compose(self, codes: Codes, size: int = BASE) -> tuple[Tensor, Tensor]:
        """Draw plans: pictures [B, 3, size, size] in -1..1, channels last, and visible coverages [B, 2, size, size]."""
        chosen = self.sprites[codes.objects.clamp(min=0), codes.styles[:, None]].float() / 255
        left, top, side = codes.boxes.unbind(-1)
        down, across = spread(top, side, size), spread(left, side, size)
        layers = down[:, :, None] @ chosen @ across[:, :, None].transpose(-1, -2)
        colour, alpha = layers[:, :, :3], layers[:, :, 3:]
        # black ink on black would be nothing
        night = ((codes.styles == self.ink) & (codes.grounds == self.black))[:, None, None, None, None]
        colour = torch.where(night, alpha - colour, colour)
        first, second = alpha[:, 0], alpha[:, 1]
        ground = self.grounds[codes.grounds][:, :, None, None] / 255
        picture = (ground * (1 - first) + colour[:, 0]) * (1 - second) + colour[:, 1]
        covers = torch.cat([first * (1 - second), second], 1)
        return (2 * picture - 1).contiguous(memory_format=torch.channels_last), covers
