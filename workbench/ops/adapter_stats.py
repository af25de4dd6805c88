"""How adapters relate before anything is drawn: energies, angles, shared subspaces and crosstalk, from factors alone.

For changes D_i = U_i S_i V_i^T of one matrix, all summed over matrices as their squares or inner products:

    cosine(i, j)     <D_i, D_j> / (|D_i| |D_j|)
    overlap(i, j)    |V_i^T V_j|^2 / min(r_i, r_j): the share of directions that both listen to, 0..1
    crosstalk(i, j)  |D_j V_i| / |D_i|: what j adds where i listens, measured by what i adds there

crosstalk is 0 where no input of i moves j (Orthogonal Adaptation, arXiv 2312.02432, trains for that), and 1 for a twin.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# torch.linalg carries no types

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp, log

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.ops.low_rank import Factors, LowRank, inner, svd

#: Singular values below this share of the largest one are rounding.
LEAST = 1e-6


@dataclass(frozen=True, eq=False)
class Compared:
    """n adapters against each other, each [n, n] with row i about adapter i; the diagonals are 1, of nothing 0."""

    cosine: Float[Tensor, "n n"]
    overlap: Float[Tensor, "n n"]
    crosstalk: Float[Tensor, "n n"]

    @property
    def interference(self) -> float:
        """The greatest crosstalk between two of them."""
        count = len(self.crosstalk)
        return max((float(self.crosstalk[i, j]) for i in range(count) for j in range(count) if i != j), default=0.0)


def compared(adapters: Sequence[LowRank]) -> Compared:
    """All pairs of adapters, scaled as they are to be used."""
    count = len(adapters)
    products, talk, met, most = (torch.zeros(count, count, dtype=torch.float64) for _ in range(4))
    for key in dict.fromkeys(key for each in adapters for key in each):
        mine = {i: each.factors[key] for i, each in enumerate(adapters) if key in each}
        heard = {i: listened(pair) for i, pair in mine.items()}
        for i in mine:
            for j in mine:
                products[i, j] += inner(mine[i], mine[j])
                up, down = mine[j]
                talk[i, j] += (up.double() @ (down.double() @ heard[i])).square().sum()
                met[i, j] += (heard[i].T @ heard[j]).square().sum()
                most[i, j] += min(heard[i].shape[1], heard[j].shape[1])
    norms = products.diagonal().clamp_min(0).sqrt()
    some = norms > 0
    cosine = products / (norms[:, None] * norms).where(some[:, None] & some, 1.0)
    crosstalk = talk.sqrt() / norms.where(some, 1.0)[:, None]
    return Compared(cosine, met / most.clamp_min(1), crosstalk * some[:, None])


def listened(pair: Factors) -> Float[Tensor, "inner k"]:
    """Orthonormal directions of the input that a change answers to."""
    _, values, right = svd(*pair)
    kept = values > LEAST * values.max().clamp_min(1e-300)
    return right[kept].T


def effective_rank(pair: Factors) -> float:
    """exp of the entropy of the squared singular values' shares (Roy and Vetterli 2007): r for r equal ones."""
    values = svd(*pair)[1].square()
    shares = values / values.sum().clamp_min(1e-300)
    return float(torch.exp(-(shares * shares.clamp_min(1e-300).log()).sum()))


def total(adapter: LowRank) -> float:
    """The Frobenius norm of an adapter's whole change."""
    return sum(value**2 for value in adapter.energy().values()) ** 0.5


def by_place(adapter: LowRank, place: Callable[[str], str]) -> dict[str, float]:
    """The Frobenius norm of an adapter's change at every place that its keys belong to."""
    squares: dict[str, float] = {}
    for key, value in adapter.energy().items():
        squares[place(key)] = squares.get(place(key), 0.0) + value**2
    return {name: value**0.5 for name, value in squares.items()}


def balanced(energies: Sequence[float]) -> list[float]:
    """Weights that give adapters one energy, their geometric mean; 0 for one that changes nothing.

    >>> balanced([1.0, 4.0])
    [2.0, 0.5]
    """
    logs = [log(energy) for energy in energies if energy > 0]
    mean = exp(sum(logs) / len(logs)) if logs else 0.0
    return [mean / energy if energy > 0 else 0.0 for energy in energies]
