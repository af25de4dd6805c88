"""The app is built from the catalog: it names no method, and a new one appears without an edit here."""

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import gradio as gr
import numpy as np
import pytest
from pydantic import Field

from apps.controls import component
from apps.pages.methods import _rows
from apps.panels import draw_panel, empty, number_tiles, trouble
from apps.picker import choices, shown
from apps.stack import added
from apps.studio import build
from workbench.core.catalog import catalog
from workbench.core.method import Card, Edit, Method
from workbench.core.report import Curve, Film, Heat, Note, Picture, Table
from workbench.view.forms import form, show

ROOT = Path(__file__).parents[2]
#: The sampler a fresh page starts with is the model's own; its name is a default, not a special case.
DEFAULTS = {"diffuse"}
HOSTILE = '<img src="http://evil.example/x.png" onerror="alert(1)">'


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> gr.Blocks:
    return build(root=tmp_path_factory.mktemp("runs"))


def test_apps_name_no_method() -> None:
    names = {cls.card.name for cls in catalog()} - DEFAULTS
    found = []
    for path in sorted((ROOT / "apps").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and node.value in names:
                found.append(f"{path.name}:{node.lineno} {node.value}")
    assert not found


def test_every_method_has_a_component_for_each_field() -> None:
    with gr.Blocks():
        for cls in catalog():
            for field in form(cls).fields:
                made = component(field, show(field, field.control.default), tag=cls.card.name)
                assert made.label == field.label


def test_every_edit_can_be_added_and_every_lens_chosen(demo: gr.Blocks) -> None:
    config = json.dumps(demo.config, default=str)
    for kind in ("edit", "lens", "sampler"):
        for label, name in choices(kind):
            assert name in label
    for label, _ in choices("edit"):
        assert json.dumps(label)[1:-1] in config


@pytest.fixture
def toy() -> Iterator[type[Method]]:
    class Toy(Edit):
        """A toy."""

        card: ClassVar[Card] = Card("toy-edit", "Toy edit", "none", ("any",), topic="toys")
        strength: float = Field(0.5, ge=0, le=1, description="How much.")

    yield Toy
    Method.known.pop("toy-edit")


def test_a_new_method_appears_without_an_edit_here(toy: type[Method]) -> None:
    assert ("toys · Toy edit (toy-edit)", "toy-edit") in choices("edit")
    assert any(row[1] == "toy-edit" for row in _rows("toy", "all"))
    assert added([], "toy-edit")[0]["method"] == "toy-edit"
    assert shown({"method": "toy-edit", "strength": 0.25}) == ("toy-edit", {"strength": 0.25})


def test_the_app_builds_without_a_default_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("apps.studio.has_default", lambda: False)
    assert "assets/models/emoji-unet is missing" in json.dumps(build(root=tmp_path).config, default=str)


def test_methods_are_found_by_topic_name_title_and_kind() -> None:
    assert {row[1] for row in _rows("", "all")} == {cls.card.name for cls in catalog()}
    assert all(row[3] == "lens" for row in _rows("", "lens"))
    assert [row[1] for row in _rows("freeu", "edit")] == ["freeu"]
    assert _rows("nothing has this name", "all") == []


@pytest.mark.parametrize(
    "panel",
    [
        Picture(np.zeros((4, 4, 3), np.uint8), HOSTILE),
        Film(np.zeros((2, 4, 4, 3), np.uint8), (HOSTILE, "b"), HOSTILE),
        Heat(np.ones((2, 2)), HOSTILE, HOSTILE),
        Curve(np.arange(3.0), np.ones((1, 3)), (HOSTILE,), HOSTILE),
        Table((HOSTILE,), ((HOSTILE,), (0.5,)), HOSTILE),
        Note("ours", HOSTILE),
    ],
    ids=lambda panel: type(panel).__name__,
)
def test_every_panel_has_a_component_and_no_foreign_markup(panel: Any) -> None:
    with gr.Blocks():
        made = draw_panel(panel)
    if isinstance(made, gr.HTML | gr.Markdown):
        assert HOSTILE not in str(made.value)
    if isinstance(made, gr.Dataframe):
        assert made.datatype == "str"  # cells and heads of this type are shown as text


def test_lines_are_escaped() -> None:
    for text in (trouble(HOSTILE), empty(HOSTILE, HOSTILE), number_tiles({HOSTILE: 1.0})):
        assert "<img" not in text
