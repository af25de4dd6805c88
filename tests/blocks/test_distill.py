"""The loop of score distillation: scores as in papers, one call a step, exact restarts, masks, nothing left behind."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.contract.stage import globals_unmoved, unchanged
from tests.methods.erase.twins import Network, first, square
from tests.tiny import tiny_sd
from workbench.blocks.distill import TRUTH, Batch, Gradients, Pull, Recipe, Score, distill, student, teacher
from workbench.blocks.groups import select
from workbench.blocks.pools import Pictures, Walks
from workbench.core.bundle import Bundle
from workbench.core.errors import CheckpointMismatch, MethodError, Stopped
from workbench.core.patch import Patch
from workbench.core.tape import Step

LESSONS = ({"concept": "a cat", "empty": None}, {"kept": "the dog"})
AWAY = Pull(student("concept"), 2.0 * teacher("empty") - teacher("concept"))
STAY = Pull(student("kept"), teacher("kept"), 0.5)
RECIPE = Recipe(LESSONS, (AWAY, STAY), Walks(2, 2), "xattn_kv", iterations=4, batch=2, rate=1e-3)


class Shelf:
    """A store in memory."""

    def __init__(self) -> None:
        self.kept: dict[str, tuple[dict[str, Tensor], dict[str, str]]] = {}

    def tensors(self, key: str) -> tuple[dict[str, Tensor], dict[str, str]] | None:
        return self.kept.get(key)

    def keep_tensors(self, key: str, tensors: Mapping[str, Tensor], text: Mapping[str, str]) -> None:
        self.kept[key] = ({k: v.detach().clone() for k, v in tensors.items()}, dict(text))

    def json(self, key: str) -> object:
        return None

    def keep_json(self, key: str, value: object) -> None: ...


def test_scores_add_up_as_on_paper() -> None:
    empty, concept = teacher("empty"), teacher("concept")
    score = empty - 1.5 * (concept - empty)
    assert {(who, role): factor for who, role, factor in score.parts} == {
        ("teacher", "empty"): 2.5, ("teacher", "concept"): -1.5}  # fmt: skip
    assert score.total == 1.0
    assert (empty - empty).parts == ()
    values = {"empty": torch.tensor(2.0), "concept": torch.tensor(3.0)}
    assert float(score.value(lambda who, role: values[role])) == 2.5 * 2 - 1.5 * 3


def test_scores_of_different_totals_are_not_pulled_together() -> None:
    with pytest.raises(MethodError, match="A score of total 1 is pulled to one of 0"):
        Pull(student("concept"), teacher("concept") - teacher("empty"))
    with pytest.raises(MethodError, match="Only what the student says"):
        Pull(student("concept") + teacher("empty"), 2.0 * TRUTH)
    Pull(student("concept") - student("empty"), teacher("anchor") - teacher("empty"))  # guidance terms may


@pytest.mark.parametrize("space", ["prediction", "epsilon", "x0"])
def test_the_loss_equals_the_formula_in_float64(space: str) -> None:
    away, span = replace(AWAY, space=space, weight=0.7), (0.4, 1.0)  # type: ignore[arg-type]
    recipe = replace(RECIPE, terms=(away, STAY, replace(away, span=span)), batch=6)
    states, losses, values = first(recipe, nudge=0.3)
    old, new = Network(), Network(values)
    bars = tiny_sd().scheduler("ddpm", 2).alphas_cumprod.double()
    slow = [0.0, 0.0, 0.0]
    for row in range(6):
        bar = bars[states.t[row]]
        factor = float((1 - bar) / bar) if space == "x0" else 1.0  # the tiny model predicts noise
        if states.lesson[row] == 0:
            goal = 2 * old.says(states, row, None) - old.says(states, row, "a cat")
            gap = 0.7 * factor * square(new.says(states, row, "a cat"), goal) / 6
            slow[0] += gap
            slow[2] += gap if states.t[row] >= 400 else 0
        else:
            slow[1] += 0.5 * square(new.says(states, row, "the dog"), old.says(states, row, "the dog")) / 6
    assert losses == pytest.approx(slow, rel=1e-3)
    assert min(losses) > 0


def test_the_students_own_words_are_constants_in_a_goal() -> None:
    lessons = ({"concept": "a cat", "anchor": "the dog"},)
    pull = Pull(student("concept"), student("anchor"))
    states, (loss,), values = first(Recipe(lessons, (pull,), Pictures(2, 2), "xattn_v", batch=2), nudge=0.3)
    new = Network(values)
    slow = [square(new.says(states, row, "a cat"), new.says(states, row, "the dog")) for row in range(2)]
    assert loss == pytest.approx(sum(slow) / 2, rel=1e-3)
    noise = Pull(student("concept"), TRUTH)
    states, (loss,), values = first(Recipe(lessons, (noise,), Pictures(2, 2), "xattn_v", batch=2), nudge=0.3)
    slow = [square(Network(values).says(states, row, "a cat"), states.truth[row].double()) for row in range(2)]
    assert loss == pytest.approx(sum(slow) / 2, rel=1e-3)


def test_one_step_is_one_step_of_adam_along_the_gradient() -> None:
    recipe = replace(RECIPE, lessons=LESSONS[:1], terms=(AWAY,), iterations=1, rate=1e-3)
    states, _, _ = first(recipe)
    network = Network({})
    unet = network.unet.requires_grad_(True)
    total = torch.zeros((), dtype=torch.float64)
    for row in range(2):
        goal = 2 * network.says(states, row, None) - network.says(states, row, "a cat")
        with torch.enable_grad():
            total = total + (Network.says.__wrapped__(network, states, row, "a cat") - goal).square().mean() / 2
    delta = distill(tiny_sd(), recipe)
    named = dict(unet.named_parameters())
    wanted = [named[key.removeprefix("unet:")] for key in delta.tensors]
    for change, grad in zip(delta.tensors.values(), torch.autograd.grad(total, wanted), strict=True):
        sure = grad.abs() > 1e-3 * grad.abs().max()  # elsewhere Adam's first step is the sign of rounding
        expected = -1e-3 * grad / (grad.abs() + 1e-8)
        assert_close(change.double()[sure], expected[sure], atol=2e-5, rtol=0)
    unet.requires_grad_(False)


def test_each_step_asks_once_with_gradient_and_never_again_what_was_said_on_a_walk() -> None:
    asked: list[tuple[bool, int]] = []

    def attach(patch: Patch) -> None:
        def count(module: object, args: tuple[Tensor, ...], kwargs: object) -> None:
            asked.append((torch.is_grad_enabled(), len(args[0])))

        patch.hook(tiny_sd().parts["unet"], count, "before")

    recipe = replace(RECIPE, lessons=LESSONS[:1], terms=(AWAY,), iterations=3, attach=attach)
    with unchanged(tiny_sd(), "after an observer"):
        distill(tiny_sd(), recipe)
    assert asked == [(False, 4)] * 2 + [(True, 2)] * 3


def test_the_model_is_bit_for_bit_what_it_was_and_so_are_the_global_generators() -> None:
    bundle = tiny_sd()
    with unchanged(bundle, "after distilling", deep=True), globals_unmoved("distill", python=False), torch.no_grad():
        one, other = distill(bundle, RECIPE), distill(bundle, RECIPE)
    assert all(torch.equal(one.tensors[key], other.tensors[key]) for key in one.tensors)
    assert set(one.tensors) == {handle.key for handle in select(bundle, "xattn_kv")}

    def stop(step: Step) -> None:
        if step.index == 3:
            raise Stopped

    with unchanged(bundle, "after a stop", deep=True), pytest.raises(Stopped):
        distill(bundle, RECIPE, stop)


@pytest.mark.parametrize("by", ["base", "student"])
def test_a_stopped_fit_goes_on_to_the_same_bits(by: str) -> None:
    walks = Walks(2, 2, by=by, refresh=2 if by == "student" else 0)  # type: ignore[arg-type]
    recipe = replace(RECIPE, source=walks, iterations=4, rank=2 if by == "base" else 0)
    whole = distill(tiny_sd(), recipe)
    shelf = Shelf()
    kept: Bundle = replace(tiny_sd(), store=shelf)  # type: ignore[arg-type]
    taught: list[Step] = []

    def stop(step: Step) -> None:
        taught.append(step)
        if len(taught) == step.total - 2:  # two iterations are left
            raise Stopped

    with pytest.raises(Stopped):
        distill(kept, recipe, stop, name="one")
    assert [text["iteration"] for _, text in shelf.kept.values()] == ["2"]
    after: list[Step] = []
    again = distill(kept, recipe, after.append, name="one")
    assert len(after) < len(taught) + 2
    assert all(torch.equal(whole.tensors[key], again.tensors[key]) for key in whole.tensors)
    assert [tensors for tensors, _ in shelf.kept.values()] == [{}]  # a finished fit leaves nothing to restart from


def test_progress_counts_walks_and_iterations_to_the_announced_total() -> None:
    steps: list[Step] = []
    distill(tiny_sd(), RECIPE, steps.append)
    assert [step.index for step in steps] == list(range(2 + 4))
    assert {step.total for step in steps} == {6}
    assert [set(step.numbers) for step in steps] == [set()] * 2 + [{"loss"}] * 4
    assert all(step.numbers["loss"] > 0 for step in steps[2:])


def test_terms_may_be_combined_gradient_by_gradient() -> None:
    seen: list[Sequence[Gradients]] = []

    def combine(parts: Sequence[Gradients]) -> Gradients:
        seen.append(parts)
        return {key: sum(part[key] for part in parts if key in part) for part in parts for key in part}  # type: ignore[misc]

    plain = distill(tiny_sd(), replace(RECIPE, iterations=1, batch=6))
    summed = distill(tiny_sd(), replace(RECIPE, iterations=1, batch=6, combine=combine))
    assert len(seen) == 1
    assert len(seen[0]) == 2
    # the second term's gradient is zero at the start, so the sums differ by rounding alone
    for key in plain.tensors:
        assert_close(summed.tensors[key], plain.tensors[key], atol=1e-4, rtol=0)
    none = distill(tiny_sd(), replace(RECIPE, iterations=1, combine=lambda parts: {}))
    assert not any(value.any() for value in none.tensors.values())


def test_masked_entries_do_not_move_whatever_decays() -> None:
    masks = {handle.key: torch.zeros_like(handle.weight) for handle in select(tiny_sd(), "xattn_kv")}
    first_key = next(iter(masks))
    masks[first_key][0] = 1
    delta = distill(tiny_sd(), replace(RECIPE, masks=masks, decay=0.5))
    assert delta.tensors[first_key][0].all()
    assert all(not (value * (1 - masks[key])).any() for key, value in delta.tensors.items())


def test_a_companion_may_choose_what_is_said_and_is_restored() -> None:
    class Chooser:
        def __init__(self) -> None:
            self.seen = 0

        def before(self, batch: Batch) -> None:
            self.seen += 1
            batch.conds["kept"] = batch.room.cond(torch.zeros(len(batch.states.t), dtype=torch.long))

        def tensors(self) -> dict[str, Tensor]:
            return {"seen": torch.tensor(self.seen)}

        def restore(self, tensors: Mapping[str, Tensor]) -> None:
            self.seen = int(tensors["seen"])

    chooser = Chooser()
    free = distill(tiny_sd(), replace(RECIPE, companion=chooser))
    assert chooser.seen == 4
    plain = distill(tiny_sd(), RECIPE)
    assert any(not torch.equal(free.tensors[key], plain.tensors[key]) for key in plain.tensors)


def test_a_loss_that_is_not_finite_ends_the_fit_with_a_reason() -> None:
    broken = Score((("teacher", "empty", float("inf")),))
    pull = replace(AWAY)
    object.__setattr__(pull, "goal", broken)
    with unchanged(tiny_sd(), "after failing"), pytest.raises(CheckpointMismatch, match="after 0 iterations at rate"):
        distill(tiny_sd(), replace(RECIPE, lessons=LESSONS[:1], terms=(pull,)))


def test_the_first_loss_of_seed_0_is_this_one() -> None:
    _, losses, _ = first(RECIPE)
    assert losses[0] == pytest.approx(0.032245, rel=1e-3)
