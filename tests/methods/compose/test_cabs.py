"""CABS: disjoint masks with as many entries a group, against loops; what does not fit is refused."""

import pytest
import torch
from torch.testing import assert_close

from tests.methods.compose.layouts import fitted
from workbench.core.errors import AskError
from workbench.methods.compose.cabs import Cabs, masks

THREE = ("random:1", "random:2", "random:3")


def changes() -> torch.Tensor:
    return torch.randn(3, 5, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def slow(stack: torch.Tensor, kept: int, group: int) -> torch.Tensor:
    """Masks by loops: entry after entry, the largest that are still free."""
    size = stack[0].numel()
    made, taken = torch.zeros(len(stack), size, dtype=torch.bool), set()
    for index, change in enumerate(stack):
        values = change.flatten().abs().tolist()
        for start in range(0, size, group):
            free = [i for i in range(start, min(start + group, size)) if i not in taken]
            best = sorted(free, key=lambda i: -values[i])[:kept]
            taken |= set(best)
            made[index, best] = True
    return made.reshape(stack.shape)


@pytest.mark.parametrize(("kept", "group"), [(1, 4), (2, 7), (3, 9), (5, 45)])
def test_masks_equal_loops_and_are_disjoint(kept: int, group: int) -> None:
    found = masks(changes(), kept, group)
    assert torch.equal(found, slow(changes(), kept, group))
    assert int(found.sum(0).max()) <= 1
    whole = found.flatten(1)[:, : 45 // group * group].unflatten(1, (-1, group)).sum(2)
    assert whole.unique().tolist() == [kept]  # every whole group keeps as many entries of each


def test_the_merge_is_the_weighted_masked_sum_and_its_order_matters() -> None:
    edit = Cabs(adapters=THREE, kept=1, group=4)
    stack, weights = changes(), (0.5, 2.0, -1.0)
    expected = sum(w * m * t for w, m, t in zip(weights, slow(stack, 1, 4), stack, strict=True))
    assert_close(edit.combined("k", stack, weights), expected)
    turned = edit.combined("k", stack.flip(0), weights[::-1])
    assert not torch.allclose(turned, expected)


def test_more_adapters_than_room_are_refused_in_a_line() -> None:
    with pytest.raises(AskError, match=r"keeps 100 of 256 entries for each of 3 adapters.*set kept to 85 or less"):
        Cabs(adapters=THREE, kept=100)


def test_a_quarter_each_of_two_adapters_is_half_of_every_matrix() -> None:
    delta = fitted(Cabs(adapters=THREE[:2]))
    for key in delta.keys():  # noqa: SIM118
        assert float((delta.change(key) != 0).float().mean()) == pytest.approx(0.5, abs=1e-6)
