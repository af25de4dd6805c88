"""Laid out weights: the same product, never that of an older weight, and only where it pays."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from workbench.models.var import packed
from workbench.models.var.packed import Linear, Packs, linear, packing

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this build of torch has no oneDNN")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every product is worth it."""
    monkeypatch.setattr(packed, "WORTH_PACKING", 0)
    monkeypatch.setattr(packed, "WORTH_USING", 0)


def layer(seed: int = 0) -> Linear:
    torch.manual_seed(seed)
    return Linear(6, 10)


def laid(module: nn.Linear) -> bool:
    return module.weight in packed._laid


@torch.no_grad()
def test_the_product_is_the_same_to_rounding() -> None:
    module, x = layer(), torch.randn(2, 5, 6)
    slow = (x.double() @ module.weight.double().T + module.bias.double()).float()
    with packing(Packs()):
        assert_close(module(x), slow, atol=1e-6, rtol=1e-6)
        assert_close(linear(x, module.weight), slow - module.bias, atol=1e-6, rtol=1e-6)
    assert laid(module)


@pytest.mark.parametrize("write", ["version", "data", "moved", "replaced"])
@torch.no_grad()
def test_a_weight_that_was_written_to_between_runs_is_laid_out_anew(write: str) -> None:
    module, x = layer(), torch.randn(4, 6)
    with packing(Packs()):
        module(x)
    match write:
        case "version":
            module.weight.mul_(2)
        case "data":
            module.weight.data.mul_(2)
        case "moved":
            module.weight.data.copy_(module.weight.data.roll(1, 0).clone())
        case _:
            module.weight = nn.Parameter(module.weight * 2)
    with packing(Packs()):
        assert_close(module(x), nn.functional.linear(x, module.weight, module.bias), atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_a_weight_that_is_written_to_or_exchanged_within_a_run_is_laid_out_anew() -> None:
    module, x = layer(), torch.randn(4, 6)
    with packing(Packs()):
        first = module(x)
        module.weight.mul_(3)
        assert_close(module(x), (first - module.bias) * 3 + module.bias, atol=1e-5, rtol=1e-5)
        module.weight = nn.Parameter(torch.zeros(10, 6))
        assert_close(module(x), module.bias.expand(4, -1))


@torch.no_grad()
def test_copies_go_with_their_weights_and_stay_below_the_ceiling(monkeypatch: pytest.MonkeyPatch) -> None:
    before = len(packed._laid)
    module = layer()
    with packing(Packs()):
        module(torch.randn(4, 6))
    assert len(packed._laid) == before + 1
    del module
    assert len(packed._laid) == before
    monkeypatch.setattr(packed, "MOST", 0)
    other = layer()
    with packing(Packs()):
        other(torch.randn(4, 6))
    assert not laid(other)


def test_gradients_half_precision_and_small_products_go_the_usual_way(monkeypatch: pytest.MonkeyPatch) -> None:
    module, x = layer(), torch.randn(4, 6)
    with packing(Packs()):
        module(x).sum().backward()
        assert module.weight.grad is not None
        with torch.no_grad():
            module.bfloat16()(x.bfloat16())
            monkeypatch.setattr(packed, "WORTH_PACKING", 10**6)
            other = layer()
            assert torch.equal(other(x), nn.functional.linear(x, other.weight, other.bias))
    assert not laid(module)
    assert not laid(other)
    with torch.no_grad():
        assert torch.equal(other(x), nn.functional.linear(x, other.weight, other.bias))  # outside of a run


def test_operations_of_laid_out_weights_are_counted() -> None:
    from workbench.blocks.ledger import Ledger

    module = layer()
    with torch.no_grad(), packing(Packs()), Ledger() as ledger:
        module(torch.randn(2, 5, 6))
    assert laid(module)
    assert ledger.parts["matrices"] == 2 * 10 * 6 * 10
