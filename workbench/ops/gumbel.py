"""Sampling as a race, and the race run backwards: which noise made these tokens.

argmax_v (l_v + g_v) with independent g_v ~ Gumbel(0) is a draw from softmax(l) (Gumbel-max). Given that token t won,
the noise has an exact posterior (Maddison, Tarlow and Minka 2014, arXiv 1411.0030, "A* sampling"): the winning value
is Gumbel(logsumexp l) whichever token won, and every other value is a Gumbel(l_v) cut off at the winner's,
    T = logsumexp(l) - log(-log u_t),   z_t = T,   z_v = -log(e^-T + e^-(l_v - log(-log u_v))),   g = z - l.
So a picture's tokens under one prompt give noise that draws the very same tokens under that prompt, and related ones
under another (Dao et al. 2025, arXiv 2509.01984, take one such noise; this is its whole distribution).
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def gumbel(uniform: Float[Tensor, "*n V"]) -> Float[Tensor, "*n V"]:
    """Standard Gumbel noise of uniform numbers in (0, 1).

    >>> round(float(gumbel(torch.tensor([0.5]))), 4)
    0.3665
    """
    tiny = torch.finfo(uniform.dtype).tiny
    return -(-uniform.clamp(tiny, 1 - torch.finfo(uniform.dtype).eps / 2).log()).log()


def winner(logits: Float[Tensor, "*n V"], noise: Float[Tensor, "*n V"]) -> Int[Tensor, " *n"]:
    """The token that wins the race; logits of minus infinity never do."""
    return (logits + noise).argmax(-1)


def rewind(
    logits: Float[Tensor, "*n V"], tokens: Int[Tensor, " *n"], uniform: Float[Tensor, "*n V"]
) -> Float[Tensor, "*n V"]:
    """Noise from its posterior given who won: float64, so that the same logits give the same tokens again.

    A token whose logit is minus infinity cannot have won; it is taken as the least likely of all, far below the rest.
    """
    wide = logits.double()
    finite = torch.where(wide.isinf(), torch.full_like(wide, -1e4), wide)
    free = finite + gumbel(uniform.double())
    at = tokens[..., None]
    top = finite.logsumexp(-1, keepdim=True) + gumbel(uniform.double().gather(-1, at))
    cut = -torch.logaddexp(-top, -free)
    # rounding may lift a cut value to the winner's own; it stays below
    cut = torch.minimum(cut, top - 1e-9 * top.abs().clamp(min=1))
    return cut.scatter(-1, at, top) - finite
