"""The one solver behind every closed-form edit of a matrix, and the subspaces it may be held to.

With pairs of inputs k and wanted outputs v* of weight w, A = sum w v* k^T [o, d] and B = sum w k k^T [d, d]:

    W' = W + (A - W B) H (H^T B H + s I)^-1 H^T

minimises sum w |W' k - v*|^2 + s |W' - W|^2 over the changes W' - W = Z H^T, for orthonormal columns H [d, r]. Pairs
that are to stay as they are (v* = W k) enter B alone. Everything is computed in float64.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# torch.linalg carries no types

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.core.errors import AskError

#: Beyond this condition number a float64 solution has no correct digit left.
WORST = 0.1 / torch.finfo(torch.float64).eps


@dataclass(frozen=True, eq=False)
class Solved:
    """A change W' - W [o, d] in float64, the condition number of its system (1-norm), and whether it was singular."""

    change: Float[Tensor, "o d"]
    condition: float
    singular: bool


class System:
    """H^T B H + s I, factored once for any number of matrices.

    `condition` is its condition number in the 1-norm. A singular system (no ridge and too few inputs) warns and takes
    the pseudo-inverse, which is the smallest of the changes that fit best; its condition is infinite.
    """

    def __init__(self, B: Float[Tensor, "d d"], ridge: float = 0.0, basis: Float[Tensor, "d r"] | None = None) -> None:
        if ridge < 0:
            raise AskError(f"The ridge is {ridge}; it must be 0 or more.")
        self.basis = None if basis is None else basis.double()
        whole = B.double() if self.basis is None else self.basis.T @ B.double() @ self.basis
        whole = (whole + whole.T) / 2
        whole.diagonal().add_(ridge)
        self.condition, self.singular = 1.0, False
        self._factor, self._pseudo = whole, None
        if whole.numel() == 0:
            return
        self._factor, trouble = torch.linalg.cholesky_ex(whole)
        if not int(trouble):
            norms = (torch.linalg.matrix_norm(m, 1) for m in (whole, torch.cholesky_inverse(self._factor)))
            self.condition = float(next(norms) * next(norms))
        if int(trouble) or not self.condition < WORST:
            self.condition, self.singular = float("inf"), True
            self._pseudo = torch.linalg.pinv(whole, hermitian=True)
            warnings.warn(
                "The closed form is singular: fewer independent text states than dimensions and no ridge. The smallest "
                "change that fits best is taken; give a ridge above 0 for a stable one.",
                RuntimeWarning,
                stacklevel=2,
            )

    def solve(self, rest: Float[Tensor, "o d"]) -> Float[Tensor, "o d"]:
        """rest H (H^T B H + s I)^-1 H^T, for rest = A - W B."""
        inner = rest.double() if self.basis is None else rest.double() @ self.basis
        if inner.shape[1] == 0:
            return torch.zeros_like(rest, dtype=torch.float64)
        inner = torch.cholesky_solve(inner.T, self._factor).T if self._pseudo is None else inner @ self._pseudo
        return inner if self.basis is None else inner @ self.basis.T


def solve_linear_edit(
    W: Float[Tensor, "o d"],
    A: Float[Tensor, "o d"],
    B: Float[Tensor, "d d"],
    ridge: float = 0.0,
    basis: Float[Tensor, "d r"] | None = None,
) -> Solved:
    """The change of W that the module's equation gives; `System` shares the factors between matrices.

    >>> one, target = torch.eye(2), torch.tensor([[0.0, 2.0], [0.0, 0.0]])
    >>> solve_linear_edit(torch.zeros(2, 2), target, one, ridge=1.0).change.round(decimals=9).tolist()
    [[0.0, 1.0], [0.0, 0.0]]
    """
    system = System(B, ridge, basis)
    return Solved(system.solve(A.double() - W.double() @ B.double()), system.condition, system.singular)


def recovery(
    new: Sequence[Float[Tensor, "_o d"]], old: Sequence[Float[Tensor, "_o d"]], ridge: float = 0.0
) -> Float[Tensor, "d d"]:
    """R such that R c, fed to the new matrices, comes closest to what the old ones made of c (RECE, eq. 7).

    R = (sum W_new^T W_new + s I)^-1 sum W_new^T W_old: the closed-form attack on an edit, the same for every concept.
    """
    gram, cross = products(new, new), products(new, old)
    return System(gram, ridge).solve(cross.T).T


def products(first: Sequence[Float[Tensor, "_o d"]], second: Sequence[Float[Tensor, "_o e"]]) -> Float[Tensor, "d e"]:
    """sum W^T V over pairs of matrices, in float64, one pair at a time."""
    total = torch.zeros(first[0].shape[1], second[0].shape[1], dtype=torch.float64, device=first[0].device)
    for W, V in zip(first, second, strict=True):
        total += W.double().T @ V.double()
    return total


def null_basis(
    B: Float[Tensor, "d d"], *, energy: float | None = None, rank: int | None = None, floor: float | None = None
) -> Float[Tensor, "d r"]:
    """Orthonormal directions in which the moments B hold (almost) nothing, weakest last to strongest left out.

    Exactly one rule says how many of the strongest directions are left out: the fewest that hold the share `energy`
    (0..1) of trace B, the first `rank`, or those whose eigenvalue is at least `floor`.
    Raises `AskError` for none or several rules.
    """
    if sum(rule is not None for rule in (energy, rank, floor)) != 1:
        raise AskError("null_basis takes one of energy, rank and floor. Give exactly one.")
    values, vectors = torch.linalg.eigh(B.double())
    values = values.clamp_min(0).flip(0)  # strongest first
    if rank is not None:
        held = rank
    elif floor is not None:
        held = int((values >= floor).sum())
    else:
        total = float(values.sum())
        wanted = float(energy or 0.0) * total
        held = 0 if wanted <= 0 else int((values.cumsum(0) < wanted * (1 - 1e-12)).sum()) + 1
    return vectors.flip(1)[:, min(held, len(values)) :]


def restrict(basis: Float[Tensor, "d r"], held: Float[Tensor, "d m"]) -> Float[Tensor, "d q"]:
    """The directions of a basis at right angles to the columns of `held`, so that a change there is exactly 0."""
    inner = basis.double().T @ held.double()
    left, values, _ = torch.linalg.svd(inner, full_matrices=False)
    scale = float(held.double().norm()) if held.numel() else 0.0
    rank = int((values > max(scale, 1e-300) * 1e-10).sum())
    whole, _ = torch.linalg.qr(left[:, :rank], mode="complete")
    return basis.double() @ whole[:, rank:]


def least_direction(W: Float[Tensor, "o d"]) -> Float[Tensor, " d"]:
    """A unit input that W answers least: its last right singular vector, or one of the last few where they are close.

    By inverse iteration from a fixed start, 4,096 of them through twelve squarings of the inverse.
    """
    gram = W.double().T @ W.double()
    gram.diagonal().add_(float(gram.diagonal().mean()) * 1e-10 + 1e-300)
    power = torch.cholesky_inverse(torch.linalg.cholesky(gram))
    for _ in range(12):
        power = power / power.norm()
        power = power @ power
    start = torch.randn(len(gram), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = power @ start.to(W.device)
    return found / found.norm()


def factors(
    change: Float[Tensor, "o d"], share: float = 1.0, most: int | None = None
) -> tuple[Float[Tensor, "o r"], Float[Tensor, "r d"]]:
    """The narrowest up and down whose product keeps a share of the squared norm; of rank `most` and 1 at least.

    The best ones of their rank: singular vectors, each scaled by the root of its singular value.
    """
    left, values, right = torch.linalg.svd(change.double(), full_matrices=False)
    held = values.square().cumsum(0)
    rank = int((held < share * held[-1] * (1 - 1e-12)).sum()) + 1
    rank = min(rank, len(values), most or len(values))
    root = values[:rank].sqrt()
    return left[:, :rank] * root, root[:, None] * right[:rank]
