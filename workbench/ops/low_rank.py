"""Low-rank changes of many matrices as one value: exact sums, truncation and a canonical form, without dense matrices.

A change of a matrix [out, in] is up @ down with up [out, r] and down [r, in]; of a convolution [out, in, kh, kw], down
is [r, in * kh * kw]. Whatever scale a file gave (alpha / r and the like) is in `up` already.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# torch.linalg carries no types

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.core.delta import Delta
from workbench.core.errors import AskError

Factors = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class LowRank:
    """Factors (up [out, r], down [r, in]) by `part:path.weight`, the keys of a `Delta`.

    Raises `AskError` for a pair whose ranks differ.

    >>> one = LowRank({"unet:a.weight": (torch.ones(2, 1), torch.ones(1, 3))})
    >>> one.scaled(2.0).dense("unet:a.weight").tolist()
    [[2.0, 2.0, 2.0], [2.0, 2.0, 2.0]]
    """

    factors: Mapping[str, Factors] = field(default_factory=dict[str, Factors])

    def __post_init__(self) -> None:
        for key, (up, down) in self.factors.items():
            if up.ndim != 2 or down.ndim != 2 or up.shape[1] != down.shape[0]:
                raise AskError(
                    f"{key}: up is {tuple(up.shape)} and down {tuple(down.shape)}; up must be [out, r] and down "
                    "[r, in] of one rank r. The file is damaged or mixes two adapters."
                )

    def __iter__(self) -> Iterator[str]:
        return iter(self.factors)

    def __len__(self) -> int:
        return len(self.factors)

    def __contains__(self, key: object) -> bool:
        return key in self.factors

    def rank(self, key: str) -> int:
        """The number of columns of `up`, 0 for a matrix that is not changed."""
        return self.factors[key][0].shape[1] if key in self.factors else 0

    def dense(self, key: str) -> Float[Tensor, "out inner"]:
        """The change of one matrix, up @ down, in float32 or wider."""
        up, down = self.factors[key]
        wide = torch.promote_types(up.dtype, torch.float32)
        return up.to(wide) @ down.to(wide)

    def scaled(self, weights: float | Mapping[str, float]) -> "LowRank":
        """Every change times a number, or times its own; keys that `weights` lacks keep theirs."""
        named = weights if isinstance(weights, Mapping) else dict.fromkeys(self.factors, weights)
        return LowRank({key: (up * named.get(key, 1.0), down) for key, (up, down) in self.factors.items()})

    def kept(self, keys: set[str] | frozenset[str]) -> "LowRank":
        """The changes of some matrices alone."""
        return LowRank({key: pair for key, pair in self.factors.items() if key in keys})

    def concatenated(self, *others: "LowRank") -> "LowRank":
        """The sum, exactly: factors side by side, so ranks add up.

        Raises `AskError` when two of them change one matrix in different shapes.
        """
        every = (self, *others)
        joined: dict[str, Factors] = {}
        for key in dict.fromkeys(key for each in every for key in each.factors):
            pairs = [each.factors[key] for each in every if key in each.factors]
            if len({(up.shape[0], down.shape[1]) for up, down in pairs}) > 1:
                shapes = " and ".join(f"{up.shape[0]}x{down.shape[1]}" for up, down in pairs)
                raise AskError(f"{key} is changed as {shapes}. These adapters belong to different models.")
            joined[key] = (torch.cat([up for up, _ in pairs], 1), torch.cat([down for _, down in pairs]))
        return LowRank(joined)

    def gauge(self) -> "LowRank":
        """The same changes in their canonical form: U sqrt(S) and sqrt(S) V^T, strongest rank first.

        The sign is such that the largest entry of every column of U is positive, so factors that differ by an
        invertible change of basis come out equal, up to rounding, where no two singular values are.
        """
        return LowRank({key: _split(*svd(up, down), like=up) for key, (up, down) in self.factors.items()})

    def truncated(self, rank: int) -> "LowRank":
        """The nearest changes of at most this rank, in canonical form.

        Raises `AskError` for a rank below 1.
        """
        if rank < 1:
            raise AskError(f"The rank is {rank}; it must be 1 or more.")
        cut: dict[str, Factors] = {}
        for key, (up, down) in self.factors.items():
            left, values, right = svd(up, down)
            cut[key] = _split(left[:, :rank], values[:rank], right[:rank], like=up)
        return LowRank(cut)

    def energy(self) -> dict[str, float]:
        """The Frobenius norm of every change, from its factors: sqrt(sum (up^T up) * (down down^T))."""
        return {key: float(inner(pair, pair)) ** 0.5 for key, pair in self.factors.items()}

    def to_delta(self, text: Mapping[str, str] | None = None) -> Delta:
        """A Delta of kind `weights` that holds the factors as they are."""
        tensors: dict[str, Tensor] = {}
        for key, (up, down) in self.factors.items():
            tensors |= {f"{key}.up": up, f"{key}.down": down}
        return Delta("weights", tensors, dict(text or {}))

    @classmethod
    def from_delta(cls, delta: Delta) -> "LowRank":
        """The factors that a Delta holds. Raises `AskError` for one that holds dense changes or something else."""
        keys = list(delta.keys())
        strange = [key for key in keys if f"{key}.up" not in delta.tensors or f"{key}.down" not in delta.tensors]
        if delta.kind != "weights" or strange:
            what = f"{strange[0]} is dense" if strange else f"its kind is {delta.kind}"
            raise AskError(f"This delta is not low-rank: {what}. Fit it with a rank above 0.")
        return cls({key: (delta.tensors[f"{key}.up"], delta.tensors[f"{key}.down"]) for key in keys})


def svd(
    up: Float[Tensor, "out r"], down: Float[Tensor, "r inner"]
) -> tuple[Float[Tensor, "out k"], Float[Tensor, " k"], Float[Tensor, "k inner"]]:
    """Left vectors, values and right vectors of up @ down in float64, from QR factors and a core of r by r.

    k is the smallest of out, r and inner; the largest entry of every left vector is positive.
    """
    q, r = torch.linalg.qr(up.double())
    p, s = torch.linalg.qr(down.double().T)
    left, values, right = torch.linalg.svd(r @ s.T, full_matrices=False)
    left, right = q @ left, right @ p.T
    largest = left.gather(0, left.abs().argmax(0, keepdim=True))[0]
    sign = torch.where(largest < 0, -1.0, 1.0).to(left)
    return left * sign, values, right * sign[:, None]


def inner(one: Factors, other: Factors) -> Float[Tensor, ""]:
    """<U1 D1, U2 D2> = sum (U1^T U2) * (D1 D2^T), the inner product of two changes, in float64."""
    (up, down), (up2, down2) = one, other
    return ((up.double().T @ up2.double()) * (down.double() @ down2.double().T)).sum()


def _split(left: Tensor, values: Tensor, right: Tensor, like: Tensor) -> Factors:
    root = values.sqrt()
    wide = torch.promote_types(like.dtype, torch.float32)
    return (left * root).to(wide), (root[:, None] * right).to(wide)
