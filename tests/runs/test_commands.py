"""Most of what the commands do is seen in tests/test_cli.py; here are their parts."""

from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

from tests.folders import tiny_plan
from workbench.blocks.pictures import save_png
from workbench.core.errors import AskError
from workbench.core.tape import Step
from workbench.runs.commands import drawn, numbered, progress, read_plan, shipped_digests


def picture(path: Path, prompt: str, seed: int, side: int = 4) -> None:
    plan = tiny_plan(prompt, ask={"seeds": seed})
    save_png(path, np.full((side, side, 3), seed, np.uint8), {"plan": plan.to_json()})


def test_pictures_of_a_folder_come_with_their_request(tmp_path: Path) -> None:
    picture(tmp_path / "0001.png", "b", 9)
    picture(tmp_path / "0000.png", "a", 4)
    picture(tmp_path / "input-image.png", "z", 1)
    (tmp_path / "replay").mkdir()
    picture(tmp_path / "replay" / "0000.png", "a", 4)
    images, ask, skipped = drawn(tmp_path)
    assert images[:, 0, 0, 0].tolist() == [4, 9]
    assert (ask.prompts, ask.seeds, skipped) == (("a", "b"), (4, 9), 0)


def test_run_folders_below_are_found(tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    picture(tmp_path / "r" / "0000.png", "a", 4)
    assert len(drawn(tmp_path)[0]) == 1
    assert len(drawn(tmp_path / "r" / "0000.png")[0]) == 1


def test_pictures_of_several_sizes_are_refused(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", "a", 1, 4)
    picture(tmp_path / "b.png", "b", 2, 8)
    with pytest.raises(AskError, match="4x4, 8x8"):
        drawn(tmp_path)


def test_a_plan_is_read_from_a_picture(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", "a", 1)
    assert read_plan(tmp_path / "a.png").ask.seeds == (1,)
    with pytest.raises(AskError, match="no file"):
        read_plan(tmp_path / "none.json")


def test_meta_that_is_not_sound_is_passed_over(tmp_path: Path) -> None:
    picture(tmp_path / "0.png", "a", 1)
    pixels = np.zeros((4, 4, 3), np.uint8)
    ask = {"prompts": ["a"], "negatives": [""], "seeds": [1]}
    for name, plan in (("1", {"ask": {**ask, "seeds": ["x"]}}), ("2", {"ask": {**ask, "more": 1}})):
        save_png(tmp_path / f"{name}.png", pixels, {"plan": plan})
    assert drawn(tmp_path)[2] == 2
    with pytest.raises(AskError, match="seeds"):
        read_plan(tmp_path / "1.png")


def test_progress_is_silent_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    tap = progress(Namespace(json=False))
    tap(Step(0, 2, 0.0))
    assert capsys.readouterr() == ("", "")


def test_progress_shows_steps_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    tap = progress(Namespace(json=False))
    for index in range(2):
        tap(Step(index, 2, 0.0))
    assert "step 2/2, 0 s left" in capsys.readouterr().err


def test_numbers_that_are_not_finite_are_called_undefined() -> None:
    assert numbered({"a": 0.5, "b": None}) == ["a = 0.5", "b = undefined"]


def test_digests_of_shipped_models_are_hex() -> None:
    assert all(len(value) >= 16 and int(value, 16) >= 0 for value in shipped_digests().values())
