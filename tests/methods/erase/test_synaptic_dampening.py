"""Selective synaptic dampening: the rule against a loop, the limits of its settings, and pictures of both sides."""

import pytest
import torch
from torch.testing import assert_close

from tests.tiny import tiny_sd
from workbench.blocks.groups import select
from workbench.blocks.importance import importance
from workbench.core.tape import ignore
from workbench.methods.erase.synaptic_dampening import SynapticDampening, damping

QUICK = SynapticDampening(**SynapticDampening.quick)


@pytest.mark.parametrize(("alpha", "left"), [(1.0, 1.0), (2.0, 0.5), (5.0, 3.0), (0.5, 1.0)])
def test_the_rule_equals_a_loop_in_float64(alpha: float, left: float) -> None:
    draw = torch.Generator().manual_seed(0)
    forget, whole = (torch.rand(5, 7, generator=draw, dtype=torch.float64) ** 3 for _ in range(2))
    forget[0, 0] = whole[0, 0] = whole[1, 1] = 0.0
    slow = torch.empty_like(forget)
    for i in range(5):
        for j in range(7):
            f, d = float(forget[i, j]), float(whole[i, j])
            slow[i, j] = min(left * d / f, 1.0) if f > alpha * d else 1.0
    assert_close(damping(forget, whole, alpha, left), slow, atol=1e-12, rtol=0)


def test_what_matters_to_the_concept_alone_is_put_out_and_what_matters_to_neither_stays() -> None:
    factor = damping(torch.tensor([1.0, 0.0, 1.0]), torch.tensor([0.0, 0.0, 1.0]), 10.0, 1.0)
    assert factor.tolist() == [0.0, 1.0, 1.0]


def test_the_change_is_the_rule_on_measured_importance() -> None:
    bundle = tiny_sd()
    delta = QUICK.fit(bundle, ignore)
    forget = importance(bundle, QUICK.recipe(bundle, ("cat",)))
    whole = importance(bundle, QUICK.recipe(bundle, ("dog", "cat")))
    chosen = 0
    for handle in select(bundle, "xattn"):
        weight = getattr(handle.owner, handle.name)
        factor = damping(forget[handle.key], whole[handle.key], 1.0, 1.0)
        assert_close(delta.tensors[handle.key], factor * weight - weight, atol=1e-6, rtol=1e-5)
        chosen += int((factor < 1).sum())
    assert delta.text["dampened"] == str(chosen)
    assert chosen > 0


def test_a_high_alpha_changes_nothing_and_a_lower_one_takes_more() -> None:
    assert not any(value.any() for value in QUICK.but(alpha=1e6).fit(tiny_sd(), ignore).tensors.values())
    few, many = (int(QUICK.but(alpha=alpha).fit(tiny_sd(), ignore).text["dampened"]) for alpha in (4.0, 1.5))
    assert 0 < few < many


def test_the_count_of_seed_0_is_this_one() -> None:
    # about one in a thousand ratios lies within rounding of the border
    assert int(QUICK.fit(tiny_sd(), ignore).text["dampened"]) == pytest.approx(14605, rel=0.01)
