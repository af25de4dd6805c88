"""Which words lie near which, as a model's text encoder has it: what an edit is likely to touch besides its target."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# torch.cdist carries no types

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.blocks.concepts import ConceptSet, synonyms
from workbench.blocks.spans import Phrase, places, read_all
from workbench.blocks.world import World
from workbench.core.bundle import Bundle
from workbench.core.errors import AskError
from workbench.ops.clusters import kmeans

Distance = Literal["cosine", "euclidean"]


@dataclass(frozen=True, eq=False)
class Bank:
    """Words and a vector each [n, D], float32."""

    words: tuple[str, ...]
    vectors: Float[Tensor, "n D"]

    def index(self, word: str) -> int:
        """A word's row. Raises `AskError` for one that is not in the bank."""
        if word not in self.words:
            raise AskError(
                f"{word!r} is not among the {len(self.words)} words of the bank. Add it when making the bank."
            )
        return self.words.index(word)

    def near(
        self, word: str, count: int, distance: Distance = "cosine", leave_out: Sequence[str] = ()
    ) -> list[tuple[str, float]]:
        """The nearest other words, nearest first, with cosine likeness (1 is equal) or distance (0 is equal).

        The cosine is taken about the bank's mean: text states share a large common part that would drown the rest.
        """
        at = self.index(word)
        if distance == "euclidean":
            scores = -torch.cdist(self.vectors[at][None], self.vectors)[0]
        else:
            inner = self.vectors - self.vectors.mean(0)
            inner = inner / inner.norm(dim=1, keepdim=True).clamp_min(1e-12)
            scores = inner @ inner[at]
        skip = {w.lower() for w in (word, *leave_out)}
        order = [i for i in scores.argsort(descending=True, stable=True).tolist() if self.words[i].lower() not in skip]
        sign = -1.0 if distance == "euclidean" else 1.0
        return [(self.words[i], sign * float(scores[i])) for i in order[:count]]

    def representatives(self, count: int, seed: int = 0) -> tuple[str, ...]:
        """Words that stand for the whole bank: those nearest to the centres of `count` clusters, each once."""
        centres, _ = kmeans(self.vectors, min(count, len(self.words)), seed=seed)
        rows = torch.cdist(centres, self.vectors.double()).argmin(1).tolist()
        return tuple(dict.fromkeys(self.words[i] for i in rows))


def bank(bundle: Bundle, words: Sequence[str], template: str = "a {}", whole: bool = False) -> Bank:
    """The states of words in a prompt: of the prompt's end token [n, D], or `whole` prompts laid flat [n, L D]."""
    phrases = [Phrase.of(template, word) for word in dict.fromkeys(words)]
    if not phrases:
        raise AskError("A bank needs at least one word.")
    text = read_all(bundle, [phrase.text for phrase in phrases])
    states = text.states.float()
    if not whole:
        ids = text.ids
        ends = [place.end for place in places(bundle, phrases, ids)] if ids is not None else [-1] * len(phrases)
        states = states[torch.arange(len(phrases)), torch.tensor(ends)]
    return Bank(tuple(phrase.subject for phrase in phrases), states.flatten(1))


def vocabulary(bundle: Bundle, count: int | None = None) -> tuple[str, ...]:
    """Words a model may be asked for: what the emoji model was trained on; for others the common nouns among its names.

    `count` of them, spread evenly; all where it is None.
    """
    world = bundle.world
    if isinstance(world, World):
        words = world.tier
    else:
        things = World.load().objects
        words = tuple(dict.fromkeys(t.label for t in things if t.label.isascii() and t.group != "smileys"))
    if count is None or count >= len(words):
        return words
    return tuple(words[i * len(words) // count] for i in range(count))


def suggest(
    bundle: Bundle, targets: Sequence[str], count: int = 8, among: Sequence[str] | None = None
) -> tuple[str, ...]:
    """Words to preserve when the targets go: the nearest neighbours of each in turn, none a target or its synonym."""
    own = {word.lower() for target in targets for word in (target, *synonyms(bundle, target))}
    others = [word for word in (among or vocabulary(bundle, 200)) if word.lower() not in own]
    if not others:
        return ()
    words = bank(bundle, [*targets, *others])
    rows = [[word for word, _ in words.near(target, count, leave_out=sorted(own))] for target in targets]
    turns = (row[i] for i in range(max(map(len, rows), default=0)) for row in rows if i < len(row))
    return tuple(dict.fromkeys(turns))[:count]


def kept_words(bundle: Bundle, wanted: ConceptSet, count: int = 100) -> tuple[str, ...]:
    """The preserve list, or without one the model's vocabulary (styles with it) less the targets and their synonyms."""
    if wanted.preserve:
        return wanted.preserve
    own = {word.lower() for target in wanted.targets for word in (target, *synonyms(bundle, target))}
    world = bundle.world
    styles = (
        tuple(s for s in world.styles if s not in world.split["held_out_styles"]) if isinstance(world, World) else ()
    )
    return tuple(word for word in (*vocabulary(bundle, count), *styles) if word.lower() not in own)
