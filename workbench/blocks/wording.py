"""What a prompt asks for, in the words of the emoji world."""

import functools
import re
from dataclasses import dataclass

from workbench.blocks.world import World

_WORDS = re.compile(r"[a-z0-9]+(?:['’.-][a-z0-9]+)*|[,;]")
_BEFORE = {"a", "an", "the", "one", "and", "of", ",", ";", "emoji", "with", ""}
_AFTER = {"and", "on", "in", "with", "at", ",", ";", "emoji", ""}


@dataclass(frozen=True)
class Said:
    """What a prompt names: for each object the labels that would be right, left to right; style and background."""

    objects: tuple[frozenset[str], ...] = ()
    style: str = ""
    background: str = ""


@functools.lru_cache(maxsize=4)
def _vocabulary(labels: tuple[tuple[str, tuple[str, ...]], ...]) -> dict[tuple[str, ...], tuple[frozenset[str], bool]]:
    """Phrase -> (labels it may mean, whether it is a label itself); a label's own name beats others' synonyms."""
    known: dict[tuple[str, ...], set[str]] = {}
    for label, synonyms in labels:
        for synonym in synonyms:
            known.setdefault(tuple(_WORDS.findall(synonym.lower())), set()).add(label)
    book = {phrase: (frozenset(names), False) for phrase, names in known.items() if phrase}
    for label, _ in labels:
        book[tuple(_WORDS.findall(label.lower()))] = (frozenset({label}), True)
    return book


def parse(world: World, prompt: str) -> Said:
    """What a prompt names: objects by label anywhere in it, by synonym where the synonym stands alone.

    A style counts before the word "emoji", a colour before "background". Unknown words are passed over.
    """
    words = _WORDS.findall(prompt.lower())
    style = background = ""
    for i in range(len(words) - 1):
        if words[i + 1] == "emoji" and words[i] in world.styles:
            style, words[i] = words[i], ""
        if words[i + 1] == "background" and words[i] in world.backgrounds:
            background, words[i], words[i + 1] = words[i], "", ""
    book = _vocabulary(tuple((thing.label, thing.synonyms) for thing in world.objects))
    return Said(tuple(_objects(words, book)), style, background)


def _objects(words: list[str], book: dict[tuple[str, ...], tuple[frozenset[str], bool]]) -> list[frozenset[str]]:
    longest = max(map(len, book))
    found: list[frozenset[str]] = []
    start = 0
    while start < len(words):
        for stop in range(min(len(words), start + longest), start, -1):
            names, own = book.get(tuple(words[start:stop]), (frozenset[str](), False))
            before = words[start - 1] if start else ""
            after = words[stop] if stop < len(words) else ""
            if names and (own or (before in _BEFORE and after in _AFTER)):
                found.append(names)
                start = stop - 1
                break
        start += 1
    return found
