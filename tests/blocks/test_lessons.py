"""Lessons: prompts by role, concepts taking turns, and settings that refuse what cannot be meant."""

from tests.tiny import tiny_sd
from workbench.blocks.concepts import ConceptSet, templates
from workbench.blocks.lessons import alternate, erasing, kept


def test_every_concept_is_said_in_every_prompt_and_takes_turns() -> None:
    found = erasing(tiny_sd(), ConceptSet(("cat", "dog"), "fox"))
    ways = templates(tiny_sd(), "cat")
    assert len(found) == 2 * len(ways)
    assert [lesson["concept"] for lesson in found[:2]] == [ways[0].format("cat"), ways[0].format("dog")]
    assert [lesson["anchor"] for lesson in found[2:4]] == [ways[1].format("fox")] * 2
    assert found[0]["empty"] is None  # the concept was all there was to say
    assert all(lesson["empty"] == way.format("").replace("  ", " ").strip() or way == "{}"
               for lesson, way in zip(found[::2], ways, strict=True))  # fmt: skip


def test_kept_words_take_turns_and_alternate_with_what_goes() -> None:
    stay = kept(tiny_sd(), ("dog", "red"))
    ways = templates(tiny_sd(), "dog")
    assert [lesson["kept"] for lesson in stay[:2]] == [ways[0].format("dog"), ways[0].format("red")]
    first = erasing(tiny_sd(), ConceptSet(("cat",)))
    both = alternate(first, stay)
    assert len(both) == 2 * max(len(first), len(stay))
    assert all(("concept" in lesson) == (i % 2 == 0) for i, lesson in enumerate(both))
    assert alternate(first, ()) == first
    assert kept(tiny_sd(), ()) == ()
