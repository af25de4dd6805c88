"""Which text tokens a word of a prompt is made of, found through the model's own reader."""

import re

from torch import Tensor

from workbench.core.bundle import Bundle
from workbench.core.errors import AskError, MissingPart

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
    byte-level BPE a whole word has the same tokens wherever it stands.
    """
    whole, part = tokens(bundle, prompt), tokens(bundle, word)
    return [
        list(range(start + 1, start + 1 + len(part)))  # position 0 is the start token
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
    ids = bundle.read([text]).ids
    empty = bundle.read([""]).ids
    if ids is None or empty is None:
        raise MissingPart(f"{bundle.name} does not say which tokens it reads, so words cannot be found in its text.")
    return _inner(ids[0], int(empty[0, 1]))


def _inner(ids: Tensor, end: int) -> list[int]:
    row = [int(token) for token in ids[1:]]
    return row[: row.index(end)] if end in row else row
