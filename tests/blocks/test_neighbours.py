"""Banks of words: near ones on paper and as a text encoder has them."""

from dataclasses import replace

import pytest
import torch

from tests.tiny import tiny_sd, tiny_sdxl
from workbench.blocks.neighbours import Bank, bank, suggest, vocabulary
from workbench.blocks.world import World
from workbench.core.errors import AskError


def test_near_words_on_paper() -> None:
    four = Bank(("a", "b", "c", "d"), torch.tensor([[1.0, 0.0], [3.0, 0.5], [0.0, 2.0], [-4.0, -2.5]]))
    assert [word for word, _ in four.near("a", 3, "euclidean")] == ["b", "c", "d"]
    assert four.near("a", 1, "euclidean")[0][1] == pytest.approx(4.25**0.5)
    nearest, likeness = four.near("a", 1)[0]  # the bank's mean is the origin
    assert (nearest, round(likeness, 4)) == ("b", round(3 / 9.25**0.5, 4))
    assert [word for word, _ in four.near("a", 3, leave_out=("B",))] == ["c", "d"]


def test_representatives_stand_for_clusters() -> None:
    points = torch.tensor([[0.0, 0], [0.1, 0], [-0.1, 0], [9, 9], [9.1, 9], [8.9, 9]])
    assert set(Bank(tuple("abcdef"), points).representatives(2)) == {"a", "d"}


@pytest.mark.parametrize("make", [tiny_sd, tiny_sdxl])
def test_a_bank_holds_the_end_tokens_state_of_each_word_once(make) -> None:
    bundle = make()
    found = bank(bundle, ["cat", "red dog", "cat"])
    assert found.words == ("cat", "red dog")
    states = bundle.read(["a red dog"]).states[0]
    assert torch.allclose(found.vectors[1], states[4], atol=1e-5)  # start, a, red, dog, end
    assert bank(bundle, ["cat"], whole=True).vectors.shape == (1, states.numel())


def test_a_word_is_its_own_nearest_but_never_named() -> None:
    found = bank(tiny_sd(), ["cat", "dog", "flat", "red"])
    assert len(found.near("cat", 9)) == 3
    assert "cat" not in dict(found.near("cat", 9))
    with pytest.raises(AskError, match="'cow' is not among the 4 words"):
        found.near("cow", 1)


def test_suggestions_leave_out_targets_and_their_synonyms() -> None:
    emoji = replace(tiny_sd(), world=World.load())
    found = suggest(emoji, ("cat face",), 5, among=["cat", "kitten", "dog face", "cow", "pizza", "Cat face"])
    assert set(found) == {"dog face", "cow", "pizza"}
    assert suggest(tiny_sd(), ("cat",), 5, among=["cat"]) == ()
    both = suggest(tiny_sd(), ("cat", "dog"), 2, among=["flat", "red", "the"])
    assert len(both) == 2


def test_the_vocabulary_is_what_the_model_was_trained_on() -> None:
    emoji = replace(tiny_sd(), world=World.load())
    assert set(vocabulary(emoji)) == set(World.load().tier)
    some = vocabulary(tiny_sd(), 20)
    assert len(set(some)) == 20
    assert "gorilla" in vocabulary(tiny_sd())
