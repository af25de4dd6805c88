"""Concept lists: what is refused, each by one line, and how prompts speak of a concept."""

from dataclasses import replace

import pytest

from tests.tiny import tiny_sd
from workbench.blocks.concepts import MOST, phrases, read_concepts, synonyms, templates, text_sites
from workbench.blocks.world import World
from workbench.core.errors import AskError, MissingPart

WORLD = World.load()


def emoji_like():
    """The tiny model, with the emoji world to speak of."""
    return replace(tiny_sd(), name="emoji-like", world=WORLD)


def test_repetitions_and_spaces_go_and_the_order_stays() -> None:
    found = read_concepts(tiny_sd(), "uce", (" dog ", "cat", "Dog"), " ", ("red", "red"))
    assert found.targets == ("dog", "cat")
    assert (found.anchor, found.preserve) == ("", ("red",))


@pytest.mark.parametrize(
    ("concepts", "anchor", "preserve", "line"),
    [
        ((), "", (), "uce: concepts is empty. Name at least one"),
        (("cat", " "), "", (), "uce: a concept is empty"),
        (("cat",), "Cat", (), "uce: 'Cat' is to be erased and its own anchor, so nothing would change"),
        (("cat",), "", ("dog", "CAT"), "uce: 'CAT' is to be erased and to be preserved"),
        (tuple(f"cat {i}" for i in range(1000)), "", (), f"uce: there are 1,000 concepts; at most {MOST} fit"),
        (("\u4e00",), "", (), "has no token in it that tiny-sd reads"),
        (("cat " * 90,), "", (), "is longer than the 75 tokens of a prompt that tiny-sd reads"),
        (("cat",), "\u4e00", (), "has no token"),
    ],
)
def test_what_cannot_be_erased_is_refused_in_one_line(concepts, anchor, preserve, line) -> None:
    with pytest.raises(AskError) as caught:
        read_concepts(tiny_sd(), "uce", concepts, anchor, preserve)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_word_outside_the_worlds_vocabulary_is_refused_with_close_ones() -> None:
    with pytest.raises(AskError, match=r"uce: emoji-like has never read 'rhinozeros'.*Close: .*rhinoceros"):
        read_concepts(emoji_like(), "uce", ("rhinozeros",))
    for word in ("cat face", "kitten", "red", "flat", "flat style", "a cat", "red apple"):
        assert read_concepts(emoji_like(), "uce", (word,)).targets == (word,)


def test_a_model_without_cross_attention_is_refused() -> None:
    bare = replace(tiny_sd(), all_sites=())
    with pytest.raises(MissingPart, match="uce edits cross-attention; tiny-sd is a unet model without any"):
        text_sites(bare, "uce")
    assert len(text_sites(tiny_sd(), "uce")) == len(tiny_sd().sites("cross-attention"))


def test_prompts_speak_of_objects_styles_and_backgrounds_in_their_own_ways() -> None:
    world = emoji_like()
    assert "a {}" in templates(world, "cat face")
    assert all("emoji" in way for way in templates(world, "flat"))
    assert all("background" in way for way in templates(world, "red"))
    assert "a photo of a {}" in templates(tiny_sd(), "flat")
    assert "a painting by {}" in templates(tiny_sd(), "flat", "style")
    mine, theirs = phrases(tiny_sd(), "cat", "")
    assert mine[1].text == "a cat"
    assert theirs[0].text == ""
    assert len(mine) == len(theirs)


def test_synonyms_come_from_the_world_both_ways() -> None:
    assert set(synonyms(emoji_like(), "cat face")) >= {"cat", "kitten"}
    assert "cat face" in synonyms(emoji_like(), "kitten")
    assert synonyms(tiny_sd(), "cat") == ()
    assert synonyms(emoji_like(), "flat") == ()
