"""What trained erasers are told: their common settings, and prompts by role for a list of concepts."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from workbench.blocks.concepts import ConceptSet, Manner, Names, phrases
from workbench.blocks.pools import Lesson
from workbench.core.bundle import Bundle

Concepts = Annotated[Names, Field(description="What the model is to forget; one word or several.")]
Preserve = Annotated[Names, Field(description="What is to stay as it is; costs half of the learning.")]
Strength = Annotated[float, Field(ge=0, le=2, description="How much of the change to apply; 0 changes nothing.")]
Speech = Annotated[Manner, Field(description="How prompts speak of a concept; auto asks the model's world.")]
Iterations = Annotated[int, Field(ge=1, le=20_000, description="Steps of the optimiser.")]
BatchSize = Annotated[int, Field(ge=1, le=64, description="Noisy states that a step learns at.")]
Rate = Annotated[float, Field(gt=0, le=1, description="How far a step goes (Adam's learning rate).")]
Count = Annotated[int, Field(ge=1, le=1024, description="Walks from noise, or pictures, whose states are learned at.")]
WalkSteps = Annotated[int, Field(ge=2, le=1000, description="Steps of a walk from noise to a picture.")]
WalkGuidance = Annotated[float, Field(ge=0, le=30, description="How hard the walks follow their prompts.")]
Seed = Annotated[int, Field(ge=0, le=2**32, description="What noise and order follow from.")]


def erasing(bundle: Bundle, concepts: ConceptSet, manner: Manner = "auto") -> tuple[Lesson, ...]:
    """Every concept in every prompt of its manner, as roles.

    `concept` is the prompt, `anchor` the same words around the anchor, `empty` the same words around nothing (None, no
    prompt at all, where the concept was all there was to say), so that what a fit takes away is the concept and not
    the words around it. Concepts take turns: the first few lessons hold all of them.
    """
    ways: list[list[Lesson]] = []
    for target in concepts.targets:
        said, without = phrases(bundle, target, "", manner)
        instead = phrases(bundle, target, concepts.anchor, manner)[1]
        ways.append([{"concept": a.text, "anchor": b.text or None, "empty": c.text or None}
                     for a, b, c in zip(said, instead, without, strict=True)])  # fmt: skip
    longest = max(map(len, ways))
    return tuple(way[i] for i in range(longest) for way in ways if i < len(way))


def kept(bundle: Bundle, words: Sequence[str], manner: Manner = "auto") -> tuple[Lesson, ...]:
    """Words that are to stay, each in every prompt of its manner, as the role `kept`; words take turns."""
    ways = [[phrase.text for phrase in phrases(bundle, word, "", manner)[0]] for word in words]
    longest = max(map(len, ways), default=0)
    return tuple({"kept": way[i]} for i in range(longest) for way in ways if i < len(way))


def alternate(first: Sequence[Lesson], second: Sequence[Lesson]) -> tuple[Lesson, ...]:
    """One lesson of the first, one of the second, and so on until each was given; the first alone where there is no
    second."""
    if not second:
        return tuple(first)
    count = max(len(first), len(second))
    return tuple(row[i % len(row)] for i in range(count) for row in (first, second))
