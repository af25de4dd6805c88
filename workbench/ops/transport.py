"""Which noise meets which picture: the pairing of a batch that moves least, and the nearest of several draws.

Both leave every draw standard normal on its own; they only choose who learns from which (Pooladian et al. 2023, arXiv
2304.14772; Li et al. 2025, arXiv 2505.18521).
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# scipy carries no types

import torch
from jaxtyping import Float
from torch import Tensor


def squared_distances(a: Float[Tensor, "n ..."], b: Float[Tensor, "m ..."]) -> Float[Tensor, "n m"]:
    """||a_i - b_j||^2 for all pairs, in float32 or wider."""
    wide = torch.promote_types(a.dtype, torch.float32)
    left, right = a.flatten(1).to(wide), b.flatten(1).to(wide)
    squares = left.square().sum(1)[:, None] + right.square().sum(1) - 2 * left @ right.T
    return squares.clamp(min=0)


def coupled(clean: Float[Tensor, "B ..."], noise: Float[Tensor, "B ..."]) -> Float[Tensor, "B ..."]:
    """The noise in another order: the permutation of least total squared distance to the pictures (minibatch OT)."""
    from scipy.optimize import linear_sum_assignment  # pyright: ignore[reportMissingTypeStubs]

    _, order = linear_sum_assignment(squared_distances(clean, noise).cpu().numpy())
    return noise[torch.as_tensor(order, device=noise.device)]


def nearest(clean: Float[Tensor, "B ..."], draws: Float[Tensor, "B K ..."]) -> Float[Tensor, "B ..."]:
    """Of K draws of noise for each picture the nearest one: argmin_j ||x - e_j|| (improved immiscible diffusion)."""
    far = (clean[:, None] - draws).flatten(2).square().sum(2)
    return draws[torch.arange(len(draws), device=draws.device), far.argmin(1)]
