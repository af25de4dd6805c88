"""Words to token positions, through a byte-level BPE and through both SDXL encoders."""

import pytest
import torch

from tests.tiny import tiny_sd, tiny_sdxl
from workbench.blocks.spans import (
    Phrase,
    Place,
    aligned,
    content_words,
    corresponding,
    places,
    read_all,
    spans,
    tokens,
    words,
)
from workbench.core.errors import AskError


def test_words_come_once_and_small_words_are_left_out() -> None:
    text = "A cat, the CAT's hat, a red-haired cat!"
    assert words(text) == ("a", "cat", "the", "cat's", "hat", "red-haired")
    assert content_words("a flat emoji of a cat on a red background") == ("flat", "cat", "red")
    assert content_words("of the") == ("of", "the")


@pytest.mark.parametrize("make", [tiny_sd, tiny_sdxl])
def test_a_word_is_found_wherever_it_stands(make) -> None:
    bundle = make()
    first, second = spans(bundle, "a cat and the cat", "cat")
    assert len(first) == len(second) == 1
    ids = bundle.read(["a cat and the cat"]).ids[0].tolist()
    assert ids[first[0]] == ids[second[0]] == bundle.read(["cat"]).ids[0, 1]


def test_a_word_of_several_pieces_and_a_phrase_keep_together() -> None:
    (hippo,) = spans(tiny_sd(), "a hippo", "hippo")
    assert hippo == list(range(2, 2 + len(tokens(tiny_sd(), "hippo"))))
    (phrase,) = spans(tiny_sd(), "the red dog", "red dog")
    assert phrase == [2, 3]


def test_part_of_a_word_is_no_word() -> None:
    with pytest.raises(AskError, match=r"The prompt 'a cat' has no word 'ca'.*Its words: a, cat\."):
        spans(tiny_sd(), "a cat", "ca")


def test_nothing_is_no_word() -> None:
    with pytest.raises(AskError, match="has no word ''"):
        spans(tiny_sd(), "a cat", "")
    assert tokens(tiny_sd(), "") == []


@pytest.mark.parametrize(
    ("span", "mine", "theirs"),
    [
        ("last", [3], [2]),
        ("from-last", [3, 4, 5, 6], [2, 3, 4, 5]),
        ("all", [0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 3, 4, 5, 6]),
        ("after-start", [1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6]),
        ("context", [0, 1, 4, 5, 6], [0, 1, 3, 4, 5]),
    ],
)
def test_spans_on_paper(span, mine, theirs) -> None:
    """Two prompts of seven tokens: start, one word, a subject of two tokens or one, ..., padding."""
    assert corresponding(Place(2, 4, 5), Place(2, 3, 4), 7, span) == (mine, theirs)


@pytest.mark.parametrize("make", [tiny_sd, tiny_sdxl])
def test_states_are_lined_up_by_the_subject_wherever_it_stands(make) -> None:
    bundle = make()
    target, anchor = Phrase.of("the {} on red", "flat cat"), Phrase.of("the {} on red", "dog")
    (pair,) = aligned(bundle, [target], [anchor], "last")
    states = bundle.read(["the flat cat on red", "the dog on red"]).states
    assert torch.allclose(pair[0], states[0, 3:4], atol=1e-5)
    assert torch.allclose(pair[1], states[1, 2:3], atol=1e-5)
    (around,) = aligned(bundle, [target], [anchor], "context")
    assert len(around[0]) == len(around[1]) == 77 - 2  # all of the longer prompt but its subject
    assert torch.allclose(around[0][:2], around[1][:2], atol=1e-5), "what stands before a subject does not know it"


def test_an_empty_subject_is_the_token_before_its_place() -> None:
    bundle = tiny_sd()
    (pair,) = aligned(bundle, [Phrase("cat")], [Phrase("")], "last")
    assert torch.allclose(pair[1][0], bundle.read([""]).states[0, 0], atol=1e-5), "alone, it is the start token"
    empty = Phrase.of("the {} dog", "")
    assert empty.text == "the dog"
    ids = bundle.read([empty.text]).ids
    assert places(bundle, [empty], ids) == [Place(2, 2, 3)]


def test_many_prompts_are_read_once_each_in_the_order_asked() -> None:
    text = read_all(tiny_sd(), ["a cat", "dog", "a cat"])
    assert torch.equal(text.states[0], text.states[2])
    assert text.ids is not None
    assert text.ids[1, 1] == tiny_sd().read(["dog"]).ids[0, 1]


def test_a_subject_beyond_the_prompts_end_is_refused() -> None:
    late = Phrase("cat", before="the " * 80)
    with pytest.raises(AskError, match="longer than the 75 tokens that tiny-sd reads"):
        list(aligned(tiny_sd(), [late], [late], "last"))
