"""Diagnostics of adapters against dense matrices, and their values for twins and strangers."""

import pytest
import torch
from torch.testing import assert_close

from workbench.ops.adapter_stats import balanced, by_place, compared, effective_rank, listened, total
from workbench.ops.low_rank import LowRank

KEYS = ("unet:a.weight", "unet:b.weight")


def made(seed: int, rank: int = 3) -> LowRank:
    draw = torch.Generator().manual_seed(seed)
    return LowRank({key: (torch.randn(6, rank, generator=draw).double(), torch.randn(rank, 9, generator=draw).double())
                    for key in KEYS})  # fmt: skip


def test_every_number_equals_its_dense_definition() -> None:
    parts = [made(0), made(1, 2), made(2).scaled(0.3)]
    found = compared(parts)
    dense = [[part.dense(key) for key in KEYS] for part in parts]
    bases = [[torch.linalg.svd(matrix)[2][: part.rank(KEYS[0])].T for matrix in row]
             for part, row in zip(parts, dense, strict=True)]  # fmt: skip
    for i, mine in enumerate(dense):
        for j, other in enumerate(dense):
            one, two = (torch.cat([m.flatten() for m in row]) for row in (mine, other))
            assert float(found.cosine[i, j]) == pytest.approx(float(one @ two / one.norm() / two.norm()), abs=1e-9)
            heard = sum(float((m @ v).square().sum()) for m, v in zip(other, bases[i], strict=True))
            assert float(found.crosstalk[i, j]) == pytest.approx(heard**0.5 / float(one.norm()), rel=1e-6)
            met = sum(float((v.T @ w).square().sum()) for v, w in zip(bases[i], bases[j], strict=True))
            least = 2 * min(bases[i][0].shape[1], bases[j][0].shape[1])
            assert float(found.overlap[i, j]) == pytest.approx(met / least, rel=1e-6)


def test_twins_talk_fully_and_orthogonal_adapters_not_at_all() -> None:
    assert_close(compared([made(0), made(0)]).crosstalk, torch.ones(2, 2).double())
    up = torch.ones(4, 1).double()
    first = LowRank({KEYS[0]: (up, torch.tensor([[1.0, 0.0, 0.0]]).double())})
    second = LowRank({KEYS[0]: (up, torch.tensor([[0.0, 2.0, 0.0]]).double())})
    apart = compared([first, second])
    assert apart.interference == 0.0
    assert_close(apart.overlap, torch.eye(2).double())


def test_adapters_of_other_matrices_do_not_meet() -> None:
    one, two = made(0).kept(frozenset(KEYS[:1])), made(1).kept(frozenset(KEYS[1:]))
    assert compared([one, two]).interference == 0.0


def test_an_adapter_of_zeros_divides_nothing() -> None:
    found = compared([made(0), made(1).scaled(0.0)])
    assert all(torch.isfinite(part).all() for part in (found.cosine, found.overlap, found.crosstalk))
    assert compared([made(0)]).interference == 0.0


def test_the_effective_rank_counts_equal_directions() -> None:
    assert effective_rank((torch.eye(5)[:, :3], torch.eye(3, 7))) == pytest.approx(3)
    assert effective_rank((torch.ones(4, 2), torch.ones(2, 4))) == pytest.approx(1, abs=1e-6)
    assert listened((torch.ones(4, 2), torch.ones(2, 4))).shape == (4, 1)


def test_energies_add_up_by_place() -> None:
    one = made(3)
    places = by_place(one, lambda key: key.partition(":")[0])
    assert places == {"unet": pytest.approx(total(one))}
    assert total(one) == pytest.approx(sum(float(one.dense(key).square().sum()) for key in KEYS) ** 0.5)


def test_suggested_weights_equalise() -> None:
    energies = [0.5, 8.0, 2.0]
    assert [w * e for w, e in zip(balanced(energies), energies, strict=True)] == pytest.approx([2.0] * 3)
    assert balanced([0.0, 3.0]) == pytest.approx([0.0, 1.0])
    assert balanced([]) == []
