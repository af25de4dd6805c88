"""Pictures of one concept to learn from: latents, and where in each the concept is."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# torch.from_numpy carries no types

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from workbench.blocks.concepts import manner
from workbench.blocks.wording import parse
from workbench.blocks.world import World
from workbench.core.ask import Ask
from workbench.core.bundle import Bundle, Images
from workbench.core.catalog import method
from workbench.core.tape import Tap


@dataclass(frozen=True, eq=False)
class Closeups:
    """Clean latents [n, C, h, w] and the concept's share of each cell [n, 1, H, W] in 0..1 (all 1 where unknown)."""

    latents: Float[Tensor, "n C h w"]
    masks: Float[Tensor, "n 1 H W"]

    def inside(self, row: int, size: tuple[int, int]) -> Tensor:
        """Which places of a grid (height, width), row by row, the concept fills by half; all where it fills none."""
        found = F.interpolate(self.masks[row : row + 1], size=size, mode="area").flatten() >= 0.5
        return found if bool(found.any()) else torch.ones_like(found)


@torch.no_grad()
def closeups(bundle: Bundle, concept: str, prompts: Sequence[str], count: int, seed: int, tap: Tap) -> Closeups:
    """`count` pictures of a concept: true drawings with masks where the model's world has it, else the model's own.

    The model draws its own from `prompts` in turn, with the method it draws with by default, and says nothing of where
    the concept is.
    """
    _, height, width = bundle.shapes.image
    drawn = _drawings(bundle, concept, count, seed, height)
    if drawn is None:
        ask = Ask(prompts=[prompts[i % len(prompts)] for i in range(count)], seeds=list(range(seed, seed + count)))
        sampler: Any = method(bundle.sampler)
        images, masks = sampler.sample(bundle, ask, tap), torch.ones(count, 1, 1, 1)
    else:
        images, masks = drawn
    pixels = images.to(bundle.device, bundle.dtype) / 127.5 - 1
    if tuple(pixels.shape[-2:]) != (height, width):
        pixels = F.interpolate(pixels, size=(height, width), mode="bilinear", antialias=True)
    generators = [torch.Generator().manual_seed(seed + i) for i in range(count)]
    return Closeups(bundle.encode(pixels, generators), masks.to(bundle.device))


def _drawings(bundle: Bundle, concept: str, count: int, seed: int, size: int) -> tuple[Images, Tensor] | None:
    """True scenes of the concept, and its mask in each; None where there is no world or the world has no such thing."""
    world = bundle.world
    if not isinstance(world, World):
        return None
    kind, word = manner(bundle, concept), concept.strip().lower().removesuffix(" style")
    named = parse(world, concept).objects
    if kind == "object" and not named:
        return None
    wanted: dict[str, Any] = {"style": {"styles": [word]}, "background": {"backgrounds": [word]}}.get(kind, {})
    wanted |= {} if kind != "object" else {"objects": sorted(named[0])}
    scenes = world.scenes(seed, count, two=0.0, size=size, held_out=True, **wanted)
    images = torch.from_numpy(np.stack([scene.picture for scene in scenes])).permute(0, 3, 1, 2).contiguous()
    covers = torch.from_numpy(np.stack([scene.layers[0].alpha for scene in scenes]))[:, None]
    covers = covers if kind == "object" else torch.ones_like(covers)
    return images, covers.float()
