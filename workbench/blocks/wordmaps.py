"""Words over the picture: which tokens a word is, how they are averaged, and how sites become one map."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# torch's norm, unique and from_numpy carry no types

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from workbench.blocks.recorder import Look, Reduce
from workbench.blocks.spans import content_words, find, lead, spans, tokens
from workbench.core.bundle import Bundle, Site
from workbench.core.errors import AskError
from workbench.core.report import Film
from workbench.ops import attention as maps

FINE = 16  # cells a side that a grid needs to count; DAAM's official code leaves the 8x8 layers out
Side = Literal["all", "down", "mid", "up"]
Words = Mapping[str, list[list[int]]]


def cross_sites(bundle: Bundle, level: int | None = None, side: Side = "all") -> tuple[Site, ...]:
    """The cross-attentions that count: of a level and side, or all fine ones but the middle.

    Fine is a grid of at least 16 cells a side at the model's own size, or the finest there is.

    Raises `AskError` where there are none, naming the levels and sides there are.
    """
    every = bundle.sites("cross-attention")
    chosen = [s for s in every if side == s.side or (side == "all" and s.side != "mid")]
    finest = min((s.level for s in chosen), default=0)
    cells = min(bundle.shapes.latent[1:])
    chosen = [
        s for s in chosen if s.level == level or (level is None and (s.level == finest or cells >> s.level >= FINE))
    ]
    if chosen:
        return tuple(chosen)
    if not every:
        raise AskError(f"{bundle.name} has no cross-attention, so its words have no maps of this kind.")
    known = sorted({f"level {s.level} {s.side}".strip() for s in every})
    raise AskError(
        f"{bundle.name} has no cross-attention at level {'any' if level is None else level}, side {side}. "
        f"There are: {', '.join(known)}."
    )


def follow(bundle: Bundle, prompt: str, words: Sequence[str]) -> Words:
    """The token positions of the words to follow in a prompt: those named, or all that name something.

    Unnamed words beyond the model's reach are left out. Raises `AskError` for a named word that does not occur.
    """
    if words:
        return {word: spans(bundle, prompt, word) for word in words}
    found = {word: find(bundle, prompt, word) for word in content_words(prompt)}
    if not any(found.values()):
        raise AskError(f"The prompt {prompt[:80]!r} has no words to follow. Ask for something, or name words.")
    return {word: at for word, at in found.items() if at}


def averaging(bundle: Bundle, prompts: Sequence[str], found: Sequence[Words]) -> Float[Tensor, "B L W"]:
    """Columns that average the tokens of each word and then its occurrences; the last sums all tokens of the prompt.

    Prompts with fewer words have empty columns before the last.
    """
    length, most = bundle.shapes.text[0], max(map(len, found))
    columns = torch.zeros(len(found), length, most + 1)
    first = lead(bundle)
    for row, (prompt, words) in enumerate(zip(prompts, found, strict=True)):
        columns[row, first : first + len(tokens(bundle, prompt)), -1] = 1.0
        for column, at in enumerate(words.values()):
            for span in at:
                columns[row, span, column] += 1 / (len(span) * len(at))
    return columns


def word_maps(columns: Float[Tensor, "B L W"], heads: bool = False) -> Reduce:
    """A reducer: how much each place looks at each word, mean over heads [B, N, W] or for each head [B, A, N, W]."""

    def reduce(look: Look) -> Tensor:
        weights = columns.to(look.call.query.device)
        parts = [part @ weights[:, None] if heads else maps.mean_heads(part) @ weights for part in look.weights()]
        values = torch.cat(parts, -2)
        return values if look.unmerge is None else look.unmerge.queries(values, values.ndim - 2)

    return reduce


def said_maps(states: Float[Tensor, "1 L D"], columns: Float[Tensor, "1 L W"]) -> Reduce:
    """A reducer: as `word_maps`, but looking at other text, given by its states, with the same queries [B, N, W]."""

    def reduce(look: Look) -> Tensor:
        handle, call = look.site.key, look.call
        keys = handle.owner(states.to(call.query))  # the module itself, so that hooks on it (a LoRA's) count
        keys = keys if handle.rows is None else keys[..., handle.rows]
        keys = keys.unflatten(-1, (call.key.shape[1], -1)).transpose(1, 2).expand(len(call.query), -1, -1, -1)
        other = call.but(key=keys, value=keys, mask=None)
        whole = Look(look.site, other, look.step, look.size)
        return word_maps(columns)(whole)

    return reduce


def gather(values: Sequence[Float[Tensor, "B n W"]], size: tuple[int, int]) -> Float[Tensor, "B h w W"]:
    """Mean over sites of their maps, each brought to the latent grid `size` (bicubic) and cut at 0."""
    whole = [maps.resize(maps.to_grid(m.transpose(1, 2), size), size, "bicubic").clamp_min(0) for m in values]
    return torch.stack(whole).mean(0).permute(0, 2, 3, 1)


def spread_of(heat: Float[Tensor, "h w"]) -> tuple[float, float]:
    """Evenness of a map over the picture, 0..1, and its peak over its mean."""
    mass = heat.flatten() / heat.sum().clamp_min(1e-12)
    return round(maps.evenness(mass[None])[0].item(), 4), round((mass.max() * mass.numel()).item(), 4)


def overlap(films: Sequence[Film]) -> float:
    """Mean cosine between the maps of different words of a prompt; 1 where every prompt has a single word."""
    cosines: list[float] = []
    for film in films:
        flat = F.normalize(torch.from_numpy(film.frames).flatten(1).double(), dim=1)
        pairs = torch.triu_indices(len(flat), len(flat), offset=1)
        cosines += (flat @ flat.T)[pairs[0], pairs[1]].tolist()
    return float(np.mean(cosines)) if cosines else 1.0
