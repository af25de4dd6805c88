"""Which text tokens a word of a prompt is made of, found through the model's own reader; and which an edit uses."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# torch's tolist carries no types

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.core.bundle import Bundle, TextStates
from workbench.core.errors import AskError, MissingPart

#: Which tokens of a pair of prompts, one with the target and one with the anchor in its place, an edit lines up:
#: - `last`: the last token of either subject (the start token where it is empty)
#: - `from-last`: from there to the end of the padding, as far as both go
#: - `all`: every token, place by place
#: - `after-start`: every token but the start token
#: - `context`: the words around the subject and the padding after it, never the subject itself
Span = Literal["last", "from-last", "all", "after-start", "context"]
CHUNK = 64  # prompts read at a time

_WORDS = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
SMALL = frozenset(["a", "an", "the", "of", "on", "in", "at", "and", "or", "with", "to", "is", "emoji", "background"])


def words(prompt: str) -> tuple[str, ...]:
    """The words of a prompt in order, each once, in lower case."""
    return tuple(dict.fromkeys(_WORDS.findall(prompt.lower())))


def content_words(prompt: str) -> tuple[str, ...]:
    """The words that name something; all words where none does."""
    every = words(prompt)
    return tuple(word for word in every if word not in SMALL) or every


def find(bundle: Bundle, prompt: str, word: str) -> list[list[int]]:
    """The token positions of each occurrence of a word or phrase in a prompt, as far as the model reads it.

    The word is read alone and its tokens are looked for in those of the prompt, so no tokenizer needs to be known; in
    byte-level BPE and in sentencepiece a whole word has the same tokens wherever it stands.
    """
    whole, part, first = tokens(bundle, prompt), tokens(bundle, word), lead(bundle)
    return [
        list(range(first + start, first + start + len(part)))
        for start in range(len(whole) - len(part) + 1)
        if part and whole[start : start + len(part)] == part
    ]


def spans(bundle: Bundle, prompt: str, word: str) -> list[list[int]]:
    """The token positions of each occurrence of a word that must occur. Raises `AskError` when it does not."""
    found = find(bundle, prompt, word)
    if not found:
        raise AskError(
            f"The prompt {prompt[:80]!r} has no word {word!r} among the tokens that {bundle.name} reads. "
            f"Its words: {', '.join(words(prompt)) or 'none'}."
        )
    return found


def tokens(bundle: Bundle, text: str) -> list[int]:
    """The token ids of a text without start, end and padding. Raises `MissingPart` when the model shows none."""
    ids, empty = _ids(bundle, [text, ""])
    first = int(ids[0] == empty[0])
    row = ids.tolist()[first:]
    end = int(empty[first])
    return row[: row.index(end)] if end in row else row


def lead(bundle: Bundle) -> int:
    """How many tokens come before the first word: 1 where a text begins with a start token (CLIP), 0 else (T5)."""
    ids, empty = _ids(bundle, ["a", ""])
    return int(ids[0] == empty[0])


def _ids(bundle: Bundle, texts: Sequence[str]) -> Int[Tensor, "R L"]:
    return torch.cat([_known(bundle, bundle.read(texts[i : i + CHUNK]).ids) for i in range(0, len(texts), CHUNK)])


def _known(bundle: Bundle, ids: Tensor | None) -> Tensor:
    if ids is None:
        raise MissingPart(f"{bundle.name} does not say which tokens it reads, so words cannot be found in its text.")
    return ids


def _inner(ids: Tensor, end: int) -> list[int]:
    row = [int(token) for token in ids[1:]]
    return row[: row.index(end)] if end in row else row


@dataclass(frozen=True)
class Phrase:
    """A prompt with a subject in it: `before`, `subject`, `after`, joined as they stand."""

    subject: str
    before: str = ""
    after: str = ""

    @classmethod
    def of(cls, template: str, subject: str) -> "Phrase":
        """The subject in place of `{}`; a template without it is taken as words after the subject."""
        before, hole, after = template.partition("{}")
        return cls(subject, before, after) if hole else cls(subject, "", f" {template}")

    @property
    def text(self) -> str:
        """The whole prompt; no more than one space where the subject is empty."""
        return f"{self.before}{self.subject}{self.after}".replace("  ", " ").strip()


@dataclass(frozen=True)
class Place:
    """Where a subject is among the tokens of its prompt: `start` to before `stop`; the prompt's `end` token."""

    start: int
    stop: int
    end: int

    @property
    def last(self) -> int:
        """The subject's last token, or the one before its place where it is empty."""
        return self.stop - 1


def read_all(bundle: Bundle, texts: Sequence[str]) -> TextStates:
    """States [R, L, D] and ids of many prompts, each distinct one read once, some at a time.

    Raises `MissingPart` when the model shows no ids.
    """
    once = list(dict.fromkeys(texts))
    parts = [bundle.read(once[i : i + CHUNK]) for i in range(0, len(once), CHUNK)]
    rows = torch.tensor([once.index(text) for text in texts], device=parts[0].states.device)
    pooled = [part.pooled for part in parts if part.pooled is not None]
    return TextStates(
        torch.cat([part.states for part in parts])[rows],
        pooled=torch.cat(pooled)[rows] if len(pooled) == len(parts) else None,
        ids=torch.cat([_known(bundle, part.ids) for part in parts])[rows],
    )


def places(bundle: Bundle, phrases: Sequence[Phrase], ids: Int[Tensor, "R L"]) -> list[Place]:
    """Where each phrase's subject is among its ids [R, L].

    Raises `AskError` when a subject lies beyond the tokens that the model reads.
    """
    end = int(_ids(bundle, [""])[0, 1])
    pieces = list(dict.fromkeys([part for p in phrases for part in (p.before.strip(), p.subject.strip())]))
    counts = {piece: len(_inner(row, end)) for piece, row in zip(pieces, _ids(bundle, pieces), strict=True)}
    found: list[Place] = []
    for phrase, row in zip(phrases, ids, strict=True):
        start = 1 + counts[phrase.before.strip()]
        place = Place(start, start + counts[phrase.subject.strip()], 1 + len(_inner(row, end)))
        if place.stop > place.end:
            raise AskError(
                f"{phrase.text[:80]!r} is longer than the {ids.shape[1] - 2} tokens that {bundle.name} reads. "
                "Shorten it."
            )
        found.append(place)
    return found


def aligned(
    bundle: Bundle, targets: Sequence[Phrase], anchors: Sequence[Phrase], span: Span
) -> Iterator[tuple[Float[Tensor, "n D"], Float[Tensor, "n D"]]]:
    """For each pair of phrases the token states that correspond: of the target's prompt, and of the anchor's.

    Read some pairs at a time, so that thousands fit in memory.
    """
    for start in range(0, len(targets), CHUNK):
        mine, theirs = targets[start : start + CHUNK], anchors[start : start + CHUNK]
        text = read_all(bundle, [phrase.text for phrase in (*mine, *theirs)])
        where = places(bundle, [*mine, *theirs], _known(bundle, text.ids))
        for i in range(len(mine)):
            j = len(mine) + i
            one, other = corresponding(where[i], where[j], text.states.shape[1], span)
            yield text.states[i][one], text.states[j][other]


def corresponding(one: Place, other: Place, length: int, span: Span) -> tuple[list[int], list[int]]:
    """The token positions of two prompts of `length` tokens that a span lines up.

    >>> corresponding(Place(1, 2, 3), Place(1, 1, 2), 5, "from-last")
    ([1, 2, 3, 4], [0, 1, 2, 3])
    """
    if span == "last":
        return [one.last], [other.last]
    if span == "from-last":
        reach = length - max(one.last, other.last)
        return list(range(one.last, one.last + reach)), list(range(other.last, other.last + reach))
    if span == "context":
        ahead = min(one.start, other.start)
        reach = length - max(one.stop, other.stop)
        before = list(range(ahead))
        return before + list(range(one.stop, one.stop + reach)), before + list(range(other.stop, other.stop + reach))
    first = 1 if span == "after-start" else 0
    return list(range(first, length)), list(range(first, length))
