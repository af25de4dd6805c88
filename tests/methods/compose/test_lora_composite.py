"""LoRA-Composite: one call is the mean of separate runs."""

import torch
from torch.testing import assert_close

from tests.contract.stage import ASK, drawn_with
from tests.tiny import tiny_sd
from workbench.core.bundle import Condition
from workbench.core.catalog import method
from workbench.core.scene import using
from workbench.core.tape import Step
from workbench.methods.compose.lora_composite import LoraComposite

THREE, WEIGHTS = ("random:1", "random:2", "random:3"), (0.8, 1.2, -0.5)


@torch.no_grad()
def test_it_is_the_mean_of_what_each_adapter_predicts_alone() -> None:
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    t = torch.full((2,), 500)
    cond = Condition(tiny_sd().read(["", "a cat"]), (0, 0), ("uncond", "cond"), Step(1, 4, 500.0))
    alone = []
    for source, weight in zip(THREE, WEIGHTS, strict=True):
        with using(tiny_sd(), method("lora", adapters=(source,), weights=(weight,))) as bundle:
            alone.append(bundle.predict(x, t, cond))
    with using(tiny_sd(), LoraComposite(adapters=THREE, weights=WEIGHTS)) as bundle:
        made = bundle.predict(x, t, cond)
    # a batch of six instead of two: fp32 sums in another order
    assert_close(made, torch.stack(alone).mean(0), atol=2e-5, rtol=0)
    assert float((made - alone[0]).abs().max()) > 0.01


def test_one_adapter_is_that_adapter() -> None:
    ask = ASK.row(1)
    alone = drawn_with(tiny_sd(), method("lora", adapters=THREE[:1]), ask=ask)
    drawn_with(tiny_sd(), LoraComposite(adapters=THREE[:1]), ask=ask).near(alone, "one branch")


@torch.no_grad()
def test_branches_do_not_depend_on_their_order() -> None:
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    cond = Condition(tiny_sd().read(["a cat"]), (0,), ("cond",))
    made = []
    for order in (THREE, THREE[::-1]):
        with using(tiny_sd(), LoraComposite(adapters=order)) as bundle:
            made.append(bundle.predict(x, torch.full((1,), 500), cond))
    assert_close(made[0], made[1], atol=2e-5, rtol=0)


def test_it_stacks_with_edits_that_take_rows_away_or_add_some() -> None:
    edit = LoraComposite(adapters=THREE[:2])
    for other in (method("cfg-cutoff"), method("safe-guidance", concepts=["dog"], warmup=0.0)):
        for pair in ((edit, other), (other, edit)):
            made = drawn_with(tiny_sd(), *pair, ask=ASK.row(0))  # type: ignore[arg-type]
            assert torch.isfinite(made.states[-1]).all()
