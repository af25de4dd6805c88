"""Low-rank changes: exact sums, the nearest of a rank, a canonical form, all against dense matrices in float64."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from workbench.core.delta import Delta
from workbench.core.errors import AskError
from workbench.ops.low_rank import LowRank, inner, svd

KEY = "unet:a.weight"


def pair(seed: int, out: int = 6, width: int = 9, rank: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(shape, generator=generator).double() for shape in ((out, rank), (rank, width)))  # type: ignore[return-value]


@pytest.mark.parametrize(("seed", "first", "second"), [(0, 1, 1), (1, 5, 2), (2, 3, 4)])
def test_the_concatenation_is_the_sum(seed: int, first: int, second: int) -> None:
    a, b = pair(seed, rank=first), pair(seed + 100, rank=second)
    joined = LowRank({KEY: a, "unet:b.weight": b}).concatenated(LowRank({KEY: b}))
    assert joined.rank(KEY) == first + second
    assert_close(joined.dense(KEY), a[0] @ a[1] + b[0] @ b[1], rtol=1e-12, atol=1e-12)
    assert_close(joined.dense("unet:b.weight"), b[0] @ b[1])


def test_scaling_is_by_all_or_by_key() -> None:
    one = LowRank({KEY: pair(0), "unet:b.weight": pair(1)})
    assert_close(one.scaled(-2.0).dense(KEY), -2 * one.dense(KEY))
    some = one.scaled({KEY: 0.5})
    assert_close(some.dense(KEY), 0.5 * one.dense(KEY))
    assert torch.equal(some.dense("unet:b.weight"), one.dense("unet:b.weight"))


@pytest.mark.parametrize(("seed", "rank"), [(0, 1), (1, 3), (2, 5), (3, 6)])
def test_truncation_is_the_best_of_its_rank(seed: int, rank: int) -> None:
    up, down = pair(seed, rank=5)
    cut = LowRank({KEY: (up, down)}).truncated(rank)
    left, values, right = torch.linalg.svd(up @ down)
    best = left[:, :rank] * values[:rank] @ right[:rank]
    assert cut.rank(KEY) == min(rank, 5)
    assert_close(cut.dense(KEY), best, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_the_canonical_form_forgets_how_a_change_was_written(seed: int) -> None:
    up, down = pair(seed)
    mix = torch.randn(3, 3, generator=torch.Generator().manual_seed(seed + 1)).double() + 3 * torch.eye(3)
    one = LowRank({KEY: (up, down)}).gauge()
    other = LowRank({KEY: (up @ mix, torch.linalg.inv(mix) @ down)}).gauge()
    assert_close(one.dense(KEY), up @ down, rtol=1e-9, atol=1e-9)
    for mine, theirs in zip(one.factors[KEY], other.factors[KEY], strict=True):
        assert_close(mine, theirs, rtol=1e-6, atol=1e-6)


def test_the_canonical_factors_share_the_singular_values() -> None:
    up, down = LowRank({KEY: pair(3)}).gauge().factors[KEY]
    values = torch.linalg.svdvals(up @ down)[:3]
    assert_close(up.square().sum(0), values)
    assert_close(down.square().sum(1), values)
    assert (up.gather(0, up.abs().argmax(0, keepdim=True)) > 0).all()


def test_energy_is_the_frobenius_norm() -> None:
    up, down = pair(4)
    assert LowRank({KEY: (up, down)}).energy()[KEY] == pytest.approx(float(torch.linalg.matrix_norm(up @ down)))
    other = pair(5)
    assert float(inner((up, down), other)) == pytest.approx(float(((up @ down) * (other[0] @ other[1])).sum()))


def test_the_factored_decomposition_is_that_of_the_product() -> None:
    up, down = pair(6, out=4, width=3, rank=5)  # wider than either side
    left, values, right = svd(up, down)
    assert_close(left * values @ right, up @ down)
    assert_close(values, torch.linalg.svdvals(up @ down))


def test_a_delta_holds_the_factors_and_gives_them_back() -> None:
    one = LowRank({KEY: pair(7)})
    back = LowRank.from_delta(one.to_delta({"trigger": "sks"}))
    assert all(torch.equal(a, b) for a, b in zip(back.factors[KEY], one.factors[KEY], strict=True))
    with pytest.raises(AskError, match="is dense"):
        LowRank.from_delta(Delta("weights", {KEY: torch.ones(2, 2)}))
    with pytest.raises(AskError, match="kind is masks"):
        LowRank.from_delta(Delta("masks", {}))


def test_what_does_not_belong_together_is_refused() -> None:
    with pytest.raises(AskError, match="of one rank"):
        LowRank({KEY: (torch.ones(3, 2), torch.ones(1, 3))})
    with pytest.raises(AskError, match="different models"):
        LowRank({KEY: pair(0)}).concatenated(LowRank({KEY: pair(0, out=5)}))
    with pytest.raises(AskError, match="1 or more"):
        LowRank({KEY: pair(0)}).truncated(0)


def test_half_precision_comes_out_in_float32() -> None:
    up, down = (part.half() for part in pair(8))
    assert LowRank({KEY: (up, down)}).dense(KEY).dtype == torch.float32
    assert LowRank({KEY: (up, down)}).gauge().factors[KEY][0].dtype == torch.float32


def test_a_matrix_that_is_not_changed_has_rank_zero() -> None:
    one = LowRank({KEY: pair(0)})
    assert (one.rank("unet:other.weight"), len(one), KEY in one, list(one)) == (0, 1, True, [KEY])
    assert len(one.kept(frozenset())) == 0
