"""Ways side by side: the arithmetic of seconds, speed-up and likeness."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.tiny import tiny_sd
from workbench.blocks.pictures import save_png
from workbench.core.ask import Ask
from workbench.core.plan import Plan
from workbench.core.report import Note, Table
from workbench.runs.history import Run
from workbench.runs.pacing import memory, paced, psnr


def _run(folder: Path, seconds: float, level: int) -> Run:
    save_png(folder / "0000.png", np.full((8, 8, 3), level, np.uint8), {})
    report: dict[str, Any] = {"seconds": seconds, "pictures": [{"file": "0000.png"}]}
    return Run(folder, Plan(ask=Ask(prompts="a cat", seeds=1)), "done", report)  # type: ignore[call-arg]


def test_medians_leave_the_first_turn_out(tmp_path: Path) -> None:
    plain = [_run(tmp_path / f"a{at}", seconds, 100) for at, seconds in enumerate((90.0, 4.0, 6.0, 8.0))]
    quick = [_run(tmp_path / f"b{at}", seconds, 110) for at, seconds in enumerate((0.1, 2.0, 2.0, 2.0))]
    report = paced([("plain", plain), ("quick", quick)], tiny_sd())
    table = report.panels[0]
    assert isinstance(table, Table)
    (_, slow, one, same), (_, fast, gain, noise) = table.rows
    assert (slow, fast, one, gain) == (6.0, 2.0, 1.0, 3.0)
    assert same == math.inf
    assert noise == pytest.approx(20 * math.log10(255 / 10))
    assert not any(isinstance(panel, Note) for panel in report.panels)
    assert any(isinstance(panel, Note) for panel in paced([("plain", plain[:2])], tiny_sd()).panels)


def test_pictures_of_unlike_size_have_no_likeness(tmp_path: Path) -> None:
    save_png(tmp_path / "a.png", np.zeros((8, 8, 3), np.uint8), {})
    save_png(tmp_path / "b.png", np.zeros((8, 4, 3), np.uint8), {})
    assert math.isnan(psnr(tmp_path / "a.png", tmp_path / "b.png"))


def test_memory_is_what_the_process_held() -> None:
    assert memory() > 50 * 2**20 or math.isnan(memory())
