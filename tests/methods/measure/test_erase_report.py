"""Erase report on painted pictures: what is gone, what is kept, what is broken; nothing is drawn twice."""

from dataclasses import replace
from typing import Any

import pytest

from tests.methods.measure.painter import DRAWN, Forget, painted_scene
from workbench.core.errors import AskError, Stopped
from workbench.core.report import Curve, Note, Report, Table
from workbench.core.scene import Scene
from workbench.methods.measure.erase_report import EraseReport
from workbench.ops.stats import wilson


def look(scene: Scene, **settings: Any) -> Report:
    lens = EraseReport(**{"others": ["dog"], "pictures": 10, "near": 0, **settings})
    report = lens.look(scene)
    assert report.problems() == []
    return report


def notes(report: Report) -> str:
    return " ".join(panel.text for panel in report.panels if isinstance(panel, Note) and panel.title == "Warning")


def table(report: Report, title: str) -> Table:
    return next(panel for panel in report.panels if isinstance(panel, Table) and title in panel.title)


def test_a_perfect_erasure_takes_the_target_and_leaves_the_rest() -> None:
    found = look(painted_scene(Forget()))
    numbers = found.numbers
    assert (numbers["target_before"], numbers["target"]) == (1.0, 0.0)
    assert (numbers["target_low"], numbers["target_high"]) == wilson(0, 10)
    assert (numbers["others_before"], numbers["others"], numbers["loss"]) == (1.0, 1.0, 0.0)
    assert numbers["drift"] == pytest.approx(0, abs=1e-9)
    assert numbers["broken"] == numbers["idle"] == 0.0
    assert notes(found) == ""
    assert table(found, "Cost").rows[0][3] == 1  # one matrix
    assert "none 10" in table(found, "where the target").rows[0][1]


def test_the_concepts_are_the_edits_own_unless_given_or_named_in_the_prompt() -> None:
    assert look(painted_scene(Forget(concepts=("dog",))), others=["cat"]).numbers["target"] == 0.0
    assert look(painted_scene(prompt="a dog"), others=["cat"]).numbers["target_before"] == 1.0
    assert look(painted_scene(Forget()), concepts=["dog"], others=["cat"]).numbers["others"] == 0.0
    with pytest.raises(AskError, match="Set concepts"):
        look(painted_scene(prompt="xyzzy"))
    with pytest.raises(AskError, match="no name for 'plumbus'"):
        look(painted_scene(), concepts=["plumbus"])
    with pytest.raises(AskError, match="no answer for 'rocket'"):
        look(painted_scene(), concepts=["rocket"])


def test_an_edit_without_effect_is_said_loudly() -> None:
    found = look(painted_scene(Forget(strength=0.1)))
    assert "had no effect" in notes(found)
    assert found.numbers["idle"] == 1.0
    assert table(found, "Erasure").rows[1][-1] == "no effect"


def test_a_model_that_draws_nothing_any_more_is_said_to_be_broken() -> None:
    found = look(painted_scene(Forget(concepts=("*",))), concepts=["cat"])
    assert "broke the model" in notes(found)
    assert "0 still are" in notes(found)
    assert found.numbers["loss"] == 1.0


def test_a_model_that_never_drew_the_target_is_said_to_be_one() -> None:
    scene = painted_scene(Forget(concepts=("fox",)))
    assert "only 0% of its own pictures" in notes(look(scene))


def test_baselines_are_shared_and_nothing_is_drawn_twice() -> None:
    scene = painted_scene(Forget())
    look(scene)
    drawn = len(DRAWN)
    look(replace(scene, edits=(Forget(concepts=("cat", "fox")),)), concepts=["cat"])
    assert len(DRAWN) == drawn + drawn // 2  # the edited half alone
    look(scene)
    assert len(DRAWN) == drawn + drawn // 2


def test_a_stopped_look_goes_on_where_it_was() -> None:
    scene = painted_scene(Forget())
    calls = 0

    def stop(step: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise Stopped

    with pytest.raises(Stopped):
        look(replace(scene, tap=stop))
    stopped = len(DRAWN)
    whole = look(scene).numbers
    fresh = look(painted_scene(Forget())).numbers
    assert whole == fresh
    assert stopped > 0


def test_several_ways_stand_side_by_side_with_a_pareto_picture() -> None:
    scene = painted_scene()
    found = look(scene, against=[Forget(), Forget(concepts=("*",))], concepts=["cat"], strengths=[0.1])
    rows = table(found, "Erasure").rows
    names = [row[0] for row in rows]
    assert names == ["unedited, drawn", "toy-forget 1", "toy-forget 2", "toy-forget 1 at 0.1", "toy-forget 2 at 0.1"]
    curve = next(panel for panel in found.panels if isinstance(panel, Curve))
    assert curve.names == ("toy-forget 1", "toy-forget 2")
    assert curve.x.tolist() == [0.0, 100.0]
    assert curve.ys.tolist() == [[100.0, 100.0], [100.0, 0.0]]


def test_the_judges_own_accuracy_is_printed() -> None:
    found = look(painted_scene(Forget()))
    text = next(panel.text for panel in found.panels if isinstance(panel, Note) and panel.title == "How it was judged")
    assert "true drawings" in text
    assert "8 " in text  # four drawings of either subject
