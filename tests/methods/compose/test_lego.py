"""LoRA-LEGO: all ranks give the sum; what does not depend on how a file is written; centres by loops."""

import pytest
import torch
from torch.testing import assert_close

from tests.methods.compose.layouts import dense, fitted, random_factors
from workbench.methods.compose.lego import Lego, clustered, turned

TWO = {"adapters": ("random:1", "random:2")}


def product(pair: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return pair[0] @ pair[1]


@pytest.mark.parametrize("gauge", ["svd", "raw"])
def test_as_many_clusters_as_ranks_give_the_sum(gauge: str) -> None:
    parts, weights = [random_factors(1), random_factors(2, rank=2)], (0.8, -0.5)
    made = product(Lego(rank=5, gauge=gauge, **TWO).built(parts, weights))
    assert_close(made, 0.8 * dense(parts[0]) - 0.5 * dense(parts[1]), atol=1e-12, rtol=0)


def other_form(pair: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    mix = torch.randn(3, 3, generator=torch.Generator().manual_seed(9)).double()
    return -pair[0] @ mix, -torch.linalg.inv(mix) @ pair[1]


def test_singular_bricks_do_not_depend_on_how_a_file_is_written() -> None:
    one, two = random_factors(1), random_factors(2)
    same, raw = Lego(**TWO), Lego(gauge="raw", **TWO)
    assert_close(product(same.built([one, other_form(two)], (1, 1))), product(same.built([one, two], (1, 1))),
                 atol=1e-9, rtol=0)  # fmt: skip
    gap = product(raw.built([one, other_form(two)], (1, 1))) - product(raw.built([one, two], (1, 1)))
    assert float(gap.abs().max()) > 0.1


def test_the_same_adapter_twice_is_one_adapter_of_its_size() -> None:
    one = random_factors(1)
    made = Lego(**TWO).built([one, (-one[0], -one[1])], (1.0, 1.0))
    assert made[0].shape[1] == 3
    assert_close(product(made), dense(one), atol=1e-9, rtol=0)


def test_centres_are_means_as_long_as_their_members_by_loops_in_float64() -> None:
    rows = torch.tensor([[3.0, 0.0], [0.0, 4.0], [10.0, 10.0], [12.0, 10.0]], dtype=torch.float64)
    found = sorted(clustered(rows, 2).tolist())
    slow = []
    for members in ([[3.0, 0.0], [0.0, 4.0]], [[10.0, 10.0], [12.0, 10.0]]):
        mean = [sum(row[i] for row in members) / 2 for i in range(2)]
        length = sum((row[0] ** 2 + row[1] ** 2) ** 0.5 for row in members) / 2
        slow.append([value * length / (mean[0] ** 2 + mean[1] ** 2) ** 0.5 for value in mean])
    assert_close(torch.tensor(found), torch.tensor(sorted(slow)), atol=1e-6, rtol=0)


def test_bricks_are_turned_to_the_one_they_resemble() -> None:
    rows = torch.tensor([[1.0, 0.0], [-0.9, 0.1], [0.1, -1.0], [0.0, 1.0]])
    assert_close(turned(rows), rows * torch.tensor([1.0, -1.0, 1.0, -1.0])[:, None])


def test_spread_scales_by_the_root_of_old_over_new_rank_and_not_at_the_default() -> None:
    parts = [random_factors(1), random_factors(2)]
    plain, scaled = (product(Lego(rank=6, spread=on, **TWO).built(parts, (1.0, 1.0))) for on in (False, True))
    assert_close(scaled, plain * (3 / 6) ** 0.5, atol=1e-12, rtol=0)
    plain, scaled = (product(Lego(spread=on, **TWO).built(parts, (1.0, 1.0))) for on in (False, True))
    assert_close(scaled, plain)


def test_the_merged_adapter_has_the_highest_rank_unless_told() -> None:
    for rank, expected in ((0, 4), (2, 2), (1000, 8)):
        delta = fitted(Lego(rank=rank, **TWO))
        assert {delta.tensors[f"{key}.up"].shape[1] for key in delta.keys()} == {expected}  # noqa: SIM118
