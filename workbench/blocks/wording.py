"""What a prompt asks for, in the words of the emoji world."""

import re
from dataclasses import dataclass

from workbench.blocks.world import World

Book = dict[tuple[str, ...], tuple[frozenset[str], bool]]

_books: dict[int, tuple[World, Book]] = {}  # of the last world; its thousands of phrases take a while to sort
_WORDS = re.compile(r"[a-z0-9]+(?:['’.-][a-z0-9]+)*|[,;]")
_BEFORE = {"a", "an", "the", "one", "and", "of", ",", ";", "emoji", "with", ""}
_AFTER = {"and", "on", "in", "with", "at", ",", ";", "emoji", ""}


@dataclass(frozen=True)
class Said:
    """What a prompt names: for each object the labels that would be right, left to right; style and background."""

    objects: tuple[frozenset[str], ...] = ()
    style: str = ""
    background: str = ""


def _vocabulary(world: World) -> Book:
    """Phrase -> (labels it may mean, whether it is a label itself); a label's own name beats others' synonyms."""
    if _books.get(id(world), (None,))[0] is world:
        return _books[id(world)][1]
    known: dict[tuple[str, ...], set[str]] = {}
    for thing in world.objects:
        for synonym in thing.synonyms:
            known.setdefault(tuple(_WORDS.findall(synonym.lower())), set()).add(thing.label)
    book: Book = {phrase: (frozenset(names), False) for phrase, names in known.items() if phrase}
    for thing in world.objects:
        book[tuple(_WORDS.findall(thing.label.lower()))] = (frozenset({thing.label}), True)
    _books.clear()  # one world is all there is at a time
    _books[id(world)] = (world, book)
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
    return Said(tuple(_objects(words, _vocabulary(world))), style, background)


def _objects(words: list[str], book: Book) -> list[frozenset[str]]:
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
