"""Turbo: times from 999 backwards, the ancestral step by hand, and one step that is the clean picture."""

import pytest
import torch
from torch.testing import assert_close

from tests.tiny import tiny_sd
from workbench.blocks.denoise import condition
from workbench.core.ask import Ask
from workbench.core.tape import Step, ignore
from workbench.methods.fewstep.turbo import Turbo

GOLDEN = 40.201  # deviation in grey levels with the adapter random:1
ASK = Ask(prompts=["a cat", "the red dog"], seeds=[1, 2])


def steps_of(sampler: Turbo, ask: Ask) -> list[Step]:
    seen: list[Step] = []
    sampler.sample(tiny_sd(), ask, seen.append)
    return seen


def test_times_are_spaced_backwards_from_the_noisiest() -> None:
    assert [round(s.level) for s in steps_of(Turbo(student="", steps=1), ASK.row(0))] == [999]
    assert [round(s.level) for s in steps_of(Turbo(student="", steps=4), ASK.row(0))] == [999, 749, 499, 249]


@torch.no_grad()
def test_slow_twin() -> None:
    seen = steps_of(Turbo(student="", steps=2), ASK.row(1))
    bundle, cond = tiny_sd(), condition(tiny_sd(), ASK.row(1), False, (16, 16))
    bars = bundle.scheduler("ddim", 1).alphas_cumprod.double()
    sigmas = [float(((1 - bars[t]) / bars[t]).sqrt()) for t in (999, 499)] + [0.0]
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(1, 4, 8, 8, generator=generator).double() * sigmas[0]
    for index, t in enumerate((999, 499)):
        sigma, after = sigmas[index], sigmas[index + 1]
        rows = (x / (sigma**2 + 1) ** 0.5).float()
        clean = x - sigma * bundle.predict(rows, torch.tensor([t]), cond).double()
        up = (after**2 * (sigma**2 - after**2) / sigma**2) ** 0.5
        down = (after**2 - up**2) ** 0.5
        x = x + (x - clean) / sigma * (down - sigma)
        x = x + up * torch.randn(1, 4, 8, 8, generator=generator).double()
        scale = float(x.abs().max())
        assert_close(seen[index].x.double() / scale, x / scale, atol=2e-5, rtol=0)  # the network itself is float32


def test_the_last_step_is_the_clean_picture() -> None:
    step = steps_of(Turbo(student="", steps=1), ASK.row(0))[-1]
    assert_close(step.x, step.x0, atol=1e-5 * float(step.x0.abs().max()), rtol=0)


def test_the_tiny_model_draws_this_number_with_seeds_1_and_2() -> None:
    images = Turbo(student="random:1", steps=2).sample(tiny_sd(), ASK, ignore).float()
    assert images.std().item() == pytest.approx(GOLDEN, rel=1e-2)
