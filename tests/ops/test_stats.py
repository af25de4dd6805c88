"""Intervals and distances: known values, invariances, limits."""

import math

import pytest
import torch
from torch.testing import assert_close

from workbench.core.errors import AskError
from workbench.ops import stats


def normal(n: int, d: int, seed: int) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("hits", "total"), [(0, 5), (5, 5), (3, 7), (1, 1), (0, 1), (90, 128)])
def test_wilson_solves_its_quadratic_and_holds_the_share(hits: int, total: int) -> None:
    low, high = stats.wilson(hits, total)
    share = hits / total
    assert 0 <= low <= share <= high <= 1
    for end in (low, high):
        if 0 < end < 1:
            assert math.isclose((share - end) ** 2, stats.Z95**2 * end * (1 - end) / total, abs_tol=1e-12)


def test_wilson_of_nothing_is_everything_and_of_nonsense_refused() -> None:
    assert stats.wilson(0, 0) == (0.0, 1.0)
    with pytest.raises(AskError, match="3 of 2 is no share"):
        stats.wilson(3, 2)


#: Newcombe 1998, Statistics in Medicine 17:2635, table III, column of method 10: (both, first, second, neither), ends.
NEWCOMBE = [
    ((36, 12, 2, 0), (0.0569, 0.3404)),
    ((20, 12, 2, 16), (0.0562, 0.3292)),
]


@pytest.mark.parametrize(("counts", "ends"), NEWCOMBE)
def test_paired_differences_are_near_newcombes_table(
    counts: tuple[int, int, int, int], ends: tuple[float, ...]
) -> None:
    gap, low, high = stats.paired_difference(*counts)
    assert gap == pytest.approx(-0.2)
    assert_close(torch.tensor([-high, -low]), torch.tensor(ends), atol=1e-3, rtol=0)


def test_paired_differences_turn_around_and_stay_in_range() -> None:
    gap, low, high = stats.paired_difference(3, 5, 1, 7)
    back = stats.paired_difference(3, 1, 5, 7)
    assert_close(torch.tensor(back), torch.tensor((-gap, -high, -low)))
    assert low <= gap <= high
    assert stats.paired_difference(0, 9, 0, 0)[0] == -1.0
    assert stats.paired_difference(0, 0, 0, 0) == (0.0, -1.0, 1.0)
    same = stats.paired_difference(6, 0, 0, 6)
    assert same[0] == 0.0
    assert -same[1] == pytest.approx(same[2])
    with pytest.raises(AskError, match="negative"):
        stats.paired_difference(1, -1, 0, 0)


def test_bootstrap_covers_the_mean_and_does_not_mind_the_order() -> None:
    values = normal(50, 1, 0)[:, 0]
    low, high = stats.bootstrap(values)
    assert low < values.mean() < high
    assert stats.bootstrap(values.flip(0)) == (low, high)
    half = 1.96 * values.std().item() / math.sqrt(50)
    assert abs((high - low) / 2 - half) < 0.15 * half  # percentile against normal theory, 2000 draws


def test_bootstrap_of_one_value_is_a_point_and_of_none_refused() -> None:
    assert stats.bootstrap(torch.tensor([2.0])) == (2.0, 2.0)
    with pytest.raises(AskError, match="no values"):
        stats.bootstrap(torch.empty(0))


def test_intervals_leave_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    stats.bootstrap(torch.arange(4.0))
    assert torch.equal(before, torch.get_rng_state())


def test_jackknife_of_a_mean_is_its_standard_error() -> None:
    values = normal(20, 1, 1)[:, 0]
    without = torch.stack([values[torch.arange(20) != i].mean() for i in range(20)])
    low, high = stats.jackknife(values.mean().item(), without)
    error = values.std().item() / math.sqrt(20)
    assert math.isclose(high - low, 2 * stats.Z95 * error, rel_tol=1e-9)


def test_cosine_distances_on_paper() -> None:
    table = stats.cosine_distances(torch.tensor([[1.0, 0], [0, 2.0], [-3.0, 0]]))
    assert_close(table, torch.tensor([[0.0, 1, 2], [1, 0, 1], [2, 1, 0]], dtype=torch.float64))


def test_frechet_of_a_set_with_itself_is_zero_and_of_a_shift_its_square() -> None:
    x = normal(200, 3, 2)
    assert stats.frechet(x, x) < 1e-9
    assert math.isclose(stats.frechet(x, x + torch.tensor([3.0, 4.0, 0.0])), 25.0, rel_tol=1e-9)


def test_frechet_in_one_dimension_is_the_known_formula() -> None:
    x, y = normal(30, 1, 3), 2 * normal(40, 1, 4) + 1
    known = (x.mean() - y.mean()) ** 2 + (x.std() - y.std()) ** 2
    assert math.isclose(stats.frechet(x, y), known.item(), rel_tol=1e-9)


def test_kid_equals_its_double_sum() -> None:
    x, y = normal(4, 2, 5), normal(5, 2, 6)

    def k(a: torch.Tensor, b: torch.Tensor) -> float:
        return (sum(float(p) * float(q) for p, q in zip(a, b, strict=True)) / 2 + 1) ** 3

    xx = sum(k(x[i], x[j]) for i in range(4) for j in range(4) if i != j) / 12
    yy = sum(k(y[i], y[j]) for i in range(5) for j in range(5) if i != j) / 20
    xy = sum(k(a, b) for a in x for b in y) / 20
    assert math.isclose(stats.kid(x, y), xx + yy - 2 * xy, rel_tol=1e-9)


@pytest.mark.parametrize("measure", [stats.frechet, stats.kid])
def test_one_picture_is_too_few(measure: object) -> None:
    with pytest.raises(AskError, match="needs two pictures a set; there are 1 and 3"):
        measure(normal(1, 2, 0), normal(3, 2, 0))  # type: ignore[operator]
