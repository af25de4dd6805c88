"""NitroFusion's schedule: the published lists and levels, x0 at the shifted time, noise at the unshifted one."""

from typing import Any

import pytest
import torch
from torch.testing import assert_close

from tests.tiny import tiny_sd
from workbench.blocks.denoise import condition
from workbench.core.ask import Ask
from workbench.core.patch import Patch
from workbench.core.tape import Step, ignore
from workbench.methods.fewstep.lcm import Lcm
from workbench.methods.fewstep.nitrofusion import Nitrofusion

GOLDEN = 38.107  # deviation in grey levels with the adapter random:1
ASK = Ask(prompts=["a cat", "the red dog"], seeds=[1, 2])
TOLD = {
    (250, 1): [249], (250, 2): [249, 124], (250, 3): [249, 187, 124], (250, 4): [249, 187, 124, 62],
    (500, 1): [499], (500, 2): [499, 249], (500, 3): [499, 374, 249], (500, 4): [499, 374, 249, 124],
}  # fmt: skip
BARS = {62: 0.938687, 124: 0.863408, 187: 0.773606, 249: 0.675432, 499: 0.277670, 749: 0.056623}


@pytest.mark.parametrize(("shift", "steps"), TOLD)
def test_the_network_is_told_the_shifted_times(shift: int, steps: int) -> None:
    told: list[int] = []
    seen: list[Step] = []

    def note(module: Any, args: Any, kwargs: Any) -> None:
        told.append(int(args[1][0]))

    with Patch(tiny_sd()) as patch:
        patch.hook(tiny_sd().parts["unet"], note, "before")
        Nitrofusion(steps=steps, shift=shift).sample(tiny_sd(), ASK.row(0), seen.append)
    assert told == TOLD[shift, steps]
    assert [round(step.level) for step in seen] == {1: [999], 2: [999, 499], 3: [999, 749, 499],
                                                    4: [999, 749, 499, 249]}[steps]  # fmt: skip


def test_the_levels_are_the_published_ones() -> None:
    bars = tiny_sd().scheduler("lcm", 1).alphas_cumprod
    assert {t: round(float(bars[t]), 6) for t in BARS} == pytest.approx(BARS, abs=2e-6)


@torch.no_grad()
@pytest.mark.parametrize("shift", [250, 500])
def test_slow_twin(shift: int) -> None:
    seen: list[Step] = []
    Nitrofusion(steps=2, shift=shift).sample(tiny_sd(), ASK.row(1), seen.append)
    bundle, cond = tiny_sd(), condition(tiny_sd(), ASK.row(1), False, (16, 16))
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(1, 4, 8, 8, generator=generator).double()
    bars = bundle.scheduler("lcm", 1).alphas_cumprod.double()
    for index, told in enumerate(TOLD[shift, 2]):
        said = bundle.predict(x.float(), torch.tensor([told]), cond).double()
        x = (x - (1 - bars[told]).sqrt() * said) / bars[told].sqrt()
        if index == 0:
            noise = torch.randn(1, 4, 8, 8, generator=generator).double()
            x = bars[499].sqrt() * x + (1 - bars[499]).sqrt() * noise
        scale = float(x.abs().max())
        assert_close(seen[index].x.double() / scale, x / scale, atol=2e-5, rtol=0)  # the network itself is float32


def test_shift_1000_is_lcm() -> None:
    mine = Nitrofusion(steps=4, shift=1000).sample(tiny_sd(), ASK, ignore)
    theirs = Lcm(student="", steps=4, origin=4).sample(tiny_sd(), ASK, ignore)
    assert (mine.int() - theirs.int()).abs().max() <= 1


def test_the_tiny_model_draws_this_number_with_seeds_1_and_2() -> None:
    images = Nitrofusion(student="random:1", steps=2).sample(tiny_sd(), ASK, ignore).float()
    assert images.std().item() == pytest.approx(GOLDEN, rel=1e-2)
