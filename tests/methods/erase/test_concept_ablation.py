"""Concept ablation: both goals and the prior in float64, on noised pictures of the anchor."""

import pytest

from tests.methods.erase.twins import Network, first, square
from tests.tiny import tiny_sd
from workbench.core.errors import AskError
from workbench.core.tape import ignore
from workbench.methods.erase.concept_ablation import ConceptAblation

QUICK = ConceptAblation(**ConceptAblation.quick)


@pytest.mark.parametrize("goal", ["model", "noise"])
def test_the_loss_equals_the_equations_in_float64(goal: str) -> None:
    recipe = QUICK.but(goal=goal, prior=0.7, batch=4).recipe(tiny_sd())
    states, losses, values = first(recipe, nudge=0.2)
    new, slow = Network(values), [0.0, 0.0]
    for row in range(4):
        lesson = recipe.lessons[int(states.lesson[row])]
        anchor, noise = new.says(states, row, lesson["anchor"]), states.truth[row].double()
        slow[0] += square(new.says(states, row, lesson["concept"]), anchor if goal == "model" else noise) / 4
        slow[1] += 0.7 * square(anchor, noise) / 4
    assert losses == pytest.approx(slow, rel=1e-3)


def test_the_pictures_show_the_anchor_in_the_words_of_the_target() -> None:
    recipe = QUICK.recipe(tiny_sd())
    assert recipe.source.roles == ("anchor", "kept")
    assert all(lesson["anchor"] == lesson["concept"].replace("cat", "dog") for lesson in recipe.lessons)
    assert recipe.group == "xattn_kv"


def test_preserved_words_make_every_second_picture() -> None:
    recipe = QUICK.but(preserve=("red",), batch=6).recipe(tiny_sd())
    assert ["kept" in lesson for lesson in recipe.lessons[:4]] == [False, True, False, True]
    states, losses, values = first(recipe, nudge=0.2)
    old, new, slow = Network(), Network(values), 0.0
    for row in range(6):
        prompt = recipe.lessons[int(states.lesson[row])].get("kept")
        slow += square(new.says(states, row, prompt), old.says(states, row, prompt)) / 6 if prompt else 0
    assert losses[1] == pytest.approx(slow, rel=1e-3)


def test_a_target_that_is_its_own_anchor_is_refused() -> None:
    with pytest.raises(AskError, match="concept-ablation: 'cat' is to be erased and its own anchor"):
        QUICK.but(anchor="cat").fit(tiny_sd(), ignore)


def test_the_first_loss_of_seed_0_is_this_one() -> None:
    assert first(QUICK.recipe(tiny_sd()))[1] == pytest.approx([0.00070192], rel=1e-3)
