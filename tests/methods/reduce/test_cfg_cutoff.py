"""Guidance cut-off: which steps, how many rows, and the same picture as no guidance where it is off."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from tests.tiny import tiny_sd
from workbench.blocks.denoise import condition
from workbench.core.ask import Ask
from workbench.core.bundle import Condition
from workbench.core.errors import AskError
from workbench.core.patch import Patch
from workbench.core.scene import Scene, using
from workbench.core.tape import Step, ignore
from workbench.methods.generate.diffuse import Diffuse
from workbench.methods.reduce.cfg_cutoff import CfgCutoff

ASK = Ask(prompts=["a cat", "the red dog"], seeds=[1, 2])


def at(index: int, total: int) -> Condition:
    return replace(condition(tiny_sd(), ASK, True, (16, 16)), step=Step(index, total, 500.0))


def test_the_interval_on_paper() -> None:
    edit = CfgCutoff(start=0.2, stop=0.5)
    assert [i for i in range(10) if edit.guided(i, 10)] == [2, 3, 4]
    assert [i for i in range(4) if CfgCutoff(start=0, stop=1).guided(i, 4)] == [0, 1, 2, 3]
    assert not any(CfgCutoff(start=0, stop=0).guided(i, 4) for i in range(4))


@torch.no_grad()
def test_outside_the_interval_both_halves_are_the_conditional_prediction() -> None:
    x, t, cond = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.full((4,), 500), at(3, 4)
    slow = torch.cat([tiny_sd().predict(x[i : i + 1], t[:1], cond.rows([i])) for i in (2, 3)])
    with using(tiny_sd(), CfgCutoff(stop=0.5)) as bundle:
        output = bundle.predict(x, t, cond)
        negative, positive = output.chunk(2)
        assert_close(positive, slow, atol=1e-5, rtol=0)  # batch of 2 against 1 in float32
        assert torch.equal(negative, positive)
        assert torch.equal(bundle.seams.guide(positive, negative, 7.5, cond), positive)


@torch.no_grad()
def test_the_network_sees_half_the_rows_outside_and_all_inside() -> None:
    seen: list[int] = []
    with Patch(tiny_sd()) as patch:
        patch.hook(tiny_sd().parts["unet"], lambda module, args, kwargs: seen.append(len(args[0])), "before")
        Scene(tiny_sd(), Diffuse(steps=4, guidance=3.0), (CfgCutoff(start=0.25, stop=0.75),), ASK).run()
    assert seen == [2, 4, 4, 2]


def test_no_guided_step_at_all_draws_the_unguided_picture() -> None:
    never = Scene(tiny_sd(), Diffuse(steps=3, guidance=5.0), (CfgCutoff(start=0, stop=0),), ASK).run()
    plain = Scene(tiny_sd(), Diffuse(steps=3, guidance=1.0), (), ASK).run()
    assert torch.equal(never, plain)


def test_the_whole_run_changes_nothing() -> None:
    whole = Scene(tiny_sd(), Diffuse(steps=3, guidance=5.0), (CfgCutoff(**CfgCutoff.neutral),), ASK).run()
    assert torch.equal(whole, Scene(tiny_sd(), Diffuse(steps=3, guidance=5.0), (), ASK).run())


def test_the_tiny_model_draws_this_number_with_seeds_1_and_2() -> None:
    sampler = Diffuse(steps=4, guidance=5.0, scheduler="ddim")
    cut, whole = (Scene(tiny_sd(), sampler, edits, ASK).run().float() for edits in ((CfgCutoff(),), ()))
    assert (cut - whole).square().mean().sqrt().item() == pytest.approx(1.8343, rel=1e-2)  # in grey levels


@torch.no_grad()
def test_unguided_runs_and_calls_outside_a_run_pass_through() -> None:
    x, t, cond = torch.zeros(4, 4, 8, 8), torch.full((4,), 500), at(3, 4)
    plain = tiny_sd().predict(x, t, cond)
    with using(tiny_sd(), CfgCutoff(stop=0.0), tap=ignore) as bundle:
        assert torch.equal(bundle.predict(x, t, replace(cond, step=None)), plain)
        alone = cond.rows([2, 3])
        assert torch.equal(bundle.predict(x[2:], t[2:], alone), tiny_sd().predict(x[2:], t[2:], alone))


def test_an_interval_that_ends_before_it_starts_is_refused() -> None:
    with pytest.raises(AskError, match=r"cfg-cutoff has start 0\.8 after stop 0\.2, must have start <= stop"):
        CfgCutoff(start=0.8, stop=0.2)
