"""Attention maps: cases solvable on paper, and twins written with loops."""

import math

import pytest
import torch
from torch.testing import assert_close

from workbench.core.errors import AskError
from workbench.ops import attention


def weights(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)).softmax(-1)


def test_mean_over_heads_is_the_plain_mean() -> None:
    w = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]])
    assert attention.mean_heads(w).tolist() == [[[0.5, 0.5]]]


def test_entropy_is_zero_for_one_place_and_log_of_the_number_for_all() -> None:
    w = torch.tensor([[1.0, 0, 0, 0], [0.25, 0.25, 0.25, 0.25], [0.5, 0.5, 0, 0]])
    assert_close(attention.entropy(w), torch.tensor([0.0, math.log(4), math.log(2)]))
    assert_close(attention.evenness(w), torch.tensor([0.0, 1.0, 0.5]))


def test_evenness_of_a_single_place_is_one() -> None:
    assert attention.evenness(torch.ones(2, 1)).tolist() == [1.0, 1.0]


def test_entropy_equals_a_loop_in_float64() -> None:
    w = weights(2, 3, 5)
    slow = [[-sum(p * math.log(p) for p in row) for row in rows] for rows in w.double().tolist()]
    assert_close(attention.entropy(w).double(), torch.tensor(slow, dtype=torch.float64), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("tokens", "size", "cells"), [(64, (8, 8), (8, 8)), (16, (8, 8), (4, 4)), (6, (5, 4), (3, 2))])
def test_a_grid_is_the_latent_halved_rounding_up(tokens: int, size: tuple[int, int], cells: tuple[int, int]) -> None:
    assert attention.grid(tokens, size) == cells


def test_a_number_of_tokens_that_is_no_grid_is_refused() -> None:
    with pytest.raises(AskError, match="50 tokens are no grid of a 8x8"):
        attention.grid(50, (8, 8))


def test_folding_keeps_rows_together() -> None:
    assert attention.to_grid(torch.arange(4.0)[None], (2, 2)).tolist() == [[[0, 1], [2, 3]]]


def test_resizing_keeps_the_mean_when_doubling() -> None:
    m = weights(1, 4, 4)
    assert_close(attention.resize(m, (8, 8)).mean(), m.mean(), atol=1e-6, rtol=0)
    assert attention.resize(m, (8, 8), "nearest").shape == (1, 8, 8)


def test_the_cell_under_a_pixel_counts_row_by_row() -> None:
    assert attention.place((0, 0), (16, 16), (4, 4)) == 0
    assert attention.place((15, 15), (16, 16), (4, 4)) == 15
    assert attention.place((4, 8), (16, 16), (4, 4)) == 9
    assert attention.place((8, 4), (16, 32), (2, 4)) == 1


def test_a_pixel_outside_is_refused() -> None:
    with pytest.raises(AskError, match=r"The pixel is \(16, 0\); the picture is 16x16, so x goes from 0 to 15"):
        attention.place((16, 0), (16, 16), (4, 4))


def test_spreading_reaches_from_zero_to_one_and_a_constant_map_is_zero() -> None:
    m = torch.stack([torch.tensor([[1.0, 3.0], [2.0, 1.0]]), torch.full((2, 2), 7.0)])
    assert attention.spread(m).tolist() == [[[0, 1], [0.5, 0]], [[0, 0], [0, 0]]]


def test_a_word_is_the_mean_of_its_tokens() -> None:
    m = torch.tensor([[[1.0, 2.0, 6.0]]])
    assert attention.mean_tokens(m, torch.tensor([1, 2])).tolist() == [[4.0]]


def test_heads_that_all_look_at_one_place_overfocus_and_those_that_look_apart_do_not() -> None:
    one = torch.zeros(6, 6)
    one[:, 2] = 1.0
    assert_close(attention.overfocus(one, one.mean(0)), torch.ones(6))
    apart = torch.eye(6)  # the mean is 1/6 everywhere, below 2/6: nothing is left of it
    assert_close(attention.overfocus(apart, apart.mean(0)), torch.zeros(6))
    flat = torch.full((6, 6), 1 / 6)
    assert_close(attention.overfocus(flat, flat.mean(0)), torch.zeros(6))


def test_overfocus_equals_loops_in_float64() -> None:
    w = (8 * torch.rand(5, 7, generator=torch.Generator().manual_seed(1))).softmax(-1)
    rows = w.double().tolist()
    mean = [sum(row[j] for row in rows) / 5 for j in range(7)]
    cut = [m if m >= 2 / 7 else 0.0 for m in mean]
    slow = []
    for row in rows:
        kept = [v if v >= 2 / 7 else 0.0 for v in row]
        size = math.sqrt(sum(v * v for v in kept)) * math.sqrt(sum(v * v for v in cut))
        slow.append(sum(a * b for a, b in zip(kept, cut, strict=True)) / size if size else 0.0)
    assert_close(attention.overfocus(w, w.mean(0)).double(), torch.tensor(slow, dtype=torch.float64), atol=1e-6, rtol=0)


def test_reach_is_zero_at_home_and_one_everywhere() -> None:
    assert_close(attention.reach(torch.eye(12), (3, 4)), torch.zeros(12))
    assert_close(attention.reach(torch.full((12, 12), 1 / 12), (3, 4)), torch.ones(12))
    rows = weights(12, 12)
    whole = attention.reach(rows, (3, 4))
    assert_close(attention.reach(rows[5:9], (3, 4), start=5), whole[5:9])


def test_looking_down_is_positive_and_an_even_look_is_level() -> None:
    top, bottom = torch.zeros(2, 1, 4)
    top[0, 0], bottom[0, 3] = 1.0, 1.0
    assert_close(attention.downward(top, (2, 2)), torch.tensor([-0.25]))
    assert_close(attention.downward(bottom, (2, 2)), torch.tensor([0.25]))
    assert_close(attention.downward(torch.full((1, 4), 0.25), (2, 2)), torch.zeros(1))


def test_rollout_of_two_layers_equals_loops() -> None:
    one, two = weights(1, 2, 3, 3), weights(1, 2, 3, 3).flip(-1)

    def layer(w: torch.Tensor) -> list[list[float]]:
        mean = w[0].double().mean(0)
        rows = [[mean[i, j].item() + (i == j) for j in range(3)] for i in range(3)]
        return [[v / sum(row) for v in row] for row in rows]

    a, b = layer(one), layer(two)
    slow = [[sum(b[i][k] * a[k][j] for k in range(3)) for j in range(3)] for i in range(3)]
    fast = attention.roll(two, attention.roll(one))
    assert_close(fast[0].double(), torch.tensor(slow, dtype=torch.float64), atol=1e-6, rtol=0)
    assert_close(fast.sum(-1), torch.ones(1, 3))


def test_relevance_adds_what_raises_the_answer_alone() -> None:
    w = torch.tensor([[[[0.5, 0.5], [1.0, 0.0]]]])
    g = torch.tensor([[[[2.0, -4.0], [0.0, 3.0]]]])
    assert attention.relevance(w, g, torch.eye(2)[None]).tolist() == [[[2.0, 0.0], [0.0, 1.0]]]
    assert attention.relevance(w, -g.abs(), torch.eye(2)[None]).tolist() == [[[1.0, 0.0], [0.0, 1.0]]]


def test_principal_components_find_the_line_and_do_not_flip() -> None:
    along = torch.tensor([0.0, 0, 0, 1, 5])
    features = along[:, None] * torch.tensor([[3.0, -4.0]])
    for sign in (1, -1):
        found = attention.principal(sign * features)
        assert found.shape == (5, 3)
        assert_close(found[:, 0], along / 5)  # the rarer, far side is bright
        assert_close(found[:, 1:], torch.zeros(5, 2))
