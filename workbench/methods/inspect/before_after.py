"""Before and after: any lens on the same seeds without the edits and with them, side by side.

Paper: none; the paired look that the other lenses lack (what did the eraser or the merger change inside?).

Equations: for maps a (without) and b (with) of the same shape, difference = b / mean(b) - a / mean(a), shown around
zero, so that a place that gained in share is red; moved = mean |difference| / 2 over maps, 0 when nothing changed and
at most 1.

Differs: nothing to differ from. There are no official numbers; Licence: there is no reference code.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from workbench.core.errors import AskError
from workbench.core.method import AnyLens, Card, Lens
from workbench.core.report import Film, Heat, Note, Panel, Report, Table
from workbench.core.scene import Scene


class BeforeAfter(Lens):
    """Look through another lens without the edits and with them."""

    card: ClassVar[Card] = Card("before-after", "Before and after", "none (a paired look)", ("any",), "seconds")
    quick: ClassVar[Mapping[str, Any]] = {"lens": {"method": "token-maps"}}

    lens: AnyLens = Field({"method": "token-maps"}, description="The lens to look through twice.")  # type: ignore[assignment]

    def look(self, scene: Scene) -> Report:
        """Panels of both looks in turns, the maps' differences, and both sets of numbers."""
        if isinstance(self.lens, BeforeAfter):
            raise AskError("before-after looks through another lens than itself. Choose one: workbench list.")
        self.lens.check(scene.bundle)
        without = self.lens.look(replace(scene, edits=()))
        if not scene.edits:
            remark = Note("There is no edit in force, so there is no after. Add one to the stack.", "Before and after")
            return Report((remark, *without.panels), without.numbers)
        with_ = self.lens.look(scene)
        panels: list[Panel] = []
        moved: list[float] = []
        for before, after in zip(without.panels, with_.panels, strict=False):
            panels += [_named(before, "without"), _named(after, "with")]
            for heat in _differences(before, after):
                panels.append(heat)
                moved.append(float(np.abs(heat.values).mean() / 2))
        both = [(name, value, with_.numbers[name]) for name, value in without.numbers.items() if name in with_.numbers]
        rows = tuple((name, a, b, b - a) for name, a, b in both)
        table = Table(("number", "without", "with", "difference"), rows, "Numbers without and with the edits")
        numbers = {f"{name} {side}": value for name, a, b in both for side, value in (("without", a), ("with", b))}
        return Report((*panels, table), numbers | ({"moved": float(np.mean(moved))} if moved else {}))


def _named(panel: Panel, side: str) -> Panel:
    return replace(panel, title=f"{panel.title} ({side})" if panel.title else side)


def _differences(before: Panel, after: Panel) -> Iterator[Heat]:
    """The difference of each map that both have, as shares of their own mean."""
    if isinstance(before, Heat) and isinstance(after, Heat):
        pairs = {before.title: (before.values, after.values)}
        over = after.over
    elif isinstance(before, Film) and isinstance(after, Film) and before.frames.ndim == after.frames.ndim == 3:
        ours = dict(zip(before.labels, before.frames, strict=True))
        theirs = dict(zip(after.labels, after.frames, strict=True))
        pairs = {name: (ours[name], theirs[name]) for name in ours if name in theirs}
        over = after.over
    else:
        return
    for name, (a, b) in pairs.items():
        if a.shape == b.shape:
            yield Heat(_share(b) - _share(a), f"{name}: with less without", "of the mean", signed=True, over=over)


def _share(values: np.ndarray) -> np.ndarray:
    mean = float(np.abs(values).mean())
    return values / mean if mean else values
