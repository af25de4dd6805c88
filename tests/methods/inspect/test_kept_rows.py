"""Kept rows: nothing merged is all kept, even cells have no bias, margins agree, fixed and drawn tiles differ."""

import pytest
import torch

from tests.tiny import tiny_sd
from workbench.core.ask import Ask
from workbench.core.report import Curve, Heat
from workbench.core.scene import Scene
from workbench.methods.generate.diffuse import Diffuse
from workbench.methods.inspect.kept_rows import KeptRows
from workbench.methods.reduce.todo import Todo
from workbench.methods.reduce.tome import Tome


def look(*edits: Tome | Todo, count: int = 4) -> dict[str, float]:
    ask = Ask(prompts=["a cat"], seeds=list(range(count)))
    return dict(KeptRows().look(Scene(tiny_sd(), Diffuse(steps=3, guidance=1.0), edits, ask)).numbers)


def test_nothing_merged_is_all_kept() -> None:
    assert look(count=1) == {"kept": 1.0, "row_bias": 0.0, "column_bias": 0.0, "comb": 0.0, "lean": 0.0}


def test_cells_of_four_keep_a_quarter_everywhere() -> None:
    numbers = look(Todo(), count=1)
    assert numbers["kept"] == pytest.approx(0.25)
    assert max(abs(numbers[name]) for name in ("row_bias", "column_bias", "comb", "lean")) < 1e-6


def test_the_map_and_its_margins_agree() -> None:
    scene = Scene(tiny_sd(), Diffuse(steps=2), (Tome(),), Ask(prompts=["a cat"], seeds=[1, 2]))
    heat, rows, columns = KeptRows().look(scene).panels
    assert isinstance(heat, Heat)
    assert isinstance(rows, Curve)
    assert isinstance(columns, Curve)
    values = torch.from_numpy(heat.values)
    torch.testing.assert_close(torch.from_numpy(rows.ys[0]), values.mean(1))
    torch.testing.assert_close(torch.from_numpy(columns.ys[0]), values.mean(0))
    assert 0.2 < values.mean() < 0.6  # half of the tokens have gone


def test_merging_is_told_from_where_it_happens() -> None:
    fixed, drawn = look(Tome(ratio=0.5, random=False)), look(Tome(ratio=0.5))
    assert abs(fixed["kept"] - drawn["kept"]) < 0.2
    assert fixed["comb"] != pytest.approx(drawn["comb"], abs=0.02)
