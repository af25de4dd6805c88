"""The benchmark of compositions on the tiny model: what is asked, pooled, resumed, and not measurable."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.methods.measure.painter import Shelf
from tests.tiny import tiny_sd
from workbench.blocks.adapter_files import SHIPPED, read
from workbench.blocks.composition import Composed, Player
from workbench.blocks.judging import concept, world_of
from workbench.blocks.world import World
from workbench.core.bundle import Bundle
from workbench.core.errors import AskError
from workbench.runs.bench import as_text, read_wishes
from workbench.runs.benches import compose
from workbench.runs.benches.compose import (
    PAIRED,  # fmt: skip
    STYLED,
    SUMS,
    Job,
    Wishes,
    alone,
    contrasted,
    ordered,
    plan,
    pooled,
    rows,
    run,
)
from workbench.runs.verbs import load

WISHES = Wishes(minutes=5, pictures=2, prior=4, steps=2, pairs=1, few=1)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return replace(tiny_sd(), store=Shelf(), world=World.load())


def players() -> list[Player]:
    world = world_of(tiny_sd())
    known = {"random:1": ("cat", "fox"), "random:2": ("dog", "gorilla"), "random:3": ("red", "bell"),
             "random:4": ("flat", "emojione")}  # fmt: skip
    return [Player(source, word, concept(world, what)) for source, (word, what) in known.items()]


def test_wishes_are_read_and_refused_in_a_line() -> None:
    assert read_wishes(Wishes, "compose", {"minutes": "25", "pictures": "8"}) == Wishes(minutes=25.0, pictures=8)
    for given, word in (({"minute": "2"}, "no setting 'minute' for compose"), ({"pictures": "x"}, "a number"),
                        ({"minutes": "0"}, "above 0")):  # fmt: skip
        with pytest.raises(AskError, match=word):
            read_wishes(Wishes, "compose", given)


def test_tasks_are_styles_with_the_best_subject_first_then_unlike_and_alike_pairs(bundle: Bundle) -> None:
    def share(hits: int) -> Composed:
        return outcome(hits)

    singles = alone(players())
    assert [job.players[0].source for job in singles] == ["random:1", "random:2", "random:3", "random:4"]
    done = dict(zip(singles, map(share, (3, 20, 9, 30)), strict=True))
    best = ordered(players(), done)
    assert [player.source for player in best] == ["random:4", "random:2", "random:3", "random:1"]
    styled, fitted, paired = plan(bundle, best, Wishes())
    assert [job.players for job in styled[:: len(SUMS) + len(STYLED)]] == [(p, players()[3]) for p in best[1:]]
    assert fitted == []  # what was never fitted cannot be fitted anew
    tasks = {task: [job for job in paired if job.task == task] for task in ("T2", "T3")}
    assert {frozenset((a.about.word, b.about.word)) for a, b in (job.players for job in tasks["T3"])} == {
        frozenset(("fox", "gorilla"))}  # fmt: skip
    assert len({job.players for job in tasks["T2"]}) == 2
    assert {job.way for job in styled} == {*SUMS, *STYLED}
    assert {job.way for job in tasks["T2"]} == {*SUMS, *PAIRED}
    for job in (*styled, *paired):
        assert list(job.edit.adapters) == [player.source for player in job.players]  # type: ignore[attr-defined]
    assert next(job for job in styled if job.way == "sum 0.7").edit.weights == (0.7, 0.7)  # type: ignore[attr-defined]


def test_a_fit_with_the_contrastive_term_differs_from_the_shipped_one_in_that_alone() -> None:
    found = compose.twin(load(), Player("pick", "zwx", concept(world_of(tiny_sd()), "pick")))
    assert found is not None
    there = read(SHIPPED / "pick").training["settings"]
    assert {**there, "contrast": 1.0} == found.to_json()


def test_two_objects_that_the_model_cannot_draw_are_not_measurable(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compose, "STYLED", ("stf", "lora-switch"))
    kept: list[int] = []
    found = run(bundle, players()[1:], WISHES, "cpu", lambda result: kept.append(len(result["rows"])))
    assert found["two_objects"] < 0.5
    states = {row["name"]: row["state"] for row in found["rows"]}
    paired = [state for name, state in states.items() if name.startswith(("T2 ", "T3 "))]
    assert len(paired) == 1
    assert all(state.startswith("not measurable on this tier: the unedited model draws two") for state in paired)
    assert states["T1 stf: random:2 + random:4"] == "done"
    assert states["T5 lora: random:4"] == "done"
    assert {states[f"T1 {way}: 1 of 1 pairs"] for way in SUMS} == {"best sum", "no difference shown"}
    assert not any("prior" in row["numbers"] for row in found["rows"] if row["group"] == "T1")
    assert "not measurable" in as_text(found)
    assert len(kept) > 3
    drawn = dict(bundle.store.kept)  # type: ignore[union-attr]
    again = run(bundle, players()[1:], WISHES, "cpu", lambda result: None)
    assert [row["numbers"] for row in again["rows"]] == [row["numbers"] for row in found["rows"]]
    assert set(bundle.store.kept) == set(drawn)  # type: ignore[union-attr]


def test_what_the_budget_does_not_reach_says_so(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = replace(bundle, store=Shelf())
    found = run(fresh, players(), replace(WISHES, minutes=1e-9), "cpu", lambda result: None)
    assert {row["state"] for row in found["rows"]} == {"not reached"}
    with pytest.raises(AskError, match="and there are none"):
        run(fresh, [], WISHES, "cpu", lambda result: None)


def outcome(hits: int, count: int = 32) -> Composed:
    both = torch.arange(count) < hits
    whole = torch.ones(count, dtype=torch.bool)
    return Composed("", {"subject": whole, "style": both, "both": both}, whole, whole, torch.zeros(count), 1.0)


def test_a_way_wins_only_over_the_best_sum_and_where_the_interval_excludes_nothing() -> None:
    pair = (players()[0], players()[3])
    hits = {"sum 0.5": 2, "sum 0.7": 12, "sum 1.0": 6, "stf": 30, "k-lora": 13, "lora-switch": 0}
    done = {Job("T1", way, pair): outcome(count) for way, count in hits.items()}
    other = (players()[1], players()[3])
    half = {Job("T1", way, other): outcome(1) for way in ("sum 0.5", "stf")}
    jobs = [*done, *(replace(job, players=other) for job in done)]
    made = {row["way"]: row for row in rows(jobs, done | half, {}, None, 0.5) if row["name"].endswith("pairs")}
    assert made["stf"]["name"] == "T1 stf: 1 of 2 pairs"
    assert {way: row["state"] for way, row in made.items()} == {
        "sum 0.5": "loses", "sum 0.7": "best sum", "sum 1.0": "loses", "stf": "wins", "k-lora": "no difference shown",
        "lora-switch": "loses"}  # fmt: skip
    assert made["stf"]["numbers"]["gain"] == pytest.approx(18 / 32, abs=1e-4)
    assert made["stf"]["numbers"]["product_gain"] == pytest.approx(18 / 32, abs=1e-4)
    assert pooled([*jobs, Job("T1", "least-squares", pair)], done | half) == {}
    alone = {Job("T5", "lora", (player,)): outcome(count) for player, count in zip(players(), (32, 3), strict=False)}
    assert compose.note(alone).endswith("of their pictures: random:2 9%.")
    assert compose.note({}).startswith("Every adapter alone shows")


def plainly(subject: int, right: int, count: int = 32) -> Composed:
    whole, after = torch.ones(count, dtype=torch.bool), torch.arange(count) < right
    return Composed("", {"subject": torch.arange(count) < subject}, whole, after, 1 - after.double(), 1.0)


@pytest.mark.parametrize(
    ("plain", "cat", "verdict"),
    [
        ((16, 10), (16, 28), "raises prior preservation, identity equal within its interval"),
        ((30, 10), (2, 28), "raises prior preservation, identity lower within its interval"),
        ((16, 20), (16, 21), "no difference shown in prior preservation, identity equal within its interval"),
        ((2, 28), (30, 8), "lowers prior preservation, identity higher within its interval"),
    ],
)
def test_the_contrastive_term_is_judged_by_what_plain_prompts_and_the_subject_came_to(
    plain: tuple[int, int], cat: tuple[int, int], verdict: str
) -> None:
    player = (players()[0],)
    lora, fitted = Job("T5", "lora", player), Job("T5", "cat", player)
    (row,) = contrasted([lora, fitted], {lora: plainly(*plain), fitted: plainly(*cat)})
    assert row["state"] == verdict
    assert row["numbers"]["prior_gain"] == pytest.approx((cat[1] - plain[1]) / 32, abs=1e-4)
    assert row["numbers"]["gain"] == pytest.approx((cat[0] - plain[0]) / 32, abs=1e-4)
    assert contrasted([lora, fitted], {lora: plainly(*plain)}) == []


def test_a_failure_is_a_state_and_not_the_end(bundle: Bundle) -> None:
    field: Any = compose._Field(bundle, WISHES, compose.Budget(5))
    strange = Player("no-such-adapter", "cat", players()[0].about)
    assert field.measured(Job("T5", "lora", (strange,))).startswith("failed: There is no adapter 'no-such-adapter'")
