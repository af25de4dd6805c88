"""The benchmark of erasers on painted pictures: what is chosen, what is reached, what is kept."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar

import pytest

from tests.methods.measure.painter import DRAWN, Forget, Painter, painted_scene
from tests.toys import card, listed, unlisted
from workbench.blocks.judging import world_of
from workbench.core.bundle import Bundle
from workbench.core.errors import AskError
from workbench.runs.bench import Options, as_text, run_bench
from workbench.runs.benches import erase
from workbench.runs.benches.erase import Budget, Job, Wishes, chosen, measured, missed, plan

WISHES = Wishes(pictures=4, screen=4, objects=1, styles=0, trained=1)


@unlisted
class Walker(Painter):
    """The painter, with the setting that the benchmark makes."""

    card: ClassVar = card("toy-walker", families=("any",))
    steps: int = 10


@pytest.fixture
def bundle() -> Iterator[Bundle]:
    made = painted_scene().bundle
    world = world_of(made)
    split = {**world.split, "erase": {"objects": ["rocket", "cat face", "dog face"], "styles": ["ink"]}}
    judge = made.open("emoji-judge")
    judge = replace(judge, about={**judge.about, "objects": ["cat face", "dog face", "rocket"]})
    with listed(Walker):
        yield replace(made, world=replace(world, split=split), sampler="toy-walker", opener=lambda _: judge)


def test_wishes_are_read_and_refused_in_a_line() -> None:
    assert Wishes.read({"minutes": "25", "pictures": "8"}) == Wishes(minutes=25.0, pictures=8)
    for given, word in (({"minute": "2"}, "no setting 'minute'"), ({"pictures": "x"}, "a number"),
                        ({"minutes": "-1"}, "above 0")):  # fmt: skip
        with pytest.raises(AskError, match=word):
            Wishes.read(given)


def test_targets_are_the_first_that_the_model_draws_or_the_best(bundle: Bundle) -> None:
    objects, styles, shares = chosen(bundle, Walker(), replace(WISHES, objects=2), Budget(1))
    assert objects == ["cat face", "dog face"]
    assert shares == {"rocket": 0.0, "cat face": 1.0, "dog face": 1.0}
    assert styles == []
    assert chosen(bundle, Walker(), replace(WISHES, objects=1), Budget(1))[0] == ["cat face"]
    assert chosen(bundle, Walker(), replace(WISHES, objects=3), Budget(1))[0] == ["cat face", "dog face", "rocket"]


def test_closed_forms_come_first_and_trained_ones_on_few_targets(bundle: Bundle) -> None:
    jobs = list(plan(world_of(bundle), ["a", "b", "c"], ["s"], replace(WISHES, trained=2)))
    groups = [job.group for job in jobs]
    assert groups == sorted(groups, key=["closed", "trained", "many", "free"].index)
    assert {job.words[0] for job in jobs if job.group == "closed"} == {"a", "b", "c", "s"}
    assert {job.words[0] for job in jobs if job.group == "trained"} == {"a", "b"}
    assert {(job.words[0], job.anchor) for job in jobs if job.anchor} == {("s", "ink")}


def test_a_cell_is_fitted_drawn_and_judged_once(bundle: Bundle) -> None:
    with listed(Forget):
        job = Job("closed", "toy-forget", ("cat",))
        row = measured(bundle, Walker(), job, WISHES, Budget(5))
        assert (row["state"], row["name"]) == ("done", "toy-forget: cat")
        assert row["numbers"]["target"] == 0.0
        drawn = len(DRAWN)
        again = measured(bundle, Walker(), job, WISHES, Budget(5))
        assert len(DRAWN) == drawn
        assert again["numbers"] == row["numbers"]


def test_what_the_budget_does_not_reach_says_so(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[dict[str, Any]] = []
    jobs = [Job("closed", "toy-forget", ("cat",)), Job("trained", "toy-forget", ("dog",))]
    monkeypatch.setattr(erase, "plan", lambda *_: iter(jobs))
    monkeypatch.setattr(erase, "load", lambda *_, **__: bundle)

    def spent(*_: Any) -> dict[str, Any]:
        monkeypatch.setattr(Budget, "over", True)
        return {"name": "first", "numbers": {}, "state": "done"}

    monkeypatch.setattr(erase, "measured", spent)
    options = Options(more={"pictures": "4", "screen": "4", "objects": "1", "styles": "0"})
    result = run_bench("erase", options, lambda found: kept.append({**found, "rows": list(found["rows"])}))
    assert [row["state"] for row in result["rows"]] == ["done", "not reached"]
    assert [row["state"] for row in kept[0]["rows"]] == ["not reached", "not reached"]
    assert result["model"]["digest"] == bundle.digest
    assert "toy-forget: dog: not reached" in as_text(result)


def test_a_failure_is_a_row_and_not_the_end(bundle: Bundle) -> None:
    row = measured(bundle, Walker(), Job("closed", "no-such", ("cat",)), WISHES, Budget(5))
    assert row["state"].startswith("failed: No method called 'no-such'")


def test_what_was_promised_and_missed_is_listed() -> None:
    held = {"target_before": 0.9, "target": 0.05, "loss": 0.02, "fit_seconds": 1.0, "broken": 0.0}
    assert missed("closed", held) == []
    lines = missed("closed", {**held, "target": 0.2, "loss": 0.06, "fit_seconds": 3.0, "broken": 1.0})
    assert len(lines) == 4
    assert "target left in 20% of pictures, more than 10%" in lines
