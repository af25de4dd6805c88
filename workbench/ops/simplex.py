"""The probability simplex: the nearest point of it, for rows that are optimised as relaxed one-hot choices."""

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.core.errors import AskError


def project_simplex(rows: Float[Tensor, "k n"], rounds: int = 60) -> Float[Tensor, "k n"]:
    """The Euclidean projection of each row onto {p >= 0, sum p = 1}.

    p = max(v - tau, 0) where tau solves sum max(v_i - tau, 0) = 1; the sum falls from at least 1 at tau = max v - 1
    to 0 at tau = max v, so bisection finds it (Duchi et al. 2008, lemma 1). Worked out in float64.

    >>> project_simplex(torch.tensor([[0.5, 0.5], [3.0, 1.0]])).tolist()
    [[0.5, 0.5], [1.0, 0.0]]
    """
    if not torch.isfinite(rows).all():
        raise AskError("A row to project onto the simplex is not finite. Take smaller steps.")
    wide = rows.detach().double()
    top = wide.amax(1, keepdim=True)
    low, high = top - 1, top
    for _ in range(rounds):
        middle = (low + high) / 2
        over = (wide - middle).clamp_min(0).sum(1, keepdim=True) > 1
        low, high = torch.where(over, middle, low), torch.where(over, high, middle)
    points = (wide - high).clamp_min(0)
    return (points / points.sum(1, keepdim=True).clamp_min(1e-300)).to(rows)
