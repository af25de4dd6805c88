"""Intervals and distances between sets of features. Every draw comes from a generator of its own."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# torch.linalg, torch.fft and torch.special carry no types

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.core.errors import AskError

Interval = tuple[float, float]
Z95 = 1.959963984540054


def wilson(hits: int, total: int, z: float = Z95) -> Interval:
    """Wilson's score interval of a share, 95 % by default; (0, 1) when nothing was tried.

    >>> [round(v, 4) for v in wilson(8, 10)]
    [0.4902, 0.9433]
    """
    if not 0 <= hits <= total:
        raise AskError(f"{hits} of {total} is no share; hits lie between 0 and the total.")
    if total == 0:
        return 0.0, 1.0
    share = hits / total
    middle = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total)) / (1 + z * z / total)
    return max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half))


def paired_difference(both: int, before: int, after: int, neither: int, z: float = Z95) -> tuple[float, float, float]:
    """Difference of two shares of the same items, after - before, with its interval (Newcombe 1998, method 10).

    Of the items, `both` were right both times, `before` only the first and `after` only the second time. With Wilson's
    intervals (l, u) of either share p and their correlation phi, which is continuity-corrected when positive,
        lower = d - sqrt((p2 - l2)^2 - 2 phi (p2 - l2)(u1 - p1) + (u1 - p1)^2), upper likewise from (u2, l1).
    Nothing tried is (0, -1, 1).

    >>> [round(v, 4) for v in paired_difference(20, 12, 2, 16)]
    [-0.2, -0.3292, -0.0562]
    """
    total = both + before + after + neither
    if min(both, before, after, neither) < 0:
        raise AskError("Counts of pairs cannot be negative.")
    if total == 0:
        return 0.0, -1.0, 1.0
    first, second = (both + before) / total, (both + after) / total
    (low1, high1), (low2, high2) = wilson(both + before, total, z), wilson(both + after, total, z)
    spread = (both + before) * (after + neither) * (both + after) * (before + neither)
    cross = both * neither - before * after
    cross = max(cross - total / 2, 0.0) if cross > 0 else cross
    phi = cross / math.sqrt(spread) if spread else 0.0
    gap = second - first

    def arm(mine: float, other: float) -> float:
        return math.sqrt(max(mine * mine - 2 * phi * mine * other + other * other, 0.0))

    return gap, max(-1.0, gap - arm(second - low2, high1 - first)), min(1.0, gap + arm(high2 - second, first - low1))


def bootstrap(values: Float[Tensor, " n"], draws: int = 2000, level: float = 0.95, seed: int = 0) -> Interval:
    """Percentile bootstrap interval of the mean; it always holds the mean, and is a point for a single value.

    Values are sorted first, so that the order in which they came does not matter.
    """
    count = len(values)
    if count == 0:
        raise AskError("There are no values to take an interval of.")
    ordered = values.detach().double().cpu().sort().values
    return resampled(lambda rows: ordered[rows].mean(1), count, draws, level, seed)[1:]


def resampled(
    statistic: Callable[[Int[Tensor, "d n"]], Float[Tensor, " d"]],
    count: int,
    draws: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float, float]:
    """A statistic of rows 0 to count - 1, and its percentile bootstrap interval, which always holds it."""
    picks = torch.randint(count, (draws, count), generator=torch.Generator().manual_seed(seed))
    value = statistic(torch.arange(count)[None])[0].item()
    tail = (1 - level) / 2
    ends = torch.quantile(statistic(picks), torch.tensor([tail, 1 - tail], dtype=torch.float64))
    return value, min(ends[0].item(), value), max(ends[1].item(), value)


def jackknife(value: float, without: Float[Tensor, " n"], z: float = Z95) -> Interval:
    """Normal interval about `value` from its recomputations with one item left out each time (Efron's formula)."""
    left = without.detach().double()
    count = len(left)
    error = math.sqrt((count - 1) / count * (left - left.mean()).square().sum().item()) if count > 1 else 0.0
    return value - z * error, value + z * error


def cosine_distances(features: Float[Tensor, "n d"]) -> Float[Tensor, "n n"]:
    """1 - cosine between all pairs of rows, in float64; 0..2, exactly 0 on the diagonal."""
    unit = torch.nn.functional.normalize(features.detach().double(), dim=-1)
    return (1 - unit @ unit.T).clamp(0, 2).fill_diagonal_(0)


def frechet(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> float:
    """Frechet distance of two sets' Gaussians: |mx - my|^2 + tr(Sx + Sy - 2 (Sx^1/2 Sy Sx^1/2)^1/2).

    Biased upwards for small sets: compare sets of equal size only.
    """
    x, y = x.detach().double(), y.detach().double()
    if min(len(x), len(y)) < 2:
        raise AskError(f"The Frechet distance needs two pictures a set; there are {len(x)} and {len(y)}.")
    sx, sy = torch.cov(x.T).reshape(x.shape[1], -1), torch.cov(y.T).reshape(y.shape[1], -1)
    values, vectors = torch.linalg.eigh(sx)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ sy @ root).clamp_min(0).sqrt().sum()
    gap = (x.mean(0) - y.mean(0)).square().sum()
    return max(0.0, (gap + sx.trace() + sy.trace() - 2 * cross).item())


def kid(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> float:
    """Kernel inception distance: the unbiased squared MMD with kernel (x.y / d + 1)^3; may be slightly negative."""
    x, y = x.detach().double(), y.detach().double()
    n, m, width = len(x), len(y), x.shape[1]
    if min(n, m) < 2:
        raise AskError(f"The kernel distance needs two pictures a set; there are {n} and {m}.")

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / width + 1) ** 3

    xx, yy = kernel(x, x), kernel(y, y)
    within = (xx.sum() - xx.trace()) / (n * (n - 1)) + (yy.sum() - yy.trace()) / (m * (m - 1))
    return (within - 2 * kernel(x, y).mean()).item()
