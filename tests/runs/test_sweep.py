import json
from pathlib import Path
from typing import Any

import pytest

from tests.folders import tiny_plan
from workbench.core.errors import AskError
from workbench.runs.history import read_run
from workbench.runs.sweep import read_sweep, run_sweep


def written(folder: Path, axes: dict[str, Any], **more: Any) -> Path:
    path = folder / "grid.json"
    path.write_text(json.dumps({"plan": tiny_plan().to_json(), "axes": axes, **more}))
    return path


def test_the_cells_are_the_product_of_the_axes(tmp_path: Path) -> None:
    axes = {"sampler.steps": [2, 3], "ask.seeds": [[0], [7]], "edits": [[], [{"method": "freeu"}]]}
    cells, workers = read_sweep(written(tmp_path, axes, workers=3))
    assert workers == 3
    assert len({cell.folder for cell in cells}) == len(cells) == 8
    assert cells[0].settings == {"sampler.steps": 2, "ask.seeds": [0], "edits": []}
    assert cells[-1].plan.ask.seeds == (7,)
    assert cells[-1].plan.sampler.steps == 3  # type: ignore[union-attr]
    assert cells[0].folder.parent == tmp_path / "grid-runs"


def test_an_axis_may_reach_into_a_list(tmp_path: Path) -> None:
    plan = tiny_plan(edits=[{"method": "freeu"}]).to_json()
    (tmp_path / "grid.json").write_text(json.dumps({"plan": plan, "axes": {"edits.0.b1": [1.1, 1.2]}}))
    cells, _ = read_sweep(tmp_path / "grid.json")
    assert [cell.plan.edits[0].b1 for cell in cells] == [1.1, 1.2]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"sampler.steps": [0]}, "steps is 0"),
        ({"sampler.stepz": [1]}, "no setting 'stepz'"),
        ({"edits.3.b1": [1]}, "entry 3 of a list of 0"),
        ({"batch.x": [1]}, "goes through batch, which is 2"),
        ({"sampler.steps": 5}, "should be a list"),
        ({"ask.seeds": [[i] for i in range(101)], "sampler.steps": [1] * 100}, "10,100 cells"),
    ],
)
def test_a_wrong_sweep_is_refused_before_anything_runs(tmp_path: Path, axes: dict[str, Any], message: str) -> None:
    with pytest.raises(AskError) as caught:
        read_sweep(written(tmp_path, axes))
    assert message in str(caught.value)


def test_what_is_no_sweep_says_what_one_looks_like(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[1]")
    with pytest.raises(AskError, match="is not a sweep"):
        read_sweep(tmp_path / "x.json")
    with pytest.raises(AskError, match="'extra' means nothing"):
        read_sweep(written(tmp_path, {}, extra=1))
    with pytest.raises(AskError, match="workers is -1"):
        run_sweep(written(tmp_path, {}, workers=-1))


def test_finished_cells_are_skipped_and_failed_ones_tried_again(tmp_path: Path) -> None:
    path = written(tmp_path, {"sampler.steps": [2, 3]})
    rows = run_sweep(path)
    assert [row["status"] for row in rows] == ["done", "done"]
    first, second = (Path(row["folder"]) for row in rows)
    report = json.loads((second / "report.json").read_text())
    (second / "report.json").write_text(json.dumps({**report, "status": "failed"}))
    before = (first / "report.json").stat().st_mtime_ns
    assert [row["status"] for row in run_sweep(path)] == ["done", "done"]
    assert (first / "report.json").stat().st_mtime_ns == before
    assert read_run(second).status == "done"
    assert len(json.loads((tmp_path / "grid-runs" / "sweep.json").read_text())["cells"]) == 2


def test_a_failing_cell_stops_no_other(tmp_path: Path) -> None:
    rows = run_sweep(written(tmp_path, {"ask.size": [[17, 16], [16, 16]]}))
    assert [row["status"] for row in rows] == ["failed", "done"]
    assert "17x16" in rows[0]["error"]


@pytest.mark.slow
def test_workers_draw_what_one_process_draws(tmp_path: Path) -> None:
    axes = {"ask.seeds": [[0], [1]]}
    (tmp_path / "b").mkdir()
    one = run_sweep(written(tmp_path, axes))
    two = run_sweep(written(tmp_path / "b", axes), workers=2)
    for mine, theirs in zip(one, two, strict=True):
        pixels = [read_run(row["folder"]).report["pictures"][0]["pixels"] for row in (mine, theirs)]
        assert pixels[0] == pixels[1]
