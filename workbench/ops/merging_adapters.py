"""Rules that make one dense change of a matrix out of several: pruning by magnitude or at random, elected signs.

Changes are stacked [n, o, k], one an adapter, and each has a weight. Exact sums and narrow truncation need no rule
here: they are `LowRank.concatenated` and `LowRank.truncated`.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def keep_largest(change: Float[Tensor, "*s"], density: float) -> Float[Tensor, "*s"]:
    """The share `density` (0..1) of entries that are largest in magnitude, rounded down; the others are 0.

    >>> keep_largest(torch.tensor([1.0, -3.0, 2.0, 0.5]), 0.5).tolist()
    [0.0, -3.0, 2.0, 0.0]
    """
    flat = change.flatten()
    kept = torch.zeros_like(flat)
    places = flat.abs().topk(int(density * flat.numel())).indices
    kept[places] = flat[places]
    return kept.reshape(change.shape)


def magnitude(changes: Float[Tensor, "n o k"], weights: Sequence[float], density: float) -> Float[Tensor, "o k"]:
    """sum_i w_i keep_largest(change_i)."""
    return _weighted([keep_largest(change, density) for change in changes], weights)


def elected(changes: Float[Tensor, "n *s"]) -> Bool[Tensor, "n *s"]:
    """Entries whose sign is that of the sum over the n changes; an entry of 0 agrees only with a sum of 0."""
    return changes.sign() == changes.sum(0).sign()


def ties(changes: Float[Tensor, "n o k"], weights: Sequence[float], density: float) -> Float[Tensor, "o k"]:
    """Trim, elect sign, and take the mean of what agrees (Yadav et al. 2023, arXiv 2306.01708).

    With t_i = keep_largest(change_i) and s = sign(sum t_i), each entry is the mean of w_i t_i over {i: sign t_i = s}.
    """
    return _agreeing(torch.stack([keep_largest(change, density) for change in changes]), weights)


def dropped(change: Float[Tensor, "*s"], density: float, generator: torch.Generator) -> Float[Tensor, "*s"]:
    """Each entry kept with probability `density` and divided by it, else 0 (DARE, Yu et al. 2023, arXiv 2311.03099)."""
    chance = torch.rand(change.shape, generator=generator).to(change.device)
    return torch.where(chance < density, change / density, 0.0)


def dare(changes: Float[Tensor, "n o k"], weights: Sequence[float], density: float,
         generators: Sequence[torch.Generator], elect: bool = False) -> Float[Tensor, "o k"]:  # fmt: skip
    """sum_i w_i dropped(change_i), or with `elect` the mean of those that agree with the sum's sign."""
    thin = [dropped(change, density, generator) for change, generator in zip(changes, generators, strict=True)]
    return _agreeing(torch.stack(thin), weights) if elect else _weighted(thin, weights)


def _agreeing(changes: Tensor, weights: Sequence[float]) -> Tensor:
    agree = elected(changes)
    return _weighted(list(changes * agree), weights) / agree.sum(0).clamp_min(1)


def _weighted(changes: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    return torch.stack([weight * change for change, weight in zip(changes, weights, strict=True)]).sum(0)
