"""What closed-form edits of the text path share: the matrices that words pass through, and sums over their states.

When every wanted output is what the matrix itself makes of another state (v* = W k*), the edit of W is W' = W + W M
with one M [D, D] for all matrices: M = (a - b) H (H^T b H + s I)^-1 H^T, a and b the moments of `blocks.moments`. So
any number of matrices costs one factorisation.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from workbench.blocks.concepts import Manner, Names, phrases, text_sites
from workbench.blocks.moments import Moments
from workbench.blocks.spans import Phrase, Span, aligned
from workbench.core.bundle import Bundle, Handle
from workbench.core.delta import Delta
from workbench.ops.linear_edit import System

SAID = 64  # prompts of preserved words that are read at least, where they have as many

Matrices = Literal["keys-and-values", "values"]

# what closed-form erasers are asked
Concepts = Annotated[Names, Field(description="What to erase.")]
Anchor = Annotated[str, Field(description="What the pictures show instead; empty is what an empty prompt shows.")]
Preserve = Annotated[Names, Field(description="What has to stay; empty takes words that the model knows.")]
Strength = Annotated[float, Field(ge=0, le=2, description="Share of the change; 0 changes nothing.")]
Keep = Annotated[float, Field(ge=0, le=100, description="Weight of each preserved word against each erased one (p).")]
Ridge = Annotated[float, Field(gt=0, le=100, description="Pull back to the weights before (s), relative to the sums.")]
LinedUp = Annotated[Span, Field(description="Which tokens of the prompts are lined up.")]
Speech = Annotated[Manner, Field(description="How prompts speak of the concepts.")]


def text_matrices(bundle: Bundle, method: str, which: Matrices = "keys-and-values") -> list[Handle]:
    """The value (and key) projections of every cross-attention. Raises `MissingPart` where there are none."""
    sites = text_sites(bundle, method)
    names = ("value",) if which == "values" else ("key", "value")
    return [site.handle(name) for site in sites for name in names]


def weight_of(handle: Handle) -> Float[Tensor, "o d"]:
    """A matrix as it stands, detached, in float64 where the device has it."""
    weight = handle.weight.detach()
    return (weight.cpu() if weight.device.type == "mps" else weight).double()


def erase_moments(bundle: Bundle, concepts: Sequence[str], anchor: str, span: Span, manner: Manner = "auto") -> Moments:
    """Sums over the concepts' states k and their anchors' k* in all their templates; each concept weighs one a token.

    With the anchor of a concept being the concept itself, a equals b: that is how words are preserved.
    """
    return _sums(bundle, [phrases(bundle, concept, anchor, manner) for concept in concepts], span)


def keep_moments(bundle: Bundle, words: Sequence[str], span: Span, manner: Manner = "auto") -> Moments:
    """Sums over states that are to stay as they are; each word weighs one a token.

    A few words are said in all their templates; of many, each is said in two, and they take turns with the templates.
    """
    said: list[tuple[list[Phrase], list[Phrase]]] = []
    for index, word in enumerate(words):
        ways, _ = phrases(bundle, word, word, manner)
        count = min(len(ways), max(2, -(-SAID // len(words))))
        some = [ways[(count * index + i) % len(ways)] for i in range(count)]
        said.append((some, some))
    return _sums(bundle, said, span)


def kept_states(bundle: Bundle, words: Sequence[str], span: Span, most: int = 4000) -> Float[Tensor, "n D"]:
    """The states themselves of words that are to stay, in two plain prompts each; at most so many, spread evenly."""
    said = [phrase for word in words for phrase in phrases(bundle, word, word)[0][:2]]
    rows = torch.cat([key for key, _ in aligned(bundle, said, said, span)])
    step = -(-len(rows) // most)
    return rows[::step].to(_where(bundle)).double()


def _sums(bundle: Bundle, pairs: Sequence[tuple[list[Phrase], list[Phrase]]], span: Span) -> Moments:
    if not pairs:
        return Moments.empty(bundle.shapes.text[1], device=_where(bundle))
    targets = [phrase for mine, _ in pairs for phrase in mine]
    anchors = [phrase for _, theirs in pairs for phrase in theirs]
    weights = [1 / len(mine) for mine, _ in pairs for _ in mine]
    rows = aligned(bundle, targets, anchors, span)
    root = [weight**0.5 for weight in weights]  # a and b are quadratic in the states
    scaled = ((r * k.double(), r * v.double()) for r, (k, v) in zip(root, rows, strict=True))
    return Moments.over((k.to(_where(bundle)), v.to(_where(bundle))) for k, v in scaled)


def _where(bundle: Bundle) -> torch.device:
    """Where float64 is computed: the bundle's device, or the CPU beside one that has none."""
    return torch.device("cpu") if bundle.device.type == "mps" else bundle.device


def operator(
    erase: Moments, keep: Moments, ridge: float, basis: Float[Tensor, "d r"] | None = None
) -> tuple[Float[Tensor, "d d"], System]:
    """M of the module's equation, and the system it was solved from; `ridge` is in units of the mean diagonal of b."""
    both = erase.b + keep.b
    system = System(both, ridge * float(both.diagonal().mean()), basis)
    return system.solve(erase.a - erase.b), system


def weights_delta(handles: Sequence[Handle], changes: Sequence[Tensor], text: Mapping[str, str]) -> Delta:
    """Changes of some matrices [o, d] as a delta in float32 or wider; rows of a fused matrix land in their place."""
    tensors: dict[str, Tensor] = {}
    for handle, change in zip(handles, changes, strict=True):
        change = change.to(torch.promote_types(handle.weight.dtype, torch.float32))
        if handle.rows is not None:
            fused = getattr(handle.owner, handle.name)
            whole = tensors.get(handle.key, torch.zeros_like(fused, dtype=change.dtype))
            whole[handle.rows] = change.to(whole)
            change = whole
        tensors[handle.key] = change.to(handle.weight.device)
    return Delta("weights", tensors, dict(text))


def told(systems: Sequence[System], handles: Sequence[Handle], changes: Sequence[Tensor]) -> dict[str, str]:
    """What a fit remembers: the worst condition number, whether any was singular, matrices, size of the change."""
    before = sum(float(weight_of(handle).square().sum()) for handle in handles)
    after = sum(float(change.square().sum()) for change in changes)
    return {
        "condition": f"{max(system.condition for system in systems):.6g}",
        "singular": "yes" if any(system.singular for system in systems) else "no",
        "matrices": str(len(handles)),
        "relative_change": f"{(after / max(before, 1e-300)) ** 0.5:.6g}",
    }
