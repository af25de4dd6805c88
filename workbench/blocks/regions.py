"""Where each of several words is in the picture: masks from boxes or from attention, and losses that move attention.

Maps are [n, h, w], one a concept, as much as each place looks at the concept's word; everything here keeps gradients.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# torch's stack and log_softmax carry no types

import re
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from workbench.blocks.recorder import Look
from workbench.blocks.spans import tokens
from workbench.blocks.wordmaps import gather, word_maps
from workbench.core.attend import Attention
from workbench.core.bundle import Bundle, Condition, Site, TextStates, told
from workbench.core.errors import AskError, MissingPart, PatchError
from workbench.core.patch import Patch

Box = tuple[float, float, float, float]


def checked(boxes: Sequence[Box]) -> tuple[Box, ...]:
    """Boxes (left, top, right, bottom) in shares of the picture, 0..1 from its upper left corner.

    Raises `ValueError`, as a validator of settings does, for one that is outside of the picture or empty.
    """
    for box in boxes:
        left, top, right, bottom = box
        if min(box) < 0 or max(box) > 1:
            raise ValueError(
                f"holds {list(box)}, which reaches outside of the picture; left, top, right and bottom are shares of "
                "it, from 0 to 1"
            )
        if left >= right or top >= bottom:
            raise ValueError(f"holds {list(box)}, which is empty; left must be below right, and top below bottom")
    return tuple(boxes)


def box_masks(boxes: Sequence[Box], size: tuple[int, int]) -> Float[Tensor, "n h w"]:
    """The share of every cell of a grid (height, width) that each box covers.

    >>> box_masks([(0.0, 0.0, 0.75, 1.0)], (1, 2)).tolist()
    [[[1.0, 0.5]]]
    """

    def covered(low: float, high: float, cells: int) -> Tensor:
        edges = torch.linspace(0, 1, cells + 1, dtype=torch.float64)
        return ((edges[1:].clamp_max(high) - edges[:-1].clamp_min(low)).clamp_min(0) * cells).float()

    rows = [covered(top, bottom, size[0])[:, None] for _, top, _, bottom in boxes]
    columns = [covered(left, right, size[1])[None] for left, _, right, _ in boxes]
    return torch.stack([row * column for row, column in zip(rows, columns, strict=True)])


def spread(maps: Float[Tensor, "*n h w"]) -> Float[Tensor, "*n h w"]:
    """Each map brought to 0..1 by its own least and greatest value; a constant map becomes 0."""
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    return torch.where(high > low, (maps - low) / (high - low).clamp_min(1e-30), torch.zeros_like(maps))


def above(maps: Float[Tensor, "*n h w"], threshold: float) -> Float[Tensor, "*n h w"]:
    """1 where a map is above a share of its greatest value, else 0; masks of several words may overlap."""
    return (maps > threshold * maps.amax((-2, -1), keepdim=True)).to(maps)


def parted(maps: Float[Tensor, "*B n h w"], threshold: float) -> Float[Tensor, "*B n h w"]:
    """Masks without overlap: every place belongs to the word whose map, brought to 0..1, is greatest there.

    Where even that is at most `threshold`, it belongs to none.
    """
    even = spread(maps)
    best = even.amax(-3, keepdim=True)
    first = (even == best).to(maps).cumsum(-3) == 1  # of equal ones the first
    return ((even == best) & first & (even > threshold)).to(maps)


def outside(maps: Float[Tensor, "n h w"], masks: Float[Tensor, "n h w"]) -> Float[Tensor, ""]:
    """How much of each word's attention is not in its mask, squared, mean over words: 0 is all inside.

    The box loss of attention guidance (Chen et al. 2023, arXiv 2304.03373): mean_i (1 - sum m_i a_i / sum a_i)^2.
    """
    mass = maps.sum((-2, -1)).clamp_min(1e-12)
    return (1 - (maps * masks).sum((-2, -1)) / mass).square().mean()


def contrast(maps: Float[Tensor, "m h w"], concepts: Int[Tensor, " m"], temperature: float = 0.5) -> Float[Tensor, ""]:
    """NT-Xent over attention maps: those of one concept alike, those of different concepts unlike.

    With s the cosine of two maps brought to 0..1, over all ordered pairs (a, p) of one concept,
        mean  -log( exp(s_ap / t) / (exp(s_ap / t) + sum_{n of other concepts} exp(s_an / t)) ).
    0 where no concept has two maps, or there is one concept.
    """
    flat = F.normalize(spread(maps).flatten(1), dim=1, eps=1e-12)
    cosines = flat @ flat.T / temperature
    same = concepts[:, None] == concepts[None]
    losses: list[Tensor] = []
    for a, p in same.fill_diagonal_(False).nonzero().tolist():
        others = cosines[a][concepts != concepts[a]]
        losses.append(torch.logsumexp(torch.cat([cosines[a, p : p + 1], others]), 0) - cosines[a, p])
    return torch.stack(losses).mean() if losses else maps.sum() * 0.0


# ------------------------------------------------------------------------------------------------- words and attention


class Words:
    """Finds words among the tokens of a condition's rows, by their own tokens; "" is a word that occurs nowhere."""

    def __init__(self, bundle: Bundle, words: Sequence[str]) -> None:
        self.name = bundle.name
        self.ids = [tokens(bundle, word) if word else [] for word in words]

    def columns(self, ids: Int[Tensor, "R L"] | None) -> Float[Tensor, "R L n"]:
        """For each row and word a column that averages the word's tokens and then its occurrences; 0 without one.

        Raises `MissingPart` when the model does not show its tokens.
        """
        if ids is None:
            raise MissingPart(f"{self.name} does not say which tokens it reads, so words cannot be found in its text.")
        columns = torch.zeros(*ids.shape, len(self.ids))
        for row, read in enumerate(ids.tolist()):
            for word, mine in enumerate(self.ids):
                starts = [i for i in range(len(read) - len(mine) + 1) if mine and read[i : i + len(mine)] == mine]
                for start in starts:
                    columns[row, start : start + len(mine), word] += 1 / (len(mine) * len(starts))
        return columns


class Seen:
    """What a `Watch` saw of one call of the network: maps of every site, and what the network was told."""

    def __init__(self) -> None:
        self.cond: Condition | None = None
        self.size: tuple[int, int] = (0, 0)
        self.columns: Tensor | None = None
        self.values: list[Tensor] = []

    def maps(self, rows: Callable[[Condition], Sequence[int]]) -> Float[Tensor, "B n h w"]:
        """How much each place looks at each word in some of the call's rows: mean over sites, on the latent grid.

        Raises `PatchError` when no call was seen.
        """
        if self.cond is None:
            raise PatchError(
                "No call of cross-attention was seen. An edit that reuses earlier results may skip it: leave it out."
            )
        kept = list(rows(self.cond))
        return gather([value[kept] for value in self.values], self.size).permute(0, 3, 1, 2)


class Watch:
    """Sees in the cross-attention of some sites how much each place looks at words, with gradients.

    watch = Watch(sites, words); watch.attach(patch)
    with watch.seeing() as seen: predict(...)
    seen.maps(lambda cond: cond.where("cond"))
    """

    def __init__(self, sites: Sequence[Site], words: Words) -> None:
        self.sites, self.words = tuple(sites), words
        self._seen: Seen | None = None

    def attach(self, patch: Patch) -> None:
        """Put the observers into a patch; what the sites compute stays as it is."""
        for site in self.sites:
            patch.attend(site, partial(self._look, site))

    @contextmanager
    def seeing(self) -> Generator[Seen, None, None]:
        """Watch the one call of the network in the body."""
        before, self._seen = self._seen, Seen()
        try:
            yield self._seen
        finally:
            self._seen = before

    def _look(self, site: Site, call: Attention) -> Tensor:
        now, seen = told.get(), self._seen
        if seen is None or now is None:
            return call.run()
        if seen.cond is not now[0]:
            seen.cond, seen.size = now
            seen.columns, seen.values = self.words.columns(seen.cond.text.ids), []
        columns = seen.columns
        if columns is None or len(columns) != len(call.query):
            raise PatchError(
                f"{site.name} was called with {len(call.query)} rows, and the network was told of "
                f"{len(now[0].roles)}. Leave out the edit that splits the batch."
            )
        seen.values.append(word_maps(columns)(Look(site, call, None, seen.size)))
        return call.run()


class Reworded:
    """The same prompts in other words, one wording a branch: `wordings[b]` says which words give way to which.

    `wrap` around `read` reads every wording of a prompt along with it; `told` tells a branch's rows their own.
    """

    def __init__(self, wordings: Sequence[Mapping[str, str]]) -> None:
        self.wordings = wordings
        self._known: dict[tuple[int, ...], list[TextStates]] = {}

    def wrap(self, inner: Callable[..., TextStates]) -> Callable[..., TextStates]:
        """`read` that remembers, by its tokens, what a prompt is in other words."""

        def read(prompts: Sequence[str]) -> TextStates:
            text = inner(prompts)
            if text.ids is not None and any(self.wordings):
                for prompt, ids in zip(prompts, text.ids.tolist(), strict=True):
                    self._known[tuple(ids)] = [inner([reworded(prompt, wording)]) for wording in self.wordings]
            return text

        return read

    def told(self, branch: int, cond: Condition) -> Condition:
        """The condition in a branch's words; rows whose prompt was never read here keep theirs."""
        text = cond.text
        if text.ids is None or not self.wordings[branch]:
            return cond
        rows = [self._known.get(tuple(ids)) for ids in text.ids.tolist()]
        changed: dict[str, Tensor | None] = {}
        for name in ("states", "pooled", "mask", "ids"):
            mine: Tensor | None = getattr(text, name)
            others = [None if row is None else getattr(row[branch], name) for row in rows]
            if mine is not None:
                pairs = zip(mine, others, strict=True)
                mine = torch.stack([own if other is None else other[0].to(own) for own, other in pairs])
            changed[name] = mine
        return replace(cond, text=TextStates(**changed))  # type: ignore[arg-type]


def reworded(prompt: str, wording: Mapping[str, str]) -> str:
    """A prompt with whole words or phrases replaced, in any case.

    >>> reworded("a Sks cat and a dog", {"sks cat": "cat"})
    'a cat and a dog'
    """
    for word, other in wording.items():
        prompt = re.sub(rf"(?<!\w){re.escape(word)}(?!\w)", lambda _, other=other: other, prompt, flags=re.IGNORECASE)
    return prompt


def refuse_unnamed(method: str, words: Sequence[str], sources: Sequence[str]) -> None:
    """Raise `AskError` for an adapter whose word in the prompt is not known."""
    for word, source in zip(words, sources, strict=True):
        if not word:
            raise AskError(
                f"{method}: {source} names no trigger word, so its place in the picture cannot be found in attention. "
                "Set triggers, one an adapter, or give regions."
            )
