"""The Erase page on a running app: the grid fills, the report warns, strengths blend, attacks and exports arrive."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from apps.topics.erase import Erase
from apps.work import table
from tests.apps.conftest import MODEL, Served
from tests.apps.pages import page_of
from workbench.core.delta import Delta
from workbench.core.errors import AskError
from workbench.core.report import Report, Table
from workbench.runs.erasing import attacks, erasers

REQUEST: Any = SimpleNamespace(cookies={"workbench_browser": "eraser"}, session_hash="eraser", query_params={})
QUICK = next(cls.card.name for cls in erasers() if cls.fits() and cls.card.cost != "minutes")


@pytest.fixture(scope="module")
def page(served: Served) -> Erase:
    """The Erase page of the running app."""
    return page_of(served, Erase)


def values(targets: tuple[str, ...] = ("cat",), chosen: tuple[str, ...] = (QUICK,), **raws: Any) -> list[Any]:
    own = [list(targets), "", ["dog"], ["kitten"], list(chosen), raws]
    return [*own, "a cat", "", 5, 1, "", MODEL, "diffuse", {"diffuse": {"steps": 2}}, []]


def last(rows: Any) -> tuple[Any, ...]:
    return list(rows)[-1]


def drawn(page: Erase) -> list[Any]:
    """The plans of the browser's runs with pictures, newest first."""
    return [run.plan for run in page.desk.history(page.desk.owner(REQUEST)) if run.pictures]


def test_the_grid_fills_row_by_row_at_one_seed(page: Erase) -> None:
    seen = [row[1] for row in page.draw(REQUEST, *values()) if isinstance(row[1], str)]
    counts = [text.count("<img") for text in seen]
    assert counts == sorted(counts)
    assert counts[-1] == 2 * 3  # without an edit and with it: the target, a synonym, what should stay
    for text in ("a cat", "a kitten", "a dog", "unedited", QUICK):
        assert f"<th>{text}</th>" in seen[-1]
    plans = drawn(page)[:6]
    assert {plan.ask.seeds for plan in plans} == {(5,)}
    assert [bool(plan.edits) for plan in plans] == [True] * 3 + [False] * 3


def test_hostile_words_are_text(page: Erase) -> None:
    assert "<script" not in table(["<script>"], ["<script>"], ["data:,"])


def test_a_report_arrives_with_its_warnings_in_front_and_a_file(page: Erase) -> None:
    text, _, report, _, file, *_ = last(page.weigh(REQUEST, 1, False, *values()))
    assert isinstance(report, Report)
    assert any(isinstance(panel, Table) and "Erasure" in panel.title for panel in report.panels)
    assert "role=" in text  # the random model draws no cat, and the page says so
    assert "only 0% of its own pictures" in text
    assert file.visible


def test_a_strength_is_blended_from_what_was_fitted(page: Erase) -> None:
    list(page.mix(REQUEST, QUICK, 0.0, *values()))
    assert drawn(page)[0].edits[0].strength == 0.0


def test_an_attack_leaves_its_prompts_to_take_away(page: Erase) -> None:
    quickest = next(cls.card.name for cls in attacks() if cls.card.cost == "seconds")
    text, _, report, _, file, *_ = last(page.force(REQUEST, quickest, 1, QUICK, *values()))
    assert report.numbers["count"] == 1.0
    assert "did not work" not in text
    assert "a cat" in json.dumps(json.loads(Path(file.value["path"]).read_text("utf-8")))


def test_an_edit_is_exported(page: Erase) -> None:
    file = last(page.take(REQUEST, QUICK, "delta", *values()))[4]
    assert Delta.load(Path(file.value["path"])).kind == "weights"


def test_requests_that_cannot_be_met_are_one_line(page: Erase) -> None:
    for rows in (
        page.draw(REQUEST, *values(targets=())),
        page.draw(REQUEST, *values(chosen=())),
        page.weigh(REQUEST, 0, False, *values()),
    ):
        with pytest.raises(AskError):
            last(rows)
    text = str(last(page.near(REQUEST, *values(targets=())))[0])
    assert "did not work" in text
    assert "Traceback" not in text


def test_neighbours_are_suggested(page: Erase) -> None:
    text, preserve, _ = last(page.near(REQUEST, *values()))
    assert "8 neighbours" in text
    assert preserve.value[0] == "dog"
