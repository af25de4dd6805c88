"""The speed report: operations by the ledger, likeness on paper, and a word where nothing is saved."""

import math

import pytest
import torch

from tests.tiny import tiny_pixart, tiny_sd
from tests.toys import Fade
from workbench.core.ask import Ask
from workbench.core.errors import AskError
from workbench.core.report import Film, Note, Table
from workbench.core.scene import Scene
from workbench.methods.generate.diffuse import Diffuse
from workbench.methods.measure import speed_report
from workbench.methods.measure.speed_report import SpeedReport, psnr
from workbench.methods.reduce.deep_cache import DeepCache
from workbench.methods.reduce.tome import Tome

ASK = Ask(prompts=["a cat", "the red dog"], seeds=[1, 2])
LENS = SpeedReport(repeats=1, scorer="")


def test_likeness_on_paper() -> None:
    one, other = torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    other[1] = 51  # a fifth of the range
    assert psnr(one, other).tolist() == pytest.approx([100.0, 20 * math.log10(5)])
    with pytest.raises(AskError, match="cannot be compared"):
        psnr(one, other[..., :2])


def test_a_cache_saves_operations_and_merging_saves_the_core() -> None:
    cached = LENS.look(Scene(tiny_sd(), Diffuse(steps=4), (DeepCache(interval=2),), ASK))
    assert 1.2 < cached.numbers["theoretical"] < 2.0
    assert cached.numbers["psnr"] < 100
    merged = LENS.look(Scene(tiny_pixart(), Diffuse(steps=2), (Tome(ratio=0.75),), ASK))
    table = next(panel for panel in merged.panels if isinstance(panel, Table))
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["of that attention"][2] > 1.2  # a long text keeps its part
    assert rows["operations (GFLOP)"][2] == pytest.approx(merged.numbers["theoretical"], abs=1e-3)
    assert rows["seconds"][0] > 0
    assert rows["peak memory (MiB)"][0] > 0


def test_an_edit_of_another_topic_is_on_both_sides() -> None:
    report = LENS.look(Scene(tiny_sd(), Diffuse(steps=2), (Fade(), Tome(ratio=0.0)), ASK))
    assert report.numbers["psnr"] == 100.0
    assert report.numbers["theoretical"] == 1.0
    film = report.panels[0]
    assert isinstance(film, Film)
    assert film.labels == ("plain", "accelerated")


def test_another_sampler_may_be_the_plain_side() -> None:
    report = SpeedReport(repeats=1, scorer="", plain=Diffuse(steps=4)).look(Scene(tiny_sd(), Diffuse(steps=2), (), ASK))
    assert 1.5 < report.numbers["theoretical"] < 2.1
    assert not any(isinstance(panel, Note) and panel.title == "Nothing accelerates" for panel in report.panels)


def test_nothing_to_accelerate_is_said() -> None:
    report = LENS.look(Scene(tiny_sd(), Diffuse(steps=1), (), ASK.row(0)))
    assert any(isinstance(panel, Note) and panel.title == "Nothing accelerates" for panel in report.panels)


def test_slower_than_plain_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for ratio, said in ((0.5, True), (1.5, False)):
        monkeypatch.setattr(speed_report, "_ratio", lambda sides, ratio=ratio: ratio)
        report = LENS.look(Scene(tiny_sd(), Diffuse(steps=1), (Tome(),), ASK.row(0)))
        notes = [panel for panel in report.panels if isinstance(panel, Note)]
        assert [note.title for note in notes] == (["Slower than plain here"] if said else [])
