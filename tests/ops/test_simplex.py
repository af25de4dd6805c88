"""Projection onto the simplex: cases by hand, the sorting algorithm in float64, fixed points."""

import pytest
import torch
from torch.testing import assert_close

from workbench.core.errors import AskError
from workbench.ops.simplex import project_simplex


def by_sorting(row: list[float]) -> list[float]:
    """The threshold from the sorted row, as Duchi et al. write it."""
    ordered = sorted(row, reverse=True)
    total, tau = 0.0, 0.0
    for count, value in enumerate(ordered, 1):
        total += value
        if value - (total - 1) / count > 0:
            tau = (total - 1) / count
    return [max(value - tau, 0.0) for value in row]


def test_a_case_by_hand() -> None:
    found = project_simplex(torch.tensor([[1.0, 0.6, -1.0]], dtype=torch.float64))
    assert_close(found, torch.tensor([[0.7, 0.3, 0.0]], dtype=torch.float64))


def test_it_equals_the_sorting_algorithm() -> None:
    rows = 3 * torch.randn(7, 11, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    twin = torch.tensor([by_sorting(row) for row in rows.tolist()], dtype=torch.float64)
    assert_close(project_simplex(rows), twin, atol=1e-9, rtol=0)


def test_points_of_the_simplex_stay_where_they_are() -> None:
    inside = torch.softmax(torch.randn(4, 6, generator=torch.Generator().manual_seed(1)), 1)
    assert_close(project_simplex(inside), inside, atol=1e-6, rtol=0)


def test_rows_that_are_not_finite_are_refused() -> None:
    with pytest.raises(AskError, match="not finite"):
        project_simplex(torch.tensor([[float("nan"), 0.0]]))
