"""Drawing one token from each row of logits: top-k, top-p, an exponential race, and the smooth mix of codes.

Nothing here waits for the device: cuts are thresholds taken from sorted values, and the race needs no check of its
probabilities. Truncation is that of Holtzman et al. 2019 (arXiv 1904.09751) after top-k; smooth mixing is the
Gumbel softmax of Jang, Gu and Poole 2016 (arXiv 1611.01144).
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.core.errors import AskError


def truncate(logits: Float[Tensor, "*rows V"], top_k: int = 0, top_p: float = 1.0) -> Float[Tensor, "*rows V"]:
    """Logits with -inf below the top_k largest of a row, then below its nucleus of probability top_p.

    0 and 1.0 keep everything. The nucleus leaves out, from the least likely up, tokens whose probabilities sum to at
    most 1 - top_p, never the likeliest. Equal logits stay or go together.
    Raises `AskError` when top_k is beyond the vocabulary.

    >>> truncate(torch.tensor([3.0, 1.0, 2.0]), top_k=2)
    tensor([3., -inf, 2.])
    """
    vocab = logits.shape[-1]
    if not 0 <= top_k <= vocab:
        raise AskError(f"top_k is {top_k}; the model's vocabulary has {vocab} tokens. Give at most that, or 0 for all.")
    if top_k in (0, vocab) and top_p >= 1:
        return logits
    rising = logits.topk(top_k or vocab, dim=-1).values.flip(-1)
    least = rising[..., :1]
    if top_p < 1:
        out = rising.softmax(-1).cumsum(-1) <= 1 - top_p
        least = rising.gather(-1, out[..., :-1].sum(-1, keepdim=True))
    return logits.masked_fill(logits < least, -torch.inf)


def exponential(shape: Sequence[int], generators: Sequence[torch.Generator], like: Tensor) -> Float[Tensor, "B n V"]:
    """Exp(1) draws [B, n, V], row i from generator i; one generator for several rows draws them all at once.

    `torch.multinomial` of one draw a row consumes a generator in just this way over [B n, V].
    """
    noise = torch.empty(tuple(shape), device=like.device, dtype=like.dtype)
    if len(generators) == 1:
        return noise.exponential_(generator=generators[0])
    for row, generator in zip(noise, generators, strict=True):
        row.exponential_(generator=generator)
    return noise


def race(logits: Float[Tensor, "B n V"], noise: Float[Tensor, "B n V"]) -> Int[Tensor, "B n"]:
    """The token that arrives first when token v starts with rate softmax(logits)_v: argmax p / E, a fair draw from p.

    With `noise` from `exponential` these are the tokens of `torch.multinomial(p, 1)`.
    """
    return (logits.softmax(-1) / noise).argmax(-1)


def smooth(logits: Float[Tensor, "B n V"], noise: Float[Tensor, "B n V"], tau: float) -> Float[Tensor, "B n V"]:
    """Gumbel-softmax weights: softmax((logits - log E) / tau), rows that sum to one."""
    return ((logits - noise.log()) / tau).softmax(-1)


def smoothness(share: float) -> float:
    """The temperature of smooth mixing at a share 0..1 of the scales: from 0.27 down to 0.0135.

    >>> smoothness(0.0), round(smoothness(1.0), 4)
    (0.27, 0.0135)
    """
    return max(0.27 * (1 - 0.95 * share), 0.005)
