"""Made scenes of the emoji world as a stage for lenses: true pictures and masks, noised and shown to the network.

A lens that records what happens in `predict` does not care whether a picture is being drawn or a true one is being
recognised; `Staged` runs it on true ones, so that what it reports can be held against true masks.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# torch's norm, unique and from_numpy carry no types

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, UInt8
from torch import Tensor

from workbench.blocks.denoise import condition, first_noise
from workbench.blocks.world import Jitter, World
from workbench.core.ask import Ask
from workbench.core.bundle import Bundle, Images
from workbench.core.errors import AskError, MissingPart
from workbench.core.patch import Patch
from workbench.core.scene import Record, Scene, using
from workbench.core.tape import Ended, Started, Step, Tap

#: Objects of 0.35 to 0.5 of the canvas: one anywhere, or two side by side at different heights.
LAYOUT = Jitter(loose=1.0, small=(0.35, 0.5), pair=(0.35, 0.5), shift=0.2)
#: Styles that fill their outline; strokes alone (ink) are finer than any map.
SOLID = ("flat", "noto", "blob", "twemoji", "3d")
CELLS = 64  # a side of the masks


@dataclass(frozen=True, eq=False)
class Made:
    """A made scene: its picture, what is said of it with and without its objects, and where they are.

    `masks` says for each object where it is visible, `kept` which places count: not its border.
    """

    picture: UInt8[Tensor, "1 3 H W"]
    caption: str
    bare: str
    objects: tuple[str, ...]
    masks: Bool[Tensor, "o 64 64"]
    kept: Bool[Tensor, "64 64"]


def made_scenes(world: World, count: int, two: bool, seed: int = 0, size: int = 128) -> tuple[Made, ...]:
    """Scenes of one object or of two, of those the shipped model was trained on, that follow from the seed alone."""
    drawings = world.scenes(
        seed, count, objects=world.tier, styles=SOLID, two=1.0 if two else 0.0, size=size, jitter=LAYOUT
    )
    made: list[Made] = []
    for drawing in drawings:
        cover = torch.stack([torch.from_numpy(np.ascontiguousarray(layer.alpha)) for layer in drawing.layers])
        cover = F.interpolate(cover[None].float(), (CELLS, CELLS), mode="area")[0]
        objects = tuple(layer.object for layer in drawing.layers)
        said = " and ".join(f"a {label}" for label in objects)
        ground = f"on a {drawing.background} background"
        picture = torch.from_numpy(np.ascontiguousarray(drawing.picture)).permute(2, 0, 1)[None]
        border = ((cover > 0.05) & (cover < 0.95)).any(0)
        made.append(
            Made(picture, f"a {drawing.style} emoji of {said} {ground}", f"a {drawing.style} emoji {ground}", objects,
                 cover > 0.5, ~border)
        )  # fmt: skip
    return tuple(made)


def world_of(bundle: Bundle) -> World:
    """The bundle's world. Raises `MissingPart` when it has none."""
    if not isinstance(bundle.world, World):
        raise MissingPart(
            f"{bundle.name} has no world of its own, so there are no true masks to measure against. Take a model of "
            "the emoji family."
        )
    return bundle.world


@dataclass(frozen=True, eq=False)
class Staged(Scene):
    """A scene whose runs show given pictures, noised to some levels (shares of the schedule), to the network.

    One call a level and no guidance, so a lens sees what the network sees of a true picture with the prompt.
    """

    pictures: Images | None = None
    levels: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8)

    @classmethod
    def of(
        cls, scene: Scene, pictures: Images, prompts: Sequence[str], levels: tuple[float, ...], seed: int
    ) -> "Staged":
        """The same model and edits with given pictures and what is said of them."""
        ask = Ask(prompts=tuple(prompts), seeds=tuple(range(seed, seed + len(pictures))))
        return cls(scene.bundle, scene.sampler, scene.edits, ask, scene.tap, pictures, levels)

    @torch.no_grad()
    def run(
        self, ask: Ask | None = None, edits: Any = None, sampler: Any = None, tap: Tap | None = None,
        record: Record | None = None,
    ) -> Images:  # fmt: skip
        """Show the pictures, and give them back as they are: uint8 [B, 3, H, W]."""
        asked, images = ask or self.ask, self.pictures
        if images is None or len(images) != len(asked):
            raise AskError(f"There are {0 if images is None else len(images)} pictures and {len(asked)} prompts.")
        with using(self.bundle, *(self.edits if edits is None else edits), record=record) as bundle:
            self._show(bundle, asked, images, tap)
        return images

    def _show(self, bundle: Bundle, ask: Ask, images: Images, tap: Tap | None) -> None:
        size = (images.shape[-1], images.shape[-2])
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in ask.seeds]
        pixels = images.to(bundle.device, bundle.dtype) / 127.5 - 1
        clean = bundle.encode(pixels).to(bundle.dtype)
        cond = condition(bundle, ask, False, size)
        scheduler = bundle.scheduler("ddim", len(self.levels))
        last = scheduler.config.num_train_timesteps - 1
        total = len(self.levels)
        bundle.tell(Started(total, ask.seeds))
        try:
            for index, level in enumerate(sorted(self.levels, reverse=True)):
                t = torch.full((len(images),), round(level * last), device=clean.device)
                x = scheduler.add_noise(clean, first_noise(bundle, generators, size), t)
                step = Step(index, total, float(t[0]), x)
                bundle.predict(x, t, replace(cond, step=step))
                for listener in (bundle.tell, self.tap, tap):
                    if listener is not None:
                        listener(step)
        finally:
            bundle.tell(Ended())


def spoil(bundle: Bundle, patch: Patch, seed: int = 0) -> None:
    """Put the entries of every weight of the network in random order: as untrained as it gets, at the same scale.

    Adebayo et al. 2018, arXiv 1810.03292: a map that survives this shows the architecture, not what was learned.
    """
    generator = torch.Generator().manual_seed(seed)
    for name in dict.fromkeys(site.part for site in bundle.all_sites):
        for module in bundle.parts[name].modules():
            for key, weight in list(module.named_parameters(recurse=False)):
                order = torch.randperm(weight.numel(), generator=generator).to(weight.device)
                mixed = weight.detach().flatten()[order].reshape(weight.shape)
                patch.put(module, key, torch.nn.Parameter(mixed, requires_grad=False))
