import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.folders import tiny_folder
from workbench.core.errors import AskError
from workbench.core.report import Curve, Report, Table
from workbench.runs.bench import Options, as_text, run_bench
from workbench.runs.benches.inspect import Wishes, agreement, verdict


def test_looking_is_measured_against_drawing() -> None:
    result = run_bench("inspect", Options(model=tiny_folder(), steps=2))
    assert result["against"] == "draw"
    rows = {row["method"]: row["numbers"] for row in result["rows"]}
    assert rows["diffuse"]["ratio"] == 1.0
    assert rows["token-maps"]["ratio"] > 0
    assert "note" not in result  # no world, no truth


def test_a_model_with_a_world_is_held_against_true_masks(tmp_path: Path) -> None:
    shutil.copytree(tiny_folder(), tmp_path / "emoji-tiny")
    kept: list[dict] = []
    more = {"scenes": "2", "pairs": "2"}
    result = run_bench("inspect", Options(model=str(tmp_path / "emoji-tiny"), steps=2, more=more), kept.append)
    assert len(kept[0]["rows"]) == 3
    rows = {row["name"]: row for row in result["rows"]}
    assert rows["token-maps"]["method"] == "token-maps"
    assert rows["token-maps"]["settings"]["scenes"] == 2
    assert 0 <= rows["token-maps"]["numbers"]["ap"] <= 1
    assert rows["centred Gaussian"]["method"] == "inspect-report"
    assert "bound" in rows["open-word-maps"]["numbers"]
    assert "token-maps: AP" in result["note"]
    assert "centred Gaussian" in as_text(result)


def test_the_verdict_names_what_was_promised() -> None:
    numbers = {"ap": 0.8, "best_floor": 0.5, "pointing": 0.6, "binding": 0.9, "binding_low": 0.6, "unsaid_gap": 0.05}
    line = verdict(numbers, 1.1)
    assert "AP 0.800 of 0.700 (reached)" in line
    assert "pointing 0.60 of 0.7 (missed)" in line
    assert "cost 1.10 of at most 1.3 (reached)" in line
    assert "bound pairs 0.90 of 0.7 (reached)" in line
    assert "not told apart on this tier, not measurable" in verdict({**numbers, "binding_low": 0.2}, 1.1)
    assert "left-out words behind by 0.050 of at most 0.1 (reached)" in line


def test_tables_become_numbers_by_name() -> None:
    single = Table(("map", "AP", "pointing"), (("a", 0.5, 1.0), ("b", 0.25, 0.0)))
    pairs = Table(("map", "bound"), (("a", 1.0),))
    levels = Curve(np.array([0.2, 0.8]), np.array([[0.7, 0.1]]), ("a",), "AP by noise level")
    assert agreement(Report((single, pairs, levels))) == {
        "a": {"ap": 0.5, "pointing": 1.0, "bound": 1.0, "ap_at_0.2": 0.7, "ap_at_0.8": 0.1},
        "b": {"ap": 0.25, "pointing": 0.0},
    }


def test_wishes_are_refused_in_a_line() -> None:
    assert Wishes.read({"scenes": "4"}) == Wishes(scenes=4)
    with pytest.raises(AskError, match="no setting 'sceens'"):
        Wishes.read({"sceens": "4"})
    with pytest.raises(AskError, match="pairs is 'few'; it must be a whole number"):
        Wishes.read({"pairs": "few"})
