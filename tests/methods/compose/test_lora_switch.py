"""LoRA-Switch: whose turn it is, and that each step is what its adapter alone would do."""

import pytest
import torch
from torch.testing import assert_close

from tests.contract.stage import ASK, drawn_with
from tests.tiny import tiny_sd
from workbench.core.bundle import Condition
from workbench.core.catalog import method
from workbench.core.scene import using
from workbench.core.tape import Step
from workbench.methods.compose.lora_switch import LoraSwitch

TWO = ("random:1", "random:2")


@pytest.mark.parametrize(("period", "count"), [(1, 2), (5, 3), (2, 4)])
def test_turns_are_the_papers(period: int, count: int) -> None:
    edit = LoraSwitch(adapters=TWO, period=period)
    for t in range(1, 50):  # the paper counts steps from 1
        assert edit.turn(t - 1, count) == ((t - 1) % (count * period)) // period


@torch.no_grad()
def test_each_step_is_its_adapters_own() -> None:
    generator = torch.Generator().manual_seed(0)
    x, t = torch.randn(2, 4, 8, 8, generator=generator), torch.full((2,), 500)
    for index, alone in ((0, "random:1"), (1, "random:2"), (2, "random:1")):
        cond = Condition(tiny_sd().read(["a cat", "the dog"]), (0, 1), ("cond", "cond"), Step(index, 4, 500.0))
        with using(tiny_sd(), method("lora", adapters=(alone,), weights=(0.8,))) as bundle:
            expected = bundle.predict(x, t, cond)
        with using(tiny_sd(), LoraSwitch(adapters=TWO, weights=(0.8, 0.8), period=1)) as bundle:
            assert torch.equal(bundle.predict(x, t, cond), expected)


def test_a_period_as_long_as_the_run_is_the_first_adapter() -> None:
    ask = ASK.row(0)
    alone = drawn_with(tiny_sd(), method("lora", adapters=TWO[:1]), ask=ask)
    assert drawn_with(tiny_sd(), LoraSwitch(adapters=TWO, period=1000), ask=ask).equals(alone)


def test_where_there_is_no_step_all_act() -> None:
    generator = torch.Generator().manual_seed(0)
    x, t = torch.randn(1, 4, 8, 8, generator=generator), torch.full((1,), 500)
    cond = Condition(tiny_sd().read(["a cat"]), (0,), ("cond",))
    with torch.no_grad(), using(tiny_sd(), LoraSwitch(adapters=TWO)) as bundle:
        made = bundle.predict(x, t, cond)
    with torch.no_grad(), using(tiny_sd(), method("lora", adapters=TWO)) as bundle:
        assert_close(made, bundle.predict(x, t, cond), atol=1e-6, rtol=0)


@torch.no_grad()
def test_the_tiny_model_draws_this_number_with_seed_0() -> None:
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    cond = Condition(tiny_sd().read(["a cat"]), (0,), ("cond",), Step(1, 4, 500.0))
    plain = tiny_sd().predict(x, torch.full((1,), 500), cond)
    with using(tiny_sd(), LoraSwitch(adapters=TWO, period=1)) as bundle:
        change = bundle.predict(x, torch.full((1,), 500), cond) - plain
    assert float(change.square().mean().sqrt()) == pytest.approx(0.229333, rel=1e-3)
