"""Inspect report: maps of words measured against the true masks of made scenes.

Papers: the measures are the pointing game of Zhang et al. 2016, arXiv 1608.00507, average precision over pixels,
energy in the mask of Wang et al. 2020, arXiv 1910.01279, and intersection over union; the control by spoilt weights
is Adebayo et al. 2018, arXiv 1810.03292.

Protocol: a scene is drawn (an object of 0.35 to 0.5 of the canvas, anywhere; or two side by side), encoded, noised to
each level, and shown to the network once with its caption. A lens that follows words is run on it; its map of the
object's word is resized (bilinear) to 64 x 64 and compared with where the object is visible, leaving out its border.

Equations:
    AP = sum over thresholds of (R - R before) P,   pointing = peak in the mask or a cell beside it,
    energy = share of the mass in the mask,   IoU at 0.4 of the map's range and at the best threshold;
    binding[i, j] = energy of word i in object j; a scene is bound when each word's own object has most of it.
Means over scenes with percentile bootstrap intervals, Wilson's for shares.

Floors, which know nothing of the word: a centred Gaussian (deviation a quarter), the whole image, noise, the first
lens with the caption of another scene, and with the entries of every weight put in random order.

Differs: the pointing game allows a cell of 64 instead of 15 pixels. A model that never learnt to tell two objects apart
cannot bind: where the share of bound scenes is no better than chance (a quarter) the report says that binding is not
measurable. There are no official numbers for these scenes. Licence: no reference code was read.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from workbench.blocks.made import CELLS, Made, Staged, made_scenes, spoil, world_of
from workbench.core.catalog import method
from workbench.core.errors import AskError
from workbench.core.fields import controls
from workbench.core.method import Card, Lens
from workbench.core.patch import Patch
from workbench.core.report import Curve, Film, Heat, Note, Report, Table
from workbench.core.scene import Scene
from workbench.ops import truth
from workbench.ops.attention import resize
from workbench.ops.stats import bootstrap, wilson

GAUSSIAN, WHOLE, NOISE, OTHER, SPOILT = FLOORS = (
    "centred Gaussian", "whole image", "noise", "another caption", "spoilt weights")  # fmt: skip
CHANCE = 0.25  # that two maps of nothing in particular are bound
MEASURES = ("AP", "pointing", "energy", "IoU at 0.4", "IoU at best")
Maps = Tensor  # [o, 64, 64]


@dataclass
class _Found:
    """What one way of making maps reached: a row a single scene, a matrix a pair."""

    single: list[tuple[float, ...]] = field(default_factory=list)
    pairs: list[Tensor] = field(default_factory=list)


class InspectReport(Lens):
    """Measure lenses that follow words against true masks."""

    card: ClassVar[Card] = Card("inspect-report", "Maps against true masks", "arXiv 1608.00507", ("unet",), "minutes")
    quick: ClassVar[Mapping[str, Any]] = {"scenes": 2, "pairs": 2, "levels": (0.5,)}

    lenses: tuple[str, ...] = Field(("token-maps",), min_length=1, description="Lenses told of words in the caption.")
    unsaid: tuple[str, ...] = Field(
        ("open-word-maps",), description="Lenses told of words that are left out of the caption."
    )
    scenes: int = Field(24, ge=2, le=500, description="Scenes with one object.")
    pairs: int = Field(12, ge=0, le=500, description="Scenes with two objects.")
    levels: tuple[float, ...] = Field(
        (0.2, 0.4, 0.6, 0.8), min_length=1, description="Noise levels at which the network looks, 0 none to 1 all."
    )
    seed: int = Field(0, ge=0, description="Of the scenes and of their noise.")

    def look(self, scene: Scene) -> Report:
        """A table a kind of scene, the binding matrix, the floors, and the first scenes with their maps."""
        world, size = world_of(scene.bundle), min(scene.bundle.shapes.image[1:])
        if not all(0 <= level <= 1 for level in self.levels):
            raise AskError(f"inspect-report: levels is {list(self.levels)}; each must lie between 0 and 1.")
        lenses = {name: _follower(name, scene) for name in dict.fromkeys((*self.lenses, *self.unsaid))}
        single = made_scenes(world, self.scenes, False, self.seed, size)
        pairs = made_scenes(world, self.pairs, True, self.seed + 1, size)
        found = {name: _Found() for name in (*lenses, *FLOORS)}
        for name, lens in lenses.items():
            self._measure(found[name], scene, lens, single, pairs, name in self.lenses)
        first = lenses[self.lenses[0]]
        for index, made in enumerate(single):
            for name, values in _blind(self.seed + index):
                found[name].single.append(_row(values, made))
            other = single[(index + 1) % len(single)]
            maps = self._maps(scene, first, made, other.caption, other.objects[:1], index)
            found[OTHER].single.append(_row(maps[0], made))
        with Patch(scene.bundle) as patch:
            spoil(scene.bundle, patch)
            self._measure(found[SPOILT], scene, first, single, pairs, True)
        return self._report(scene, found, single, first)

    def _measure(
        self, found: _Found, scene: Scene, lens: Lens, single: tuple[Made, ...], pairs: tuple[Made, ...], said: bool
    ) -> None:
        for index, made in enumerate((*single, *pairs)):
            caption = made.caption if said else made.bare
            maps = self._maps(scene, lens, made, caption, made.objects, index)
            if index < len(single):
                found.single.append(_row(maps[0], made))
            else:
                found.pairs.append(truth.binding(maps, made.masks))

    def _maps(self, scene: Scene, lens: Lens, made: Made, caption: str, words: tuple[str, ...], index: int) -> Maps:
        """A lens's maps of some words on a scene, with what is said of it."""
        told = lens.but(**{_words_of(type(lens)): words})
        staged = Staged.of(scene, made.picture, [caption], self.levels, self.seed + index)
        films = [panel for panel in told.look(staged).panels if isinstance(panel, Film)]
        frames = {label: frame for film in films for label, frame in zip(film.labels, film.frames, strict=True)}
        if not all(word in frames for word in words):
            raise AskError(f"{lens.card.name} reports no map a word, so it cannot be measured against masks.")
        return resize(torch.from_numpy(np.stack([frames[word] for word in words])), (CELLS, CELLS))

    def _report(self, scene: Scene, found: dict[str, _Found], single: tuple[Made, ...], first: Lens) -> Report:
        lead = self.lenses[0]
        precision = {name: torch.tensor([row[0] for row in one.single]) for name, one in found.items()}
        floor = max(FLOORS, key=lambda name: float(precision[name].mean()))
        best, reached = float(precision[floor].mean()), float(precision[lead].mean())
        low, high = bootstrap(precision[lead])
        numbers = {"ap": reached, "low": low, "high": high, "best_floor": best, "target": best + 0.4 * (1 - best),
                   "pointing": float(np.mean([row[1] for row in found[lead].single]))}  # fmt: skip
        panels: list[Any] = [
            Note(f"Best floor: {floor}, AP {best:.3f}. A map that is worth its name should reach "
                 f"{numbers['target']:.3f}: two fifths of the way from there to 1.", f"{lead}: AP {reached:.3f}"),
            _single_table(found),
        ]  # fmt: skip
        if self.unsaid:
            numbers["unsaid_gap"] = reached - float(precision[self.unsaid[0]].mean())
        if self.pairs:
            shares = {name: one.pairs for name, one in found.items() if one.pairs}
            panels += [_pair_table(shares), _matrix(shares[lead], lead)]
            numbers["binding"] = float(np.mean([truth.bound(matrix) for matrix in shares[lead]]))
            numbers["binding_low"] = wilson(round(numbers["binding"] * self.pairs), self.pairs)[0]
            if numbers["binding_low"] <= CHANCE:
                text = "No better than chance, a quarter: this model does not tell two objects apart, so how well maps "
                panels.append(Note(text + "bind words to objects is not measurable on it.", "Binding"))
        panels.append(self._by_level(scene, first, single[:12]))
        for index, made in enumerate(single[:3]):
            values = self._maps(scene, first, made, made.caption, made.objects, index)[0]
            over = made.picture[0].permute(1, 2, 0).contiguous().numpy()
            panels.append(Heat(values.numpy(), f"{made.objects[0]} in “{made.caption}”", "share", over=over))
            panels.append(Heat(made.masks[0].float().numpy(), "the true mask", "", 0.0, 1.0, over=over))
        return Report(tuple(panels), numbers)

    def _by_level(self, scene: Scene, lens: Lens, single: tuple[Made, ...]) -> Curve:
        """Precision at each noise level alone: what is hardly seen can hardly be found."""
        means: list[float] = []
        for level in sorted(self.levels):
            alone = self.but(levels=(level,))
            maps = (alone._maps(scene, lens, made, made.caption, made.objects, i) for i, made in enumerate(single))
            rows = [_row(values[0], made)[0] for values, made in zip(maps, single, strict=True)]
            means.append(float(np.mean(rows)))
        title = f"AP by noise level, {len(single)} scenes"
        return Curve(np.array(sorted(self.levels)), np.array([means]), (lens.card.name,), title, ("level", "AP"))


def _follower(name: str, scene: Scene) -> Lens:
    """A lens of the catalog that follows words. Raises `AskError` for anything else."""
    lens = method(name)
    if not isinstance(lens, Lens) or not _words_of(type(lens)):
        raise AskError(f"{name} is no lens that follows words, so it has no map of an object. Try token-maps.")
    lens.check(scene.bundle)
    return lens


def _words_of(cls: type[Lens]) -> str:
    """The setting that takes the words to follow, or ""."""
    return next((control.name for control in controls(cls) if control.role == "word" and control.kind == "list"), "")


def _blind(seed: int) -> Iterator[tuple[str, Tensor]]:
    """The maps that need no model."""
    yield GAUSSIAN, truth.centred((CELLS, CELLS))
    yield WHOLE, torch.ones(CELLS, CELLS)
    yield NOISE, torch.rand(CELLS, CELLS, generator=torch.Generator().manual_seed(seed))


def _row(values: Tensor, made: Made) -> tuple[float, ...]:
    """The measures of a map of the first object."""
    mask, kept = made.masks[0], made.kept
    flat, true = values[kept], mask[kept]
    return (truth.average_precision(flat, true), truth.pointing(values, mask), truth.energy(values, mask),
            truth.overlap(flat, true, 0.4), truth.best_overlap(flat, true))  # fmt: skip


def _single_table(found: Mapping[str, _Found]) -> Table:
    rows: list[tuple[str | float, ...]] = []
    for name, one in found.items():
        columns = torch.tensor(one.single, dtype=torch.float64)
        low, high = bootstrap(columns[:, 0])
        means = columns.mean(0).tolist()
        rows.append((name, *(round(v, 4) for v in (means[0], low, high, *means[1:]))))
    head = ("map", "AP", "AP low", "AP high", *MEASURES[1:])
    return Table(head, tuple(rows), f"{len(next(iter(found.values())).single)} scenes of one object; floors last")


def _pair_table(shares: Mapping[str, list[Tensor]]) -> Table:
    rows: list[tuple[str | float, ...]] = []
    for name, matrices in shares.items():
        hits = sum(truth.bound(matrix) for matrix in matrices)
        mean = torch.stack(matrices).mean(0)
        leak = float(mean.masked_fill(torch.eye(len(mean), dtype=torch.bool), 0).max())
        numbers = (hits / len(matrices), *wilson(hits, len(matrices)), float(mean.diagonal().mean()), leak)
        rows.append((name, *(round(value, 4) for value in numbers)))
    count = len(next(iter(shares.values())))
    head = ("map", "bound", "bound low", "bound high", "energy in own object", "worst leak")
    return Table(head, tuple(rows), f"{count} scenes of two objects")


def _matrix(matrices: list[Tensor], name: str) -> Heat:
    mean = torch.stack(matrices).mean(0)
    return Heat(mean.numpy(), f"Binding of {name}: words (rows) by objects (columns), left then right",
                "energy", 0.0, float(mean.max()))  # fmt: skip
