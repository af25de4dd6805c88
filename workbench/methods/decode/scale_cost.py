"""Cost by scale: tokens, operations, milliseconds and keys and values of every scale, and which tokens were pruned.

Paper: Tian, Jiang, Yuan, Peng and Wang 2024, "Visual Autoregressive Modeling", arXiv 2404.02905; who computes which
scale is the question of Chen, Ma, Fang and Wang 2024 (CoDe, arXiv 2411.17787), who computes which token that of Guo et
al. 2025 (FastVAR, arXiv 2503.23367).

Equations, for scale k of side p in a network of width C, depth D, V codes, for R rows:
    operations = R (D (24 C^2 p^2 + 4 C p^2 L_k) + 2 C V p^2) and little more, L_k the tokens of scales 0 to k
    keys and values = 2 R D C L_k numbers
They are not worked out from these but counted in the run itself, a multiplication and an addition being two, so a
refiner that first reads what was drafted, rows that are left out and pruned tokens are in them. Milliseconds are those
of predicting, guiding and drawing, median over runs after one that is not timed. The mask shows for each token the
share of the layers that computed it, of those that left any out, mean over the pictures' conditional rows.

Differs: nothing of the papers'; they print totals. The model's own decoding without edits is measured beside it, in
turns. Times are in the table and not among the numbers, as no two runs take the same.

There are no official numbers. Licence of the references: FoundationVision/VAR and czg1225/CoDe, MIT (read, not copied).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field

from workbench.blocks.scale_costs import PICTURE, Cost, Watch
from workbench.core.ask import Ask
from workbench.core.bundle import Images
from workbench.core.catalog import find
from workbench.core.method import Card, Edit, Lens, Sampler
from workbench.core.report import Curve, Film, Note, Panel, Report, Table
from workbench.core.scene import Scene

ALONE = "model alone"


class ScaleCost(Lens):
    """What each scale takes, and which tokens are computed."""

    card: ClassVar[Card] = Card("scale-cost", "Cost by scale", "arXiv 2411.17787", ("var",), "seconds")
    quick: ClassVar[Mapping[str, Any]] = {"repeats": 1}

    repeats: int = Field(3, ge=1, le=50, description="Timed runs of each side, in turns.")

    @torch.no_grad()
    def look(self, scene: Scene) -> Report:
        """The mask of computed tokens over each picture, and what each scale takes beside the model alone."""
        ways = [Way(scene.sampler, scene.edits, scene.ask), *own_way(scene)]
        images, *_ = [way.draw(scene, counted=True) for way in ways]
        for turn in range(self.repeats):
            for way in ways if turn % 2 else ways[::-1]:  # neither always goes first
                way.draw(scene)
        asked = ways[0].cost
        numbers = {"gflop": asked.total / 1e9, "kv_mib": asked.most / 2**20,
                   "tokens": float(sum(asked.tokens.values()))}  # fmt: skip
        if len(ways) > 1:
            alone = ways[1].cost
            numbers |= {"gflop_alone": alone.total / 1e9, "share_of_work": asked.total / max(alone.total, 1),
                        "kv_mib_alone": alone.most / 2**20}  # fmt: skip
        panels: list[Panel] = [*masks(asked, images, scene.ask.prompts), table(ways), *curves(ways)]
        if len(ways) == 1:
            panels.append(Note("This is the model's own decoding without edits, so there is nothing to compare with."))
        return Report(tuple(panels), numbers)


@dataclass
class Way:
    """A sampler with edits on a request, and what it takes."""

    sampler: Sampler
    edits: tuple[Edit, ...]
    ask: Ask
    cost: Cost = field(default_factory=Cost)

    def draw(self, scene: Scene, counted: bool = False) -> Images:
        """Draw once: counted, or timed."""
        with Watch(self.cost, scene.bundle.device, counted).counting() as watch:
            return scene.run(self.ask, self.edits, self.sampler, record=watch.attach)


def own_way(scene: Scene) -> list[Way]:
    """The model's own decoding of the request without edits; none where that is what was asked for."""
    cls: Any = find(scene.bundle.sampler)
    values = dict(scene.sampler)
    shared = {name: values[name] for name in cls.model_fields if name in values}
    sampler = cls(**shared)
    if sampler == scene.sampler and not scene.edits:
        return []
    return [Way(sampler, (), scene.ask.but(image=None, mask=None, size=None))]


def masks(cost: Cost, images: Images, prompts: Sequence[str]) -> list[Film]:
    """For each picture a frame a scale: the share of layers that computed each token, 1 where none was left out."""
    if not cost.kept:
        return []
    finest = cost.grids[-1]
    frames = [
        F.interpolate(cost.kept.get(k, torch.ones(len(images), *grid))[:, None], size=finest, mode="nearest")[:, 0]
        for k, grid in enumerate(cost.grids)
    ]
    labels = tuple(
        f"scale {k + 1}, {h}x{w}: {100 * cost.kept[k].mean():.0f} % computed" if k in cost.kept else
        f"scale {k + 1}, {h}x{w}: all" for k, (h, w) in enumerate(cost.grids)
    )  # fmt: skip
    under = images.permute(0, 2, 3, 1).cpu().numpy()
    return [
        Film(torch.stack([frame[row] for frame in frames]).numpy(), labels, f"{prompt}: tokens computed",
             np.ascontiguousarray(under[row])) for row, prompt in enumerate(prompts)
    ]  # fmt: skip


def table(ways: Sequence[Way]) -> Table:
    """A line a scale, one for the picture decoder and one for all; then the same of the model alone."""
    names = ("GFLOP", "milliseconds", "keys and values (MiB)")
    columns = (
        "scale",
        "grid",
        "tokens, all rows",
        "kept",
        *names,
        *(f"{name}, {ALONE}" for _ in ways[1:] for name in names),
    )
    asked = ways[0].cost
    grids = list(asked.grids)
    rows: list[tuple[str | int | float, ...]] = []
    for k, (h, w) in enumerate(grids):
        kept = f"{100 * asked.kept[k].mean():.0f} %" if k in asked.kept else "all"
        rows.append((str(k + 1), f"{h}x{w}", asked.tokens[k], kept, *_line(ways, [k])))
    rows.append(("picture", "", "", "", *_line(ways, [PICTURE])))
    rows.append(("together", "", sum(asked.tokens.values()), "", *_line(ways, [*range(len(grids)), PICTURE])))
    return Table(columns, tuple(rows), "What each scale takes")


def _line(ways: Sequence[Way], of: Sequence[int]) -> list[float | str]:
    """Operations, milliseconds and bytes of some scales, of every way."""
    found: list[float | str] = []
    for way in ways:
        cost = way.cost
        held = [cost.held[k] / 2**20 for k in of if k in cost.held]
        found += [round(sum(cost.work[k] for k in of) / 1e9, 6), round(sum(map(cost.milliseconds, of)), 3),
                  round(max(held), 4) if held else ""]  # fmt: skip
    return found


def curves(ways: Sequence[Way]) -> list[Curve]:
    """Operations, time, and keys and values by scale, a line a way."""
    scales = range(len(ways[0].cost.grids))
    names = ("as asked", ALONE)[: len(ways)]
    x = np.array([k + 1.0 for k in scales])
    made: list[Curve] = []
    for title, unit, value in (
        ("Operations", "GFLOP", lambda cost, k: cost.work[k] / 1e9),
        ("Time", "ms", lambda cost, k: cost.milliseconds(k)),
        ("Keys and values", "MiB", lambda cost, k: cost.held[k] / 2**20),
    ):
        ys = np.array([[value(way.cost, k) for k in scales] for way in ways], dtype=np.float64)
        made.append(Curve(x, ys, names, f"{title} by scale", ("scale", unit)))
    return made
