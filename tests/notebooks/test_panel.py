"""Notebook panels: widgets from fields, redrawn in a thread, cancelled, and the kernel never held."""

import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "notebooks"))
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import panel

from tests.tiny import tiny_sd
from workbench.core.catalog import catalog, method
from workbench.core.report import Curve, Film, Heat, Report
from workbench.view.forms import form, show

pytestmark = pytest.mark.filterwarnings("ignore")


def test_every_field_of_every_method_has_a_widget() -> None:
    for cls in catalog():
        for field in form(cls).fields:
            start = field.control.default if not field.control.required else cls.quick.get(field.name)
            made: Any = panel.widget(field, show(field, start))
            assert made.description == field.label


def test_widgets_start_with_the_settings_and_give_them_back() -> None:
    made = method("diffuse", steps=2, guidance=3.5, scheduler="ddim")
    explorer = panel.explore(made, tiny_sd())
    assert explorer.wait(60)
    assert explorer.method() == made


def test_an_edit_is_shown_without_and_with() -> None:
    explorer = panel.explore("freeu", tiny_sd())
    assert explorer.wait(120)
    assert explorer.line.value == "Done."
    titles = [box.children[0].value for box in explorer.view.children[0].children]
    assert titles == ["without", "with"]


def test_the_newest_settings_win_and_the_kernel_is_free() -> None:
    explorer = panel.explore(method("diffuse", steps=1000), tiny_sd())
    time.sleep(0.3)
    asked = time.monotonic()
    explorer.inputs["steps"].value = 2
    assert time.monotonic() - asked < 0.5
    assert explorer.wait(60)
    assert explorer.method().steps == 2
    assert explorer.line.value == "Done."


def test_stop_ends_the_drawing() -> None:
    explorer = panel.explore(method("diffuse", steps=1000), tiny_sd())
    time.sleep(0.3)
    explorer.cancel()
    assert explorer.wait(10)
    assert explorer.line.value == "Stopped."


def test_a_refused_setting_is_a_line() -> None:
    explorer = panel.explore(method("diffuse", steps=1), tiny_sd())
    assert explorer.wait(60)
    explorer.inputs["steps"].value = 0
    assert explorer.wait(60)
    assert "steps" in explorer.line.value


def test_reports_become_figure_widgets() -> None:
    report = Report(
        (Heat(np.ones((2, 2))), Curve(np.arange(2.0), np.ones((1, 2)), ("a",)),
         Film(np.zeros((2, 4, 4, 3), np.uint8), ("1", "2"))),
        {"value": 0.5},
    )  # fmt: skip
    box = panel.figures(report)
    assert [type(child).__name__ for child in box.children] == ["Label", "FigureWidget", "FigureWidget", "HTML"]
