"""Outcomes of an erasure: counts by hand, warnings, and the Pareto picture."""

import numpy as np
import pytest

from tests.tiny import tiny_sd
from workbench.blocks.cost import Cost
from workbench.blocks.erasure import Outcome, Pairs, Way, control, panels, pareto, percent, warnings
from workbench.blocks.judging import Concept
from workbench.core.report import Note, Table
from workbench.ops.stats import paired_difference

CAT = (Concept("cat", frozenset({"cat"})),)


def outcome(name: str, target: Pairs, others: Pairs, **more: object) -> Outcome:
    values = {"quality": {"kid": 0.1}, "broken": (), "idle": False, "answers": {"none": 3}, "seconds": (0.1, 0.2)}
    cells = {"target": target, "others": others}
    subjects = {("target", "cat"): target, ("others", "dog"): others}
    return Outcome(Way(name, ()), cells, subjects, **{**values, **more})  # type: ignore[arg-type]


def test_pairs_are_shares_and_a_loss_with_newcombes_interval() -> None:
    pairs = Pairs(20, 12, 2, 16)
    assert pairs.shares == (0.64, 0.44)
    gap, low, high = paired_difference(20, 12, 2, 16)
    assert pairs.loss == (-gap, -high, -low)
    assert pairs.plus(Pairs(1, 2, 3, 4)) == Pairs(21, 14, 5, 20)


def test_removed_and_kept_count_what_was_there() -> None:
    found = outcome("a", Pairs(1, 3, 5, 1), Pairs(6, 2, 1, 1))
    assert (found.able, found.removed, found.kept) == (0.4, 0.75, 0.75)
    nothing = outcome("b", Pairs(0, 0, 2, 8), Pairs(0, 0, 0, 10))
    assert (nothing.able, nothing.removed, nothing.kept) == (0.0, 0.0, 1.0)


def test_control_is_everything_that_should_stay() -> None:
    cells = {"target": Pairs(1, 1, 1, 1), "neighbours": Pairs(2, 0, 0, 0), "styles": Pairs(0, 3, 0, 0)}
    assert control(cells) == Pairs(2, 3, 0, 0)


def test_the_pareto_picture_has_a_point_a_way_and_a_line_a_method() -> None:
    ways = [outcome("a", Pairs(0, 4, 0, 0), Pairs(4, 0, 0, 0)), outcome("b", Pairs(2, 2, 0, 0), Pairs(1, 3, 0, 0))]
    curve = pareto(ways)
    assert curve.names == ("a", "b")
    assert curve.x.tolist() == [50.0, 100.0]
    assert np.array_equal(curve.ys, [[np.nan, 100.0], [25.0, np.nan]], equal_nan=True)


def test_warnings_name_what_is_wrong() -> None:
    lines = warnings(CAT, [outcome("a", Pairs(0, 1, 0, 9), Pairs(1, 0, 0, 0), broken=("pictures are flat",))])
    assert any("a broke the model**: pictures are flat" in line for line in lines)
    assert any("shows cat in only 10%" in line for line in lines)


def test_the_table_says_every_cell_with_its_interval() -> None:
    found = outcome("a", Pairs(0, 4, 0, 0), Pairs(3, 1, 0, 0))
    made = panels(CAT, [found], [Cost(1.0, 2.0, 3, 4, 0.5, 0.1, 6.0)], (7, 8), (tiny_sd(), None))
    table = next(p for p in made if isinstance(p, Table) and "Erasure" in p.title)
    assert table.rows[0][1:3] == ("100 % (51 to 100)", "100 % (51 to 100)")
    assert table.rows[1][1] == "0 % (0 to 49)"
    assert str(table.rows[1][2]).startswith("25 %")
    assert "names 7 of 8" in next(p.text for p in made if isinstance(p, Note) and "judged" in p.title)


def test_percent() -> None:
    assert percent(0.5, 0.25, 0.75) == "50 % (25 to 75)"
    assert pytest.approx(0.5) == Pairs(1, 1, 1, 1).shares[0]
