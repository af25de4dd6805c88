"""Trajectory consistency: between DDIM and LCM, the rule by hand, and that noise is the image's own."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.tiny import tiny_sd
from workbench.blocks.denoise import condition
from workbench.core.ask import Ask
from workbench.core.errors import AskError
from workbench.core.tape import Step, ignore
from workbench.methods.fewstep.tcd import Tcd

GOLDEN = 40.218  # deviation in grey levels with the adapter random:1
ASK = Ask(prompts=["a cat", "the red dog"], seeds=[1, 2])


def steps_of(sampler: Tcd, ask: Ask) -> list[Step]:
    seen: list[Step] = []
    sampler.sample(tiny_sd(), ask, seen.append)
    return seen


@torch.no_grad()
def by_hand(eta: float, times: list[int]) -> list[Tensor]:
    """The states of image 2 in float64 around the network's answers."""
    bundle, cond = tiny_sd(), condition(tiny_sd(), ASK.row(1), False, (16, 16))
    bars = bundle.scheduler("tcd", 1).alphas_cumprod.double()
    generator = torch.Generator().manual_seed(2)
    x, states = torch.randn(1, 4, 8, 8, generator=generator).double(), []
    for index, t in enumerate(times):
        noise = bundle.predict(x.float(), torch.tensor([t]), cond).double()
        clean = (x - (1 - bars[t]).sqrt() * noise) / bars[t].sqrt()
        last = index + 1 == len(times)
        after = 0 if last else times[index + 1]
        below = int((1 - eta) * after)
        x = bars[below].sqrt() * clean + (1 - bars[below]).sqrt() * noise
        if eta > 0 and not last:
            up = bars[after] / bars[below]
            fresh = torch.randn(1, 4, 8, 8, generator=generator).double()
            x = up.sqrt() * x + (1 - up).sqrt() * fresh
        states.append(x)
    return states


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_slow_twin(eta: float) -> None:
    seen = steps_of(Tcd(student="", steps=3, eta=eta), ASK.row(1))
    assert [round(step.level) for step in seen] == [999, 679, 339]
    for step, slow in zip(seen, by_hand(eta, [999, 679, 339]), strict=True):
        scale = float(slow.abs().max())
        assert_close(step.x.double() / scale, slow / scale, atol=2e-5, rtol=0)  # the network itself is float32


def test_without_noise_the_path_is_the_first_noises_alone() -> None:
    """eta 0 draws nothing after the start, eta 1 does."""
    for eta, same in ((0.0, True), (1.0, False)):
        short, long = (steps_of(Tcd(student="", steps=n, eta=eta), ASK.row(0))[0].x0 for n in (2, 3))
        assert torch.equal(short, long)  # both start at 999 with the same noise
        first, second = (steps_of(Tcd(student="", steps=2, eta=e), ASK.row(0))[0].x for e in (0.0, eta))
        assert torch.equal(first, second) is same


def test_the_origin_spaces_the_steps() -> None:
    assert [round(s.level) for s in steps_of(Tcd(student="", steps=4), ASK.row(0))] == [999, 759, 499, 259]
    assert [round(s.level) for s in steps_of(Tcd(student="", steps=4, origin=4), ASK.row(0))] == [999, 749, 499, 249]
    with pytest.raises(AskError, match="tcd: steps is 5, must be at most the 4"):
        Tcd(student="", steps=5, origin=4).sample(tiny_sd(), ASK, ignore)


def test_the_tiny_model_draws_this_number_with_seeds_1_and_2() -> None:
    images = Tcd(student="random:1", steps=2).sample(tiny_sd(), ASK, ignore).float()
    assert images.std().item() == pytest.approx(GOLDEN, rel=1e-2)
