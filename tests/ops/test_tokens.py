"""Merging tokens: exact where nothing is lost, means and copies by hand, one plan a row."""

import pytest
import torch
from torch.testing import assert_close

from workbench.ops import tokens
from workbench.ops.tokens import Merging, bipartite, cut, nearest, tiles


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def random_plan(rows: int = 3, count: int = 12, places: int = 5) -> Merging:
    place = torch.randint(places, (rows, count), generator=torch.Generator().manual_seed(1))
    place[:, :places] = torch.arange(places)  # every place has a token
    return Merging.of(place, places, noise(rows, count, seed=2).abs() + 0.1)


def test_means_and_copies_by_hand() -> None:
    plan = Merging.of(torch.tensor([[0, 1, 0, 0]]), 2)
    merged = plan.merge(torch.tensor([[[1.0], [5.0], [2.0], [6.0]]]))
    assert merged.tolist() == [[[3.0], [5.0]]]
    assert plan.unmerge(merged).tolist() == [[[3.0], [5.0], [3.0], [3.0]]]
    assert plan.sizes.tolist() == [[3, 1]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_a_slow_twin_in_float64(dtype: torch.dtype) -> None:
    plan, x = random_plan(), noise(3, 12, 7)
    share = plan.share.double()
    slow = torch.zeros(3, 5, 7, dtype=torch.float64)
    for row in range(3):
        for token in range(12):
            slow[row, plan.place[row, token]] += share[row, token] * x[row, token].double()
    merged = plan.merge(x.to(dtype))
    assert merged.dtype == dtype
    tolerance = {torch.bfloat16: 5e-2, torch.float16: 5e-3}.get(dtype, 1e-6)  # a mean of a few numbers of size 1
    assert_close(merged.double(), slow, atol=tolerance, rtol=0)
    for row in range(3):
        assert torch.equal(plan.unmerge(merged)[row], merged[row][plan.place[row]])


def test_shares_of_a_place_sum_to_one_and_dropped_tokens_have_none() -> None:
    plan = random_plan()
    assert_close(torch.zeros(3, 5).scatter_add(1, plan.place, plan.share), torch.ones(3, 5))
    dropped = Merging.of(torch.tensor([[0, 0, 1]]), 2, torch.tensor([[1.0, 0.0, 1.0]]))
    assert dropped.merge(torch.tensor([[[4.0], [9.0], [1.0]]])).tolist() == [[[4.0], [1.0]]]


def test_gradients_pass_through() -> None:
    plan, x = random_plan(), noise(3, 12, 2).requires_grad_()
    plan.unmerge(plan.merge(x)).sum().backward()
    slow = (plan.share * plan.sizes.gather(1, plan.place))[..., None].expand(-1, -1, 2)
    assert_close(x.grad, slow)


def test_maps_come_back_as_copies_of_queries_and_shares_of_keys() -> None:
    plan = random_plan()
    maps = noise(3, 2, 5, 5).softmax(-1)
    whole = plan.keys(plan.queries(maps, -2), -1)
    assert whole.shape == (3, 2, 12, 12)
    assert_close(whole.sum(-1), torch.ones(3, 2, 12))
    row, query, key = 1, 7, 9
    here, there = plan.place[row, query], plan.place[row, key]
    assert_close(whole[row, 0, query, key], maps[row, 0, here, there] * plan.share[row, key])


def test_rows_are_planned_alone_and_can_be_taken_out() -> None:
    x = noise(3, 64, 8)
    cells = torch.randint(4, (3, 16), generator=torch.Generator().manual_seed(3))
    plan = bipartite(x, tiles((8, 8), 2, cells), 32)
    for row in range(3):
        alone = bipartite(x[row : row + 1], tiles((8, 8), 2, cells[row : row + 1]), 32)
        assert torch.equal(alone.place, plan.place[row : row + 1])
        assert torch.equal(plan.rows([row]).merge(x[row : row + 1]), alone.merge(x[row : row + 1]))


def test_text_beside_the_picture_stays_as_it_is() -> None:
    plan, x = random_plan(), noise(3, 12, 4)
    words = noise(3, 6, 4, seed=5)
    for first in (True, False):
        both = torch.cat([words, x] if first else [x, words], 1)
        merged = torch.cat([words, plan.merge(x)] if first else [plan.merge(x), words], 1)
        beside = plan.beside(6, first)
        assert_close(beside.merge(both), merged)
        back = [words, plan.unmerge(plan.merge(x))]
        assert_close(beside.unmerge(merged), torch.cat(back if first else back[::-1], 1))
    assert plan.beside(0, True) is plan


def test_tiles_have_one_destination_each_and_borders_none() -> None:
    cells = torch.tensor([[0, 1, 2, 3]])
    src, dst = tiles((5, 4), 2, cells)
    assert dst.tolist() == [[0, 3, 12, 15]]  # corner, right of it, below it, across from it
    assert src.tolist() == [[token for token in range(20) if token not in (0, 3, 12, 15)]]


def test_nearest_is_the_same_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = noise(2, 40, 6), noise(2, 10, 6, seed=1)
    best, which = nearest(a, b)
    slow = torch.nn.functional.cosine_similarity(a[:, :, None].double(), b[:, None].double(), dim=-1)
    assert_close(best.double(), slow.amax(-1), atol=1e-6, rtol=0)
    assert torch.equal(which, slow.argmax(-1))
    monkeypatch.setattr(tokens, "SCORES", 64)
    pieces = nearest(a, b)
    assert torch.equal(pieces[1], which)
    assert_close(pieces[0], best)


def test_the_most_alike_merge_first_and_early_ones_before_them() -> None:
    x = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 0.1], [1.0, 1.0], [0.3, 1.0]]])
    sides = torch.tensor([[2, 3, 4]]), torch.tensor([[0, 1]])
    plan = bipartite(x, sides, 1)
    assert plan.places == 4
    assert plan.place.tolist() == [[0, 1, 0, 3, 2]]  # token 2 joins token 0; 4 is the next best, then 3
    early = bipartite(x, sides, 1, early=torch.tensor([[False, True, False]]))
    assert early.place[0, 3] < 2
    pruned = bipartite(x, sides, 1, drop=True)
    assert pruned.merge(x)[0, 0].tolist() == [1.0, 0.0]


@pytest.mark.parametrize("count", [0, 24, 48])
def test_places_are_as_many_as_asked_and_none_is_empty(count: int) -> None:
    x = noise(2, 64, 4)
    plan = bipartite(x, tiles((8, 8), 2, torch.zeros(2, 16, dtype=torch.long)), count)
    assert plan.places == 64 - count
    assert plan.tokens == 64
    assert (plan.sizes > 0).all()
    if not count:
        assert_close(plan.unmerge(plan.merge(x)), x)


def test_equal_tokens_survive_merging() -> None:
    centres = torch.eye(4)  # far apart
    x = centres[torch.arange(64) % 4][None]
    plan = bipartite(x, tiles((8, 8), 4, torch.tensor([[0, 1, 2, 3]])), 60)
    assert_close(plan.unmerge(plan.merge(x)), x)


def test_merges_cut_into_clusters() -> None:
    assert cut([], 3) == [0, 1, 2]
    assert cut([(1, 2), (3, 4), (0, 6)], 5) == [0, 1, 1, 0, 0]
