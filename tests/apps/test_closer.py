"""Look closer: where a click goes, which plans stand side by side, and a look from end to end."""

from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from apps.desk import Desk
from apps.topics.closer import EDITS, MODELS, ONE, Closer, aimed, sides
from tests.folders import tiny_folder, tiny_plan
from workbench.core.catalog import method
from workbench.core.errors import AskError
from workbench.core.report import Heat


def test_a_click_goes_to_the_setting_of_its_role() -> None:
    assert aimed(method("self-attention"), [3, 5]) == method("self-attention", pixel=(3, 5))
    assert aimed(method("self-attention"), None) == method("self-attention")
    assert aimed(method("head-grid"), (3, 5)) == method("head-grid")
    with pytest.raises(AskError, match="diffuse is not a lens"):
        aimed(method("diffuse"), None)


def test_two_plans_stand_side_by_side() -> None:
    plan = tiny_plan("a cat", edits=[{"method": "freeu"}])
    assert sides(plan, ONE, "") == [("", plan)]
    (_, without), (_, with_) = sides(plan, EDITS, "")
    assert (without.edits, with_) == ((), plan)
    (_, first), (name, second) = sides(plan, MODELS, "other")
    assert (first, name, second) == (plan, "other", plan.but(model="other"))


def test_nothing_to_compare_is_a_line() -> None:
    with pytest.raises(AskError, match="stack is empty"):
        sides(tiny_plan("a cat"), EDITS, "")
    with pytest.raises(AskError, match="no second model"):
        sides(tiny_plan("a cat"), MODELS, "")


class Recipe:
    """The Generate page's part that a look needs."""

    def __init__(self, demo: gr.Blocks) -> None:
        self.demo, self.inputs = demo, []

    @staticmethod
    def gather(*values: Any) -> dict[str, Any]:
        return {}

    @staticmethod
    def plan(found: dict[str, Any]) -> Any:
        return tiny_plan("a cat", edits=[{"method": "freeu"}])


def test_a_look_shows_both_sides_and_keeps_their_arrays(tmp_path: Path) -> None:
    assert tiny_folder()
    with gr.Blocks() as demo:
        closer = Closer(Desk(tmp_path), demo, Recipe(demo))  # type: ignore[arg-type]
        closer.connect()
    *_, last = closer.look(None, (2, 2), EDITS, None, "self-attention", {})  # type: ignore[arg-type]
    reports = last[3]
    assert [name for name, _ in reports] == ["Without", "With"]
    heats = [next(panel for panel in report.panels if isinstance(panel, Heat)) for _, report in reports]
    assert all("(2, 2)" in heat.title for heat in heats)
    assert not (heats[0].values == heats[1].values).all()
    assert len(list(tmp_path.rglob("panels.npz"))) == 2
    *_, refused = closer.look(None, (99, 2), ONE, None, "self-attention", {})  # type: ignore[arg-type]
    assert "The pixel is (99, 2)" in refused[0]
    *_, empty = closer.look(None, None, MODELS, None, "self-attention", {})  # type: ignore[arg-type]
    assert "no second model" in empty[0]
    *_, drawn = closer.paint(None)  # type: ignore[arg-type]
    assert Path(drawn[1]).is_file()
