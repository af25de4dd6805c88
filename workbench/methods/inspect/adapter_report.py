"""Adapter report: what adapters' files hold, where they act and how they will get on, before anything is drawn.

Paper: the quantities are older than any one paper; crosstalk is what Po, Yang, Aberman and Wetzstein 2024, "Orthogonal
Adaptation for Modular Customization of Diffusion Models", arXiv 2312.02432, train to be zero. The load report answers
loaders that attach what they can and only log the rest.

Equations, for changes D_i = up_i down_i at weight w_i, V_i the directions of the input that D_i answers to, squares and
inner products summed over matrices:
    energy(i) = |w_i D_i|, shown per block as a share of the weights that are changed there
    cosine(i, j) = <D_i, D_j> / (|D_i| |D_j|)          overlap(i, j) = |V_i^T V_j|^2 / min(r_i, r_j)
    crosstalk(i, j) = |w_j D_j V_i| / |w_i D_i|        interference = its greatest value over pairs
    suggested weight = geometric mean of the energies / energy(i)

Differs: nothing is drawn and no threshold is claimed; compose-report measures what pictures show.

Official numbers: none. Licence of the references: none was read; the equations are written above.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from workbench.blocks.adapter_report import block
from workbench.blocks.adapters import Adapter, look_at
from workbench.core.bundle import Bundle
from workbench.core.errors import AskError
from workbench.core.fields import Role
from workbench.core.method import Card, Lens
from workbench.core.report import Heat, Note, Panel, Report, Table
from workbench.core.scene import Scene
from workbench.ops.adapter_stats import Compared, balanced, by_place, compared, effective_rank, total
from workbench.ops.low_rank import LowRank


class AdapterReport(Lens):
    """What adapters change, how strongly and where, and how much they talk into each other."""

    card: ClassVar[Card] = Card("adapter-report", "Adapter report", "arXiv 2312.02432", ("unet", "dit", "mmdit"))
    quick: ClassVar[Mapping[str, Any]] = {"adapters": ["random:1", "random:2"]}

    adapters: Annotated[tuple[str, ...], Role("adapter")] = Field(
        (),
        max_length=16,
        description="Files, folders or names of shipped adapters; empty takes the scene's edits' own.",
    )
    weights: tuple[float, ...] = Field((), max_length=16, description="One each, as they will be used; empty is 1.")

    def look(self, scene: Scene) -> Report:
        """Read the files and compare what fits the model; draws nothing."""
        sources, weights = self._asked(scene)
        found = [look_at(scene.bundle, source) for source in sources]
        panels: list[Panel] = [panel for adapter in found for panel in adapter.report.panels()]
        low = [adapter.whole().scaled(weight) for adapter, weight in zip(found, weights, strict=True)]
        names = _unique([adapter.name for adapter in found])
        energies = [total(each) for each in low]
        panels.append(_where(scene.bundle, low, names))
        panels += _shares(scene.bundle, low, names)
        pairs = compared(low)
        if len(found) > 1:
            panels += _together(pairs, names)
        panels.append(_weights(found, low, names, energies, weights))
        numbers = {
            "interference": pairs.interference, "found": min(adapter.report.found for adapter in found),
            "refused": float(sum(bool(adapter.report.refusal) for adapter in found)),
            **{f"energy {name}": value for name, value in zip(names, energies, strict=True)},
        }  # fmt: skip
        return Report(tuple(panels), numbers)

    def _asked(self, scene: Scene) -> tuple[tuple[str, ...], tuple[float, ...]]:
        sources, weights = self.adapters, self.weights
        if not sources:
            edits = [edit for edit in scene.edits if getattr(edit, "adapters", ())]
            sources = tuple(str(source) for edit in edits for source in getattr(edit, "adapters", ()))
            each = [getattr(edit, "weights", ()) or (1.0,) * len(getattr(edit, "adapters", ())) for edit in edits]
            weights = tuple(float(weight) for row in each for weight in row)
        if not sources:
            raise AskError("adapter-report: no adapter is named, and no edit of the scene has one. Give adapters=NAME.")
        if weights and len(weights) != len(sources):
            raise AskError(
                f"adapter-report: there are {len(sources)} adapters and {len(weights)} weights. Give one each, or none."
            )
        return sources, weights or (1.0,) * len(sources)


def _unique(names: Sequence[str]) -> list[str]:
    return [name if names.count(name) == 1 else f"{name} ({index + 1})" for index, name in enumerate(names)]


def _norms(bundle: Bundle, low: Sequence[LowRank]) -> dict[str, float]:
    """The Frobenius norm of the model's own changed weights, by block."""
    keys = dict.fromkeys(key for each in low for key in each)
    squares: dict[str, float] = {}
    for part, module in bundle.parts.items():
        for name, value in module.named_parameters():
            key = f"{part}:{name}"
            if key in keys:
                squares[block(key)] = squares.get(block(key), 0.0) + float(value.detach().double().square().sum())
    return {name: value**0.5 for name, value in squares.items()}


def _rows(bundle: Bundle, low: Sequence[LowRank]) -> tuple[list[str], np.ndarray]:
    """Blocks, and each adapter's change there as a share of the weights [adapters, blocks]."""
    norms = _norms(bundle, low)
    places = [by_place(each, block) for each in low]
    shares = [[place.get(name, 0.0) / max(norm, 1e-12) for name, norm in norms.items()] for place in places]
    return list(norms), np.array(shares, dtype=np.float64).reshape(len(low), len(norms))


def _where(bundle: Bundle, low: Sequence[LowRank], names: Sequence[str]) -> Panel:
    blocks, shares = _rows(bundle, low)
    rows = tuple((name, *(round(float(v), 4) for v in column)) for name, column in zip(blocks, shares.T, strict=True))
    return Table(("block", *names), rows, "Change as a share of the weights that it changes")


def _shares(bundle: Bundle, low: Sequence[LowRank], names: Sequence[str]) -> list[Panel]:
    blocks, shares = _rows(bundle, low)
    if not shares.size:
        return [Note("No adapter changes a matrix of this model.", "Nothing to compare")]
    title = (
        f"Strength: adapters ({', '.join(names)}) from top to bottom, blocks ({', '.join(blocks)}) from left to right"
    )
    return [Heat(shares, title, "share of the weights", 0.0, max(float(shares.max()), 1e-9))]


def _together(pairs: Compared, names: Sequence[str]) -> list[Panel]:
    order = f" ({', '.join(names)}, rows listen to columns)"
    return [
        Heat(pairs.crosstalk.numpy(), "Crosstalk" + order, "of the row's own change", 0.0),
        Heat(pairs.cosine.numpy(), "Cosine" + order, "", -1.0, 1.0, signed=True),
        Heat(pairs.overlap.numpy(), "Shared input directions" + order, "share", 0.0, 1.0),
        Table(
            ("adapter", "and", "cosine", "shared directions", "crosstalk", "the other way"),
            tuple(
                (names[i], names[j], round(float(pairs.cosine[i, j]), 4), round(float(pairs.overlap[i, j]), 4),
                 round(float(pairs.crosstalk[i, j]), 4), round(float(pairs.crosstalk[j, i]), 4))
                for i in range(len(names)) for j in range(i + 1, len(names))
            ),
            "Pairs",
        ),
    ]  # fmt: skip


def _weights(
    found: Sequence[Adapter], low: Sequence[LowRank], names: Sequence[str], energies: Sequence[float],
    weights: Sequence[float]) -> Panel:  # fmt: skip
    best = balanced(energies)
    rows: list[tuple[str | float, ...]] = []
    for index, (adapter, each) in enumerate(zip(found, low, strict=True)):
        ranks = [effective_rank(pair) for pair in each.factors.values()]
        equal, mean = round(weights[index] * best[index], 3), round(float(np.mean(ranks)) if ranks else 0.0, 2)
        rows.append((names[index], adapter.trigger or "none", round(energies[index], 4), weights[index], equal, mean))
    columns = ("adapter", "trigger", "norm of the change", "weight", "weight for equal norms", "mean effective rank")
    return Table(columns, tuple(rows), "Weights")
