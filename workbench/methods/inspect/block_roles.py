"""Block roles: does a block work on the object or on what is around it?

Paper: "Model Reveals What to Cache: Profiling-Based Feature Reuse for Video Diffusion Models" (ProfilingDiT) 2025,
arXiv 2504.03140, which sorts blocks into those that lean to the foreground and those that lean to the background.

Equation, ours: with dh = block output - block input at each place and M the object's places,
    rho_b = mean over M of |dh| / mean outside M of |dh|           above 1 leans to the object, below 1 away from it
averaged over the chosen steps. M is where the word's cross-attention map (token-maps' mean) passes 0.4 of its range,
or the true mask when `made` scenes are looked at instead of a picture.

Differs: the paper's own definition is not public (its profiling code is not in its repository), so this one is ours;
blocks are those of the network as it stands, transformer blocks alone.

There are no official numbers. Licence of the reference: Apache-2.0 (README only).
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from workbench.blocks.denoise import picture_size
from workbench.blocks.made import Staged, made_scenes, world_of
from workbench.blocks.recorder import Recorder, Sums
from workbench.blocks.wordmaps import averaging, cross_sites, follow, gather, word_maps
from workbench.core.bundle import Site
from workbench.core.errors import AskError
from workbench.core.fields import Role
from workbench.core.method import Card, Lens
from workbench.core.report import Curve, Heat, Report, Table
from workbench.core.scene import Scene
from workbench.ops.attention import grid, resize, spread
from workbench.ops.stats import bootstrap

THRESHOLD = 0.4


class BlockRoles(Lens):
    """How much more each block moves the object than the rest."""

    card: ClassVar[Card] = Card("block-roles", "Block roles", "arXiv 2504.03140", ("unet",), "seconds")
    quick: ClassVar[Mapping[str, Any]] = {"word": ""}

    word: Annotated[str, Role("word")] = Field(
        "", description="The word of the prompt whose object counts; empty takes the last that names something."
    )
    made: int = Field(0, ge=0, le=200, description="So many made scenes with true masks, instead of the picture.")

    def look(self, scene: Scene) -> Report:
        """The leaning of each block, the mask it was measured with, and how many lean to the object."""
        sites = scene.bundle.sites("block")
        if not sites:
            raise AskError(f"{scene.bundle.name} has no blocks to look at.")
        ratios, panels = self._on_made(scene, sites) if self.made else self._on_drawn(scene, sites)
        means = ratios.mean(0)  # [sites]
        ends = [bootstrap(column) if len(ratios) > 1 else (float(column[0]),) * 2 for column in ratios.T]
        rows = tuple((site.name, site.level, round(float(mean), 4), round(low, 4), round(high, 4))
                     for site, mean, (low, high) in zip(sites, means, ends, strict=True))  # fmt: skip
        table = Table(("block", "level", "object over rest", "low", "high"), rows, "Leaning: above 1 to the object")
        order = np.arange(1.0, len(sites) + 1)
        units = ("block, in the order of the forward pass", "ratio")
        curve = Curve(order, means[None].numpy(), ("object over rest",), "Leaning of each block", units)
        numbers = {"leaning_to_object": float((means > 1).float().mean()), "mean_ratio": float(means.mean())}
        return Report((*panels, curve, table), numbers)

    def _on_drawn(self, scene: Scene, sites: tuple[Site, ...]) -> tuple[Tensor, list[Heat]]:
        bundle, prompts = scene.bundle, scene.ask.prompts
        crosses = cross_sites(bundle)
        found = [follow(bundle, prompt, (self.word,) if self.word else ()) for prompt in prompts]
        last = [dict(list(words.items())[-1:]) for words in found]
        recorder = Recorder(tape=Sums(256 << 20))
        recorder.attention(crosses, "maps", word_maps(averaging(bundle, prompts, last)))
        recorder.changes(sites, "moved")
        images = scene.run(record=recorder.attach)
        width, height = picture_size(bundle, scene.ask)
        size = (height // bundle.shapes.factor, width // bundle.shapes.factor)
        maps = spread(gather([recorder.taken("maps", site) for site in crosses], size)[..., 0])
        masks = (maps > THRESHOLD).float()
        panels = [
            Heat(mask.numpy(), f"Where {next(iter(words))} is taken to be", "", 0.0, 1.0,
                 over=np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy()))
            for mask, words, image in zip(masks, last, images, strict=True)
        ]  # fmt: skip
        return self._ratios(recorder, sites, masks, size), panels

    def _on_made(self, scene: Scene, sites: tuple[Site, ...]) -> tuple[Tensor, list[Heat]]:
        world, side = world_of(scene.bundle), min(scene.bundle.shapes.image[1:])
        cells = side // scene.bundle.shapes.factor
        rows: list[Tensor] = []
        for index, made in enumerate(made_scenes(world, self.made, False, 0, side)):
            recorder = Recorder(tape=Sums(256 << 20))
            recorder.changes(sites, "moved")
            Staged.of(scene, made.picture, [made.caption], (0.2, 0.4, 0.6, 0.8), index).run(record=recorder.attach)
            rows.append(self._ratios(recorder, sites, made.masks[:1].float(), (cells, cells)))
        return torch.cat(rows), []

    def _ratios(self, recorder: Recorder, sites: tuple[Site, ...], masks: Tensor, size: tuple[int, int]) -> Tensor:
        """Mean movement inside over outside the mask, a row an image and a column a site."""
        columns = [ratio(recorder.taken("moved", site), _on_grid(masks, recorder.taken("moved", site), size))
                   for site in sites]  # fmt: skip
        return torch.stack(columns, 1)


def ratio(moved: Tensor, inside: Tensor) -> Tensor:
    """Mean of `moved` [B, N] weighted by `inside` [B, N] over that weighted by the rest; 1 where either is empty."""
    object_, rest = ((moved * part).sum(1) / part.sum(1).clamp_min(1e-6) for part in (inside, 1 - inside))
    both = (inside.sum(1) > 0) & ((1 - inside).sum(1) > 0)
    return torch.where(both, object_ / rest.clamp_min(1e-12), 1.0)


def _on_grid(masks: Tensor, moved: Tensor, size: tuple[int, int]) -> Tensor:
    """Each place's share of the mask, for the places of `moved` [B, N]."""
    cells = grid(moved.shape[1], size)
    fine = masks if masks.shape[-2] >= cells[0] else resize(masks, cells)
    return F.adaptive_avg_pool2d(fine[:, None], cells).flatten(1)
