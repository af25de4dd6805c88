"""Pairings of noise and pictures: by hand, against every permutation, and that no draw is lost."""

from itertools import permutations

import torch
from torch.testing import assert_close

from workbench.ops.transport import coupled, nearest, squared_distances


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_distances_by_loops() -> None:
    a, b = draw(3, 2, 2, seed=0).double(), draw(4, 2, 2, seed=1).double()
    slow = [[sum((p - q) ** 2 for p, q in zip(x.flatten().tolist(), y.flatten().tolist(), strict=True)) for y in b] for x in a]  # fmt: skip  # noqa: E501
    assert_close(squared_distances(a, b), torch.tensor(slow, dtype=torch.float64), atol=1e-10, rtol=0)


def test_two_of_each_swap_where_that_is_nearer() -> None:
    clean, noise = torch.tensor([[0.0], [10.0]]), torch.tensor([[9.0], [1.0]])
    assert coupled(clean, noise).tolist() == [[1.0], [9.0]]
    assert coupled(clean, noise.flip(0)).tolist() == [[1.0], [9.0]]


def test_no_permutation_moves_less() -> None:
    clean, noise = draw(5, 3, seed=2), draw(5, 3, seed=3)
    mine = (coupled(clean, noise) - clean).square().sum()
    least = min(float((noise[list(order)] - clean).square().sum()) for order in permutations(range(5)))
    assert float(mine) <= least + 1e-5


def test_every_draw_is_used_once() -> None:
    clean, noise = draw(6, 2, 2, seed=4), draw(6, 2, 2, seed=5)
    assert sorted(map(str, coupled(clean, noise).tolist())) == sorted(map(str, noise.tolist()))


def test_the_nearest_of_several_draws_is_taken() -> None:
    clean = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    draws = torch.tensor([[[9.0, 9.0], [1.0, 2.0]], [[0.5, 0.0], [0.0, 3.0]]])
    assert nearest(clean, draws).tolist() == [[1.0, 2.0], [0.5, 0.0]]
    assert torch.equal(nearest(clean, draws[:, :1]), draws[:, 0])
