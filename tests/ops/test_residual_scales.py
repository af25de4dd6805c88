"""Schedules and the two resizings."""

import pytest
import torch
import torch.nn.functional as F

from workbench.core.errors import AskError
from workbench.ops.residual_scales import check_schedule, coarse, fine, read_grid, shaped


def test_coarse_is_the_mean_of_each_cell_and_its_own_grid_is_left_alone() -> None:
    x = torch.arange(16.0).view(1, 1, 4, 4)
    assert coarse(x, (2, 2)).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert coarse(x, (4, 4)) is x


def test_fine_is_bicubic_and_its_own_grid_is_left_alone() -> None:
    x = torch.randn(1, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(fine(x, (5, 7)), F.interpolate(x, size=(5, 7), mode="bicubic"))
    assert fine(x, (3, 3)) is x


def test_scales_take_the_shape_of_the_latent() -> None:
    assert shaped((1, 2, 3, 4, 6, 8), (8, 8)) == tuple((p, p) for p in (1, 2, 3, 4, 6, 8))
    assert shaped((1, 2, 4), (4, 8)) == ((1, 2), (2, 4), (4, 8))
    assert shaped((1, 8), (8, 2)) == ((1, 1), (8, 2))


def test_grids_are_read_from_text() -> None:
    assert [read_grid(text) for text in ("4", " 3x5 ")] == [(4, 4), (3, 5)]
    for text in ("", "x3", "0", "a", "3x0", "-1", "9" * 5000):
        with pytest.raises(AskError, match="it must be a side such as 4"):
            read_grid(text)


def test_a_schedule_has_to_rise_and_end_at_the_latent() -> None:
    assert check_schedule([(1, 1), (1, 2), (2, 2)], (2, 2)) == ((1, 1), (1, 2), (2, 2))
    with pytest.raises(AskError, match="The schedule ends at 2x2; the latent of this picture is 4x4"):
        check_schedule([(1, 1), (2, 2)], (4, 4))
    for grids in ([(2, 2), (1, 1)], [(2, 2), (2, 2)], [(1, 3), (2, 2)]):
        with pytest.raises(AskError, match="every scale must be finer"):
            check_schedule(grids, (2, 2))
    with pytest.raises(AskError, match="The schedule is empty"):
        check_schedule([], (2, 2))
