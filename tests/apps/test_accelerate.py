"""The Accelerate page on a running app: ways in turns on the same seeds, what was measured, a look inside."""

import pytest

from apps.topics.accelerate import PLAIN, Accelerate, ways_of
from tests.apps.conftest import Served
from tests.apps.pages import RECIPE, last, page_of, request
from tests.folders import tiny_plan
from workbench.core.catalog import method
from workbench.core.errors import AskError
from workbench.core.report import Table

WHO = request("racer")


@pytest.fixture(scope="module")
def page(served: Served) -> Accelerate:
    return page_of(served, Accelerate)


def test_an_edit_joins_the_stack_and_a_sampler_takes_the_samplers_place() -> None:
    plan = tiny_plan("a cat", edits=[{"method": "freeu"}])
    cut, cads, quick = method("cfg-cutoff"), method("cads"), method("turbo", student="")
    ways = dict(ways_of(plan, [cut, quick, cads], together=True))
    assert ways[PLAIN] == plan
    assert [edit.card.name for edit in ways["cfg-cutoff"].edits] == ["freeu", "cfg-cutoff"]
    assert ways["turbo"] == plan.but(sampler=quick)
    assert ways["all edits together"].edits == (*plan.edits, cut, cads)
    assert len(ways_of(plan, [cut], together=True)) == 2


def test_ways_are_drawn_in_turns_and_measured(page: Accelerate) -> None:
    rows = list(page.race(WHO, 2, False, "a dog", ["cfg-cutoff"], {}, *RECIPE))
    pictures = [row[1].count("<img") for row in rows if isinstance(row[1], str)]
    assert pictures == sorted(pictures)
    assert pictures[-1] == 4
    (speed, *_) = rows[-1][2].panels
    assert isinstance(speed, Table)
    assert [row[0] for row in speed.rows] == [PLAIN, "cfg-cutoff"]
    assert speed.rows[0][2] == 1.0
    assert all(float(row[1]) > 0 for row in speed.rows)
    runs = page.desk.history(page.desk.owner(WHO))  # newest first
    assert [bool(run.plan.edits) for run in runs] == [True, False, True, False]
    assert [run.plan.ask.seeds[0] for run in runs] == [6, 6, 5, 5]
    assert {run.plan.ask.prompts for run in runs} == {("a dog",)}


def test_a_job_that_fails_before_its_first_picture_leaves_no_empty_places(page: Accelerate) -> None:
    recipe = list(RECIPE)
    recipe[5] = "no-such-model"
    shown = [row[:2] for row in page.race(WHO, 2, False, "a dog", ["cfg-cutoff"], {}, *recipe)]
    assert "did not work" in shown[-1][0]
    assert shown[-1][1] == ""


def test_nothing_chosen_is_a_line(page: Accelerate) -> None:
    with pytest.raises(AskError, match="No way is chosen"):
        last(page.race(WHO, 2, False, "", [], {}, *RECIPE))
    with pytest.raises(AskError, match=r"number of seeds is 2\.5"):
        last(page.race(WHO, 2.5, False, "", ["cfg-cutoff"], {}, *RECIPE))
    with pytest.raises(AskError, match="No lens is chosen"):
        last(page.inspect(WHO, None, {}, "", [], {}, *RECIPE))


def test_a_look_has_the_chosen_edits_in_force(page: Accelerate) -> None:
    report = last(page.inspect(WHO, "denoise-film", {"denoise-film": {"frames": 2}}, "", ["cfg-cutoff"], {}, *RECIPE))[
        2
    ]
    assert report.panels
    assert [edit.card.name for edit in page.desk.history(page.desk.owner(WHO))[0].plan.edits] == ["cfg-cutoff"]
