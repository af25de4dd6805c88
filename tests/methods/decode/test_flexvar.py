"""Flexible scales: any schedule and shape on a model of direct prediction, the model's own on others."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.tiny import tiny_var
from workbench.core.ask import Ask
from workbench.core.bundle import Bundle
from workbench.core.errors import AskError
from workbench.core.patch import Patch
from workbench.core.tape import ignore
from workbench.methods.decode.flexvar import FlexVar
from workbench.methods.decode.var import Var
from workbench.ops.residual_scales import fine

ASK = Ask(prompts=["class:2", "class:4"], seeds=[1, 2])


def flexible() -> Bundle:
    return tiny_var(prediction="direct")


def states(bundle: Bundle, sampler: FlexVar, ask: Ask = ASK) -> list[Tensor]:
    found: list[Tensor] = []
    sampler.sample(bundle, ask, lambda step: found.append(step.x))  # type: ignore[arg-type]
    return found


@torch.no_grad()
def test_logits_are_those_of_teacher_forcing_on_another_schedule() -> None:
    """Two scales of a shape the model never saw: the second is told the first's codes, enlarged."""
    bundle, sampler = flexible(), FlexVar(schedule=("2x3", "4x6"), guidance=0)
    net, logits, ask = bundle.parts["var"], [], ASK.but(size=(12, 8))
    with Patch(bundle) as patch:
        patch.wrap("predict", lambda inner: lambda *args: logits.append(inner(*args)) or logits[-1])
        first, last = states(bundle, sampler, ask)
    inputs = fine(first, (4, 6)).flatten(2).transpose(1, 2)
    whole = net(torch.tensor([2, 4]), inputs, grids=((2, 3), (4, 6)))
    assert_close(logits[0].flatten(2).transpose(1, 2), whole[:, :6], atol=1e-4, rtol=0)
    assert_close(logits[1].flatten(2).transpose(1, 2), whole[:, 6:], atol=1e-4, rtol=0)
    assert last.shape == (2, 4, 4, 6)


def test_pictures_take_the_size_asked_for_and_any_number_of_scales() -> None:
    for size, steps in (((16, 16), 3), ((24, 8), 5), ((8, 32), 0)):
        sampler = FlexVar(steps=steps)
        images = sampler.sample(flexible(), ASK.but(size=size), ignore)
        assert images.shape == (2, 3, size[1], size[0])
        assert not steps or len(sampler.grids(flexible(), ASK.but(size=size))) == steps


def test_the_schedule_by_number_on_paper() -> None:
    assert FlexVar(steps=3).grids(flexible(), ASK) == ((1, 1), (4, 4), (8, 8))
    assert FlexVar(steps=1).grids(flexible(), ASK) == ((8, 8),)
    assert FlexVar().grids(flexible(), ASK) == tuple((p, p) for p in (1, 2, 3, 4, 6, 8))


def test_scales_finer_than_the_model_knows_take_the_likeliest_token() -> None:
    ask, sampler = ASK.but(size=(20, 20)), FlexVar(schedule=("10",), guidance=0)
    assert torch.equal(states(flexible(), sampler, ask)[0], states(flexible(), sampler, ask.but(seeds=[5, 6]))[0])


def test_on_residual_models_it_is_next_scale_decoding() -> None:
    common = {"guidance": 2.0, "top_p": 0.9}
    assert torch.equal(FlexVar(**common).sample(tiny_var(), ASK, ignore), Var(**common).sample(tiny_var(), ASK, ignore))


def test_the_tiny_model_draws_this_number_with_seeds_1_and_2() -> None:
    found = FlexVar(steps=4).sample(flexible(), ASK, ignore)
    assert found.float().mean().item() == pytest.approx(115.4994, rel=1e-3)  # grey levels


def test_wrong_schedules_are_one_line() -> None:
    for sampler, words in (
        (FlexVar(schedule=("1", "4")), "The schedule ends at 4x4; the latent of this picture is 8x8"),
        (FlexVar(schedule=("4", "2", "8")), "every scale must be finer"),
        (FlexVar(schedule=("1", "eight")), "A scale is 'eight'"),
        (FlexVar(steps=9), "steps is 9; a latent of 8 cells a side has at most 8 scales"),
    ):
        with pytest.raises(AskError, match=words):
            sampler.sample(flexible(), ASK, ignore)
    with pytest.raises(AskError, match="tiny-var predicts residuals over its own scales and takes no other schedule"):
        FlexVar(steps=3).sample(tiny_var(), ASK, ignore)
    with pytest.raises(AskError, match="draws multiples of 2 pixels"):
        FlexVar().sample(flexible(), ASK.but(size=(15, 16)), ignore)
