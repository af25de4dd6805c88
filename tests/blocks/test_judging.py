"""Concepts, and what an eye sees in painted pictures."""

import pytest
import torch

from tests.methods.measure.scorers import colour_judge, painted
from workbench.blocks.judging import Concept, Eye, Seen, concept, halves, other_words, seen_of, self_test, world_of
from workbench.blocks.world import World
from workbench.core.errors import AskError, MissingPart

CAT, DOG, FLAT = Concept("cat", frozenset({"cat"})), Concept("dog", frozenset({"dog"})), Concept("flat", style="flat")


@pytest.fixture(scope="module")
def world() -> World:
    return World.load()


def eye(none: bool = True) -> Eye:
    return Eye(colour_judge(["cat", "dog", "fox"], ["flat", "noto"], none))


def test_a_word_means_its_object_its_synonyms_objects_or_a_style(world: World) -> None:
    assert concept(world, "rocket").labels == {"rocket"}
    assert {"cat", "cat face"} <= concept(world, " Cat ").labels
    assert concept(world, "ink style") == Concept("ink style", style="ink")
    with pytest.raises(AskError, match="no name for 'plumbus'"):
        concept(world, "plumbus")


def test_other_words_mean_nothing_else(world: World) -> None:
    face = concept(world, "cat face")
    for word in other_words(world, face):
        assert concept(world, word).labels & set(world.tier) <= face.labels
    assert "kitten" in other_words(world, face)
    assert other_words(world, FLAT) == ()


@pytest.mark.parametrize("none", [True, False])
def test_the_likeliest_answer_counts(none: bool) -> None:
    look = eye(none)
    seen = look.look(painted("red", "green", "red"))
    assert look.shows(seen, CAT).tolist() == [True, False, True]
    assert look.shows(seen, DOG).tolist() == [False, True, False]
    assert look.shows(seen, FLAT).tolist() == [True] * 3
    assert look.answers(seen, CAT) == {"cat": 2, "dog": 1}


def test_nothing_is_an_answer_of_its_own() -> None:
    look = eye()
    seen = look.look(painted("blue"))
    assert not look.shows(seen, CAT).any()
    assert look.answers(seen, CAT) == {"none": 1}


def test_belief_is_the_softmax_by_hand() -> None:
    look = eye()
    belief = float(look.belief(look.look(painted("red")), CAT)[0])
    logits = torch.tensor([1.0, -1, -5, -1], dtype=torch.float64)  # cat, dog, fox, none
    assert belief == pytest.approx(float(logits.exp()[0] / logits.exp().sum()), abs=1e-6)


def test_pixels_are_measured_in_shares_of_full_scale() -> None:
    board = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    board[..., ::2] = 255
    seen = eye().look(board)
    assert seen.spread.tolist() == [0.5]
    assert seen.rough.tolist() == [0.5]  # every step to the right is 1, every step down 0


def test_what_was_seen_can_be_kept_and_joined() -> None:
    look = eye()
    one, two = look.look(painted("red")), look.look(painted("green", "blue"))
    both = Seen.join([one, seen_of(two.tensors())])
    assert len(both) == 3
    assert look.answers(both, CAT) == {"cat": 1, "dog": 1, "none": 1}


def test_a_model_that_is_no_judge_is_refused() -> None:
    judge = colour_judge(["cat", "dog", "fox"], ["flat", "noto"]).open("emoji-judge")
    with pytest.raises(MissingPart, match="answers 9 numbers for 3 objects and 2 styles"):
        halves(torch.zeros(1, 9), judge)


def test_the_self_test_draws_what_it_says() -> None:
    bundle = colour_judge(["cat", "dog", "fox"], ["flat", "noto"])
    hits, count = self_test(Eye(bundle), world_of(bundle), [CAT, CAT, DOG])
    assert count == 8
    assert 0 <= hits <= 8
