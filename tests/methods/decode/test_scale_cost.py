"""Cost by scale: operations and bytes as counted by hand, with pruning, without guidance at the end, with a refiner."""

from typing import Any

import numpy as np
import pytest

from tests.tiny import tiny_var
from workbench.core.ask import Ask
from workbench.core.method import Sampler
from workbench.core.report import Curve, Film, Note, Report, Table
from workbench.core.scene import Scene
from workbench.methods.decode.cfg_tail import CfgTail
from workbench.methods.decode.code import Code
from workbench.methods.decode.fast_var import FastVar
from workbench.methods.decode.scale_cost import ScaleCost
from workbench.methods.decode.var import Var

ASK = Ask(prompts=["class:2", "class:4"], seeds=[1, 2])
VAR = Var(guidance=2.0, top_p=0.9)
COUNTS = (1, 4, 9, 16, 36, 64)
C, Z, V, D, B, R = 32, 4, 24, 2, 2, 4  # width, channels, codes, blocks, pictures, rows


def looked(*edits: Any, sampler: Sampler = VAR, ask: Ask = ASK) -> tuple[Report, Table]:
    report = ScaleCost(repeats=1).look(Scene(tiny_var(), sampler, edits, ask))
    assert report.problems() == []
    return report, next(panel for panel in report.panels if isinstance(panel, Table))


def column(table: Table, name: str) -> list[Any]:
    at = table.columns.index(name)
    return [row[at] for row in table.rows[: len(COUNTS)]]


def work(tokens: int, seen: int, *, width: int = C, depth: int = D, heads: int = 0) -> int:
    """Operations of one row: blocks over some tokens that see `seen`, and the head over `heads` of them."""
    return depth * (24 * width * width * tokens + 4 * width * tokens * seen) + 2 * width * V * (heads or tokens)


def adding(pictures: int) -> int:
    """Those of the 3x3 convolution that smooths what a scale adds, over 8x8 places."""
    return pictures * 2 * 9 * Z * Z * 64


def test_operations_and_bytes_are_those_of_a_count_by_hand() -> None:
    report, table = looked()
    expected = []
    for k, count in enumerate(COUNTS):
        entering = 2 * Z * C * count if k else 2 * C * (6 * C * D + 2 * C)  # later words; first all modulations
        expected.append((R * (work(count, sum(COUNTS[: k + 1])) + entering) + adding(B)) / 1e9)
    assert column(table, "GFLOP") == pytest.approx(expected, abs=1e-6)
    assert report.numbers["gflop"] == pytest.approx(sum(expected), rel=1e-9)
    bytes_held = [2 * D * R * C * 4 * sum(COUNTS[: k + 1]) / 2**20 for k in range(6)]
    assert column(table, "keys and values (MiB)") == pytest.approx(bytes_held, abs=1e-4)
    assert column(table, "tokens, all rows") == [R * count for count in COUNTS]
    assert column(table, "grid") == ["1x1", "2x2", "3x3", "4x4", "6x6", "8x8"]


def test_each_scale_took_time_and_the_last_line_adds_them_up() -> None:
    _, table = looked()
    times = [row[table.columns.index("milliseconds")] for row in table.rows]
    assert all(float(value) > 0 for value in times)
    assert float(times[-1]) == pytest.approx(sum(map(float, times[:-1])), abs=0.01)
    assert [row[0] for row in table.rows[-2:]] == ["picture", "together"]


def test_the_models_own_decoding_has_nothing_beside_it() -> None:
    report, table = looked()
    assert not any("model alone" in name for name in table.columns)
    assert any(isinstance(panel, Note) and "own decoding" in panel.text for panel in report.panels)
    assert {curve.names for curve in report.panels if isinstance(curve, Curve)} == {("as asked",)}


def test_pruned_tokens_are_not_computed_and_the_mask_shows_which() -> None:
    """At half of the tokens the blocks' work is halved and so are the keys; words and head are made of all."""
    edit = FastVar(ratio=0.5, scales=2, spare=0)
    report, table = looked(edit)
    films = [panel for panel in report.panels if isinstance(panel, Film)]
    assert [film.title for film in films] == [f"{prompt}: tokens computed" for prompt in ASK.prompts]
    for film in films:
        assert film.over is not None
        assert film.over.shape == (16, 16, 3)
        assert np.array_equal(film.frames[:4], np.ones((4, 8, 8)))
        assert film.frames[5].mean() == pytest.approx(0.5)
        assert len(np.unique(film.frames[5])) > 1
        assert film.labels[3] == "scale 4, 4x4: all"
        assert film.labels[5] == "scale 6, 8x8: 50 % computed"
    seen = [1, 5, 14, 30, 48, 80]
    last = (R * (work(32, seen[5], heads=64) + 2 * Z * C * 64) + adding(B)) / 1e9
    assert column(table, "GFLOP")[5] == pytest.approx(last, abs=1e-6)
    assert column(table, "keys and values (MiB)") == pytest.approx(
        [2 * D * R * C * 4 * n / 2**20 for n in seen], abs=1e-4
    )
    assert column(table, "GFLOP, model alone")[:4] == column(table, "GFLOP")[:4]
    assert column(table, "GFLOP, model alone") == column(looked()[1], "GFLOP")
    assert report.numbers["share_of_work"] < 1


def test_scales_without_guidance_have_half_the_rows() -> None:
    report, table = looked(CfgTail(scales=2))
    assert column(table, "tokens, all rows") == [4, 16, 36, 64, 72, 128]
    assert not [panel for panel in report.panels if isinstance(panel, Film)]
    plain = column(table, "GFLOP, model alone")
    assert column(table, "GFLOP")[:4] == plain[:4]
    assert column(table, "GFLOP")[4] - adding(B) / 1e9 == pytest.approx((plain[4] - adding(B) / 1e9) / 2, abs=1e-6)
    grown = [2 * D * C * 4 * (R * 30 + B * more) / 2**20 for more in (36, 100)]
    assert column(table, "keys and values (MiB)")[4:] == pytest.approx(grown, abs=1e-4)


def test_a_refiner_reads_what_was_drafted_and_keeps_its_own() -> None:
    """Split 4: the refiner first reads the 30 tokens before its own 36, and the drafter's keys are gone."""
    _, table = looked(sampler=Code(split=4, guidance=2.0, top_p=0.9))
    assert column(table, "tokens, all rows") == [4, 16, 36, 64, 4 * 66, 4 * 64]
    width, depth = 16, 1  # the tiny refiner's
    entering = 2 * Z * width * 65 + 2 * width * (6 * width * depth + 2 * width)
    reading = work(66, 66, width=width, depth=depth, heads=36)
    assert column(table, "GFLOP")[4] == pytest.approx((R * (reading + entering) + adding(B)) / 1e9, abs=1e-6)
    own = [2 * depth * R * width * 4 * n / 2**20 for n in (66, 130)]
    assert column(table, "keys and values (MiB)")[4:] == pytest.approx(own, abs=1e-4)


def test_pictures_computed_alone_take_the_same_together() -> None:
    both, alone = (looked(FastVar(spare=0), sampler=VAR.but(alone=a)) for a in (False, True))
    assert column(alone[1], "GFLOP") == pytest.approx(column(both[1], "GFLOP"), abs=2e-6)
    assert column(alone[1], "keys and values (MiB)") == column(both[1], "keys and values (MiB)")
    films = [[panel for panel in report.panels if isinstance(panel, Film)] for report, _ in (both, alone)]
    assert all(np.array_equal(a.frames, b.frames) for a, b in zip(*films, strict=True))


def test_a_watcher_that_decodes_previews_costs_nothing() -> None:
    bundle = tiny_var()
    scene = Scene(bundle, VAR, (), ASK, tap=lambda step: bundle.decode(step.x))  # type: ignore[arg-type]
    report = ScaleCost(repeats=1).look(scene)
    assert dict(report.numbers) == dict(looked()[0].numbers)
    tables = [panel for panel in report.panels if isinstance(panel, Table)]
    assert tables[0].rows[-2][4] == looked()[1].rows[-2][4]  # the picture decoder ran once
