"""What prompts name, with the shipped world."""

import functools

import pytest

from workbench.blocks.wording import parse
from workbench.blocks.world import World


@functools.cache
def world() -> World:
    return World.load()


def said(prompt: str) -> tuple[list[str], str, str]:
    found = parse(world(), prompt)
    return ["|".join(sorted(names)) for names in found.objects], found.style, found.background


def test_a_caption_in_full() -> None:
    assert said("a flat emoji of a cat on a red background") == (["cat"], "flat", "red")


def test_two_objects_left_to_right() -> None:
    assert said("an ink emoji of a dog and a cat")[0] == ["dog", "cat"]


def test_plain_words_and_foreign_sentences() -> None:
    assert said("a cat")[0] == ["cat"]
    assert said("A photo of a cat, very detailed")[0] == ["cat"]
    assert said("nothing of the kind xyzzy") == ([], "", "")
    assert said("") == ([], "", "")


def test_the_longest_name_wins() -> None:
    long = next(label for label in world().concepts if label.endswith(" face") and label.startswith("cat"))
    assert said(f"a noto emoji of a {long}")[0] == [long]


@pytest.mark.parametrize("style", ["flat", "3d", "blob"])
def test_styles_count_before_the_word_emoji_alone(style: str) -> None:
    assert said(f"a {style} emoji of a cat")[1] == style
    assert said(f"a cat in {style}")[1] == ""


def test_a_synonym_names_every_object_that_has_it() -> None:
    thing = next(t for t in world().objects if t.synonyms and t.synonyms[0] not in world().concepts)
    names = parse(world(), f"a {thing.synonyms[0]} on a blue background").objects
    assert thing.label in names[0]


def test_the_worlds_own_captions_are_understood() -> None:
    scenes = [(s.caption, [layer.object for layer in s.layers]) for s in world().scenes(0, 100, size=16)]
    right = 0
    for caption, objects in scenes:
        names = parse(world(), caption).objects
        right += len(names) == len(objects) and all(o in n for o, n in zip(objects, names, strict=True))
    assert right >= 95, right


def test_every_label_is_found_in_a_caption() -> None:
    wrong = [label for label in world().concepts if said(f"a flat emoji of a {label}")[0] != [label]]
    assert wrong == []
