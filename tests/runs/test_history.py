import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.folders import tiny_plan
from workbench.core.errors import AskError
from workbench.runs.history import list_runs, read_run


def made(folder: Path, **report: object) -> Path:
    folder.mkdir(parents=True)
    (folder / "plan.json").write_text(json.dumps(tiny_plan().to_json()))
    (folder / "report.json").write_text(json.dumps({"status": "done", "pictures": [], **report}))
    return folder


def test_runs_are_listed_newest_first_and_rubbish_is_passed_over(tmp_path: Path) -> None:
    made(tmp_path / "a", started="2026-01-01")
    made(tmp_path / "deep" / "b", started="2026-01-02")
    (made(tmp_path / "broken") / "report.json").write_text("{")
    (made(tmp_path / "list") / "report.json").write_text("[]")
    (made(tmp_path / "planless") / "plan.json").unlink()
    (made(tmp_path / "future") / "plan.json").write_text('{"ask": {"prompts": ["a"]}, "unheard": 1}')
    assert [run.folder.name for run in list_runs(tmp_path)] == ["b", "a"]


def test_pictures_that_are_gone_are_not_listed(tmp_path: Path) -> None:
    folder = made(tmp_path / "a", pictures=[{"file": "0000.png"}, {"file": "0001.png"}])
    (folder / "0001.png").write_bytes(b"")
    assert [path.name for path in read_run(folder).pictures] == ["0001.png"]


def test_a_run_whose_program_died_reads_as_failed(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    time.sleep(0.05)
    run = read_run(made(tmp_path / "a", status="running", pid=gone.pid))
    assert run.status == "failed"
    assert "ended before" in run.error
    assert read_run(made(tmp_path / "b", status="running", pid=os.getpid())).status == "running"


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AskError, match="is not a run"):
        read_run(tmp_path)


def test_nothing_there_is_nothing_listed(tmp_path: Path) -> None:
    assert list_runs(tmp_path / "none") == ()
