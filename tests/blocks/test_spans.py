"""Words to token positions, through a byte-level BPE and through both SDXL encoders."""

import pytest

from tests.tiny import tiny_sd, tiny_sdxl
from workbench.blocks.spans import content_words, spans, tokens, words
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
