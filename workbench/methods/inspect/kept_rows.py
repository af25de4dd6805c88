"""Kept rows: does a criterion keep tokens for what they show, or for where they stand?

Paper: none of its own; the check that papers on token reduction leave out (positional bias of the choice), after the
tile-wise destinations of Bolya and Hoffman 2023, "Token Merging for Fast Stable Diffusion", arXiv 2303.17604.

Equations: kept(i) = mean over pictures, steps and layers of 1 / |place of token i|: 1 for a token that always stayed
alone. With rows R of the grid and m the mean of kept, row bias = std_R(mean of kept over R) / m, likewise columns;
comb = (mean of kept over tokens with even row and column) / m - 1, away from 0 where the place in a 2x2 tile matters;
lean = (mean of the lower half - mean of the upper half) / m.

Differs: nothing to differ from. There are no official numbers. Licence: there is no reference code. Objects stand in
the middle of most pictures, so compare with another criterion on the same prompts rather than with 0.
"""

from typing import ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from workbench.blocks.merging import merge_sites, picture_places, shares_left, site_grid
from workbench.blocks.recorder import Look, Recorder, Sums
from workbench.core.method import Card, Lens
from workbench.core.report import Curve, Heat, Note, Panel, Report
from workbench.core.scene import Scene


class KeptRows(Lens):
    """Where on the grid tokens stay themselves, over pictures, steps and layers."""

    card: ClassVar[Card] = Card("kept-rows", "Kept rows", "arXiv 2303.17604", ("unet", "dit", "mmdit"), "seconds")

    level: int | None = Field(None, ge=0, le=8, description="Halvings at which to look; none is the finest level.")

    def look(self, scene: Scene) -> Report:
        """A map of how much is kept where, its rows and columns, and numbers of their bias."""
        bundle = scene.bundle
        sites = merge_sites(bundle, self.level)
        sites = tuple(site for site in sites if site.level == sites[0].level)
        grids: set[tuple[int, int]] = set()

        def kept(look: Look) -> Tensor:
            grids.add(site_grid(bundle, look.site, look.size))
            height, width = next(iter(grids))
            return shares_left(picture_places(look, height * width)).mean(0)

        recorder = Recorder(tape=Sums())
        recorder.attention(sites, "kept", kept)
        scene.run(record=recorder.attach)
        grid = next(iter(grids))
        values = torch.stack([recorder.taken("kept", site) for site in sites]).mean(0).reshape(grid).double()
        mean = float(values.mean())
        numbers = {
            "kept": mean, "row_bias": float(values.mean(1).std(correction=0)) / mean,
            "column_bias": float(values.mean(0).std(correction=0)) / mean,
            "comb": float(values[::2, ::2].mean()) / mean - 1,
            "lean": float(values[-(grid[0] // 2) :].mean() - values[: max(grid[0] // 2, 1)].mean()) / mean}  # fmt: skip
        panels: list[Panel] = [
            Heat(values.float().numpy(), "How much of each token is kept", "1 / tokens a place", 0.0, 1.0)
        ]
        for name, line in (("row", values.mean(1)), ("column", values.mean(0))):
            x = np.arange(len(line), dtype=np.float32)
            panels.append(Curve(x, line.float()[None].numpy(), ("kept",), f"By {name}", (name, "share kept")))
        if mean == 1.0:
            panels.append(Note("No edit in force merges tokens at this level, so all of them are kept."))
        return Report(tuple(panels), numbers)
