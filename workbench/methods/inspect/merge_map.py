"""Merge map: which tokens were merged, over the picture, layer by layer and step by step.

Paper: the picture of Bolya and Hoffman 2023, "Token Merging for Fast Stable Diffusion", arXiv 2303.17604,
for every edit that merges tokens.

Equations: for a layer's plan with places p, every token is drawn in the mean colour of the tokens of its place in the
finished picture; merged(i) = the share of layers and steps in which token i shared its place.

Differs: read from the attention that was really computed, so it needs to know no merging method; of methods that thin
keys alone it shows the cells that share one. There are no official numbers.

Licence of the reference: dbolya/tomesd, MIT (its README's figures; no code).
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from workbench.blocks.merging import merge_sites, picture_places, shares_left, site_grid
from workbench.blocks.recorder import Look, Recorder, evenly
from workbench.core.bundle import Bundle, Site
from workbench.core.method import Card, Lens
from workbench.core.report import Film, Heat, Note, Panel, Report, Table
from workbench.core.scene import Scene


class MergeMap(Lens):
    """Tokens that share a place share a colour."""

    card: ClassVar[Card] = Card("merge-map", "Merge map", "arXiv 2303.17604", ("unet", "dit", "mmdit"), "seconds")
    quick: ClassVar[Mapping[str, Any]] = {"moments": 1}

    layers: int = Field(6, ge=1, le=32, description="How many layers to show, evenly over the network.")
    moments: int = Field(3, ge=1, le=20, description="How many steps to show, evenly over the run.")
    level: int | None = Field(None, ge=0, le=8, description="Halvings up to which to look; none is the finest level.")

    def look(self, scene: Scene) -> Report:
        """A film of each picture with its tokens merged, where they merge most, and a line a layer."""
        bundle = scene.bundle
        every = merge_sites(bundle, self.level)
        sites = [every[i] for i in sorted(evenly(len(every), self.layers))]
        recorder = Recorder(steps=lambda step: step.index in evenly(step.total, self.moments))
        recorder.attention(sites, "place", self._places(bundle))
        images = scene.run(record=recorder.attach)
        latent = (images.shape[-2] // bundle.shapes.factor, images.shape[-1] // bundle.shapes.factor)
        found = {site: recorder.taken("place", site) for site in sites}  # [times, B, N]
        grids = {site: site_grid(bundle, site, latent) for site in sites}
        panels: list[Panel] = []
        for row, (prompt, image) in enumerate(zip(scene.ask.prompts, images.cpu(), strict=True)):
            frames, labels = [image.permute(1, 2, 0).numpy()], ["picture"]
            for site, places in found.items():
                for index, time in enumerate(recorder.times[: len(places)]):
                    frames.append(mosaic(image, places[index, row], grids[site]))
                    labels.append(f"step {time + 1}, {site.path}")
            panels.append(Film(np.stack(frames), tuple(labels), f"Tokens merged: {prompt}"))
            panels.append(self._often(found, grids, row, np.ascontiguousarray(frames[0])))
        rows = tuple(_line(site, places) for site, places in found.items())
        columns = ("layer", "tokens", "places", "largest", "share merged")
        panels.append(Table(columns, rows, "Means over steps and pictures"))
        merged = float(np.mean([row[-1] for row in rows]))
        if not merged:
            panels.append(Note("No edit in force merges tokens at this level. Add tome, todo or atc to the stack."))
        return Report(tuple(panels), {"merged": merged, "largest": float(max(row[3] for row in rows))})

    def _places(self, bundle: Bundle) -> Any:
        def places(look: Look) -> Tensor:
            height, width = site_grid(bundle, look.site, look.size)
            return picture_places(look, height * width)

        return places

    def _often(self, found: dict[Site, Tensor], grids: dict[Site, tuple[int, int]], row: int, under: Any) -> Heat:
        """How often each token of the finest grid shared its place."""
        finest = max(grids.values())
        shared: list[Tensor] = []
        for site, places in found.items():
            share = (shares_left(places[:, row]) < 1).float().mean(0).reshape(1, 1, *grids[site])
            shared.append(F.interpolate(share, size=finest, mode="nearest")[0, 0])
        title = "How often each token was merged"
        return Heat(torch.stack(shared).mean(0).numpy(), title, "share of layers and steps", 0.0, 1.0, over=under)


def mosaic(image: Tensor, place: Tensor, grid: tuple[int, int]) -> np.ndarray:
    """A picture [3, H, W] in which the tokens of a grid show the mean colour of their place: uint8 [H, W, 3]."""
    height, width = image.shape[-2:]
    cells = F.adaptive_avg_pool2d(image.float()[None], grid)[0].flatten(1)  # [3, N]
    count = int(place.max()) + 1
    sums = torch.zeros(3, count).index_add(1, place, cells)
    sizes = torch.zeros(count).index_add(0, place, torch.ones(len(place)))
    colours = (sums / sizes.clamp_min(1))[:, place].reshape(1, 3, *grid)
    shown = F.interpolate(colours, size=(height, width), mode="nearest")[0]
    return shown.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()


def _line(site: Site, places: Tensor) -> tuple[str, int, float, int, float]:
    flat = places.flatten(0, 1)
    left = shares_left(flat)
    counts = [len(row.unique()) for row in flat]
    return (site.name, flat.shape[1], round(float(np.mean(counts)), 1), int((1 / left).max().round()),
            round(float((left < 1).float().mean()), 4))  # fmt: skip
