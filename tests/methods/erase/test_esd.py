"""ESD: its goal in float64, its variants, erasing from one prompt, and what it leaves alone."""

import pytest
import torch

from tests.methods.erase.twins import Network, first, square
from tests.tiny import tiny_sd
from workbench.blocks.groups import select
from workbench.blocks.pools import Room
from workbench.core.errors import AskError
from workbench.core.scene import using
from workbench.core.tape import Step, ignore
from workbench.methods.erase.esd import GROUPS, Esd

QUICK = Esd(**Esd.quick)


def test_the_goal_on_paper() -> None:
    goal = {(who, role): factor for who, role, factor in Esd(concepts="cat", eta=1.0).goal("concept").parts}
    assert goal == {("teacher", "empty"): 2.0, ("teacher", "concept"): -1.0}
    later = {(who, role): factor for who, role, factor in Esd(concepts="cat", eta=2.0).goal("from").parts}
    assert later == {("teacher", "from"): 1.0, ("teacher", "concept"): -2.0, ("teacher", "empty"): 2.0}


@pytest.mark.parametrize("eta", [0.0, 1.0, 3.0])
def test_the_loss_equals_the_equation_in_float64(eta: float) -> None:
    recipe = QUICK.but(eta=eta, batch=5).recipe(tiny_sd())
    states, (loss,), values = first(recipe, nudge=0.2)
    old, new, slow = Network(), Network(values), 0.0
    for row in range(5):
        lesson = recipe.lessons[int(states.lesson[row])]
        concept = old.says(states, row, lesson["concept"])
        empty = old.says(states, row, lesson["empty"])
        slow += square(new.says(states, row, lesson["concept"]), empty - eta * (concept - empty)) / 5
    assert loss == pytest.approx(slow, rel=1e-3)


def test_erasing_from_a_prompt_teaches_that_prompt() -> None:
    edit = QUICK.but(erase_from="the cat", eta=2.0, batch=4)
    recipe = edit.recipe(tiny_sd())
    assert recipe.lessons == ({"concept": "cat", "empty": None, "from": "the cat"},)
    states, (loss,), values = first(recipe, nudge=0.2)
    old, new, slow = Network(), Network(values), 0.0
    for row in range(4):
        start, concept, empty = (old.says(states, row, prompt) for prompt in ("the cat", "cat", None))
        slow += square(new.says(states, row, "the cat"), start - 2 * (concept - empty)) / 4
    assert loss == pytest.approx(slow, rel=1e-3)


def test_preserved_words_are_pulled_to_what_they_were() -> None:
    recipe = QUICK.but(preserve=("dog",), batch=6).recipe(tiny_sd())
    states, losses, values = first(recipe, nudge=0.2)
    old, new, slow = Network(), Network(values), 0.0
    for row in range(6):
        prompt = recipe.lessons[int(states.lesson[row])].get("kept")
        slow += square(new.says(states, row, prompt), old.says(states, row, prompt)) / 6 if prompt else 0
    assert slow > 0
    assert losses[1] == pytest.approx(slow, rel=1e-3)


@pytest.mark.parametrize("variant", ["x", "x-strict", "u", "full"])
def test_each_variant_changes_its_group_alone(variant: str) -> None:
    delta = QUICK.but(variant=variant, iterations=1).fit(tiny_sd(), ignore)
    assert set(delta.tensors) == {handle.key for handle in select(tiny_sd(), GROUPS[variant])}


def test_the_model_says_less_of_the_concept_and_gets_nearer_its_goal() -> None:
    edit = QUICK.but(variant="x", iterations=40, rate=2e-3, batch=4)
    recipe = edit.recipe(tiny_sd())
    bundle, gaps = tiny_sd(), list[float]()
    states, (before,), _ = first(recipe)
    with using(bundle, edit):
        for row in range(4):
            lesson, old = recipe.lessons[int(states.lesson[row])], Network()
            goal = 2 * old.says(states, row, lesson["empty"]) - old.says(states, row, lesson["concept"])
            room = Room(bundle, recipe.lessons)
            with torch.no_grad():
                said = room.predict(
                    states.x[row : row + 1], states.t[row : row + 1],
                    room.cond(room.told(states.lesson[row : row + 1], "concept")))  # fmt: skip
            gaps.append(square(said[0].double(), goal))
    assert sum(gaps) / 4 < 0.5 * before


def test_a_students_walks_are_walked_anew() -> None:
    steps: list[Step] = []
    QUICK.but(walk_by="student", refresh=2, iterations=3).fit(tiny_sd(), steps.append)
    assert len(steps) == 2 * 2 + 3


def test_bad_lists_of_concepts_are_refused() -> None:
    with pytest.raises(AskError, match="esd: 'cat' is to be erased and to be preserved"):
        QUICK.but(preserve=("cat",)).fit(tiny_sd(), ignore)
    with pytest.raises(AskError, match="esd: a concept is empty"):
        QUICK.but(concepts=("",)).fit(tiny_sd(), ignore)


def test_the_first_loss_of_seed_0_is_this_one() -> None:
    assert first(QUICK.recipe(tiny_sd()))[1] == pytest.approx([0.0076219], rel=1e-3)
