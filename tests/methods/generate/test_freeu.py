"""FreeU against diffusers, against its equations in float64, and at rest."""

import copy
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from tests.tiny import sd_pipe, tiny_sd
from workbench.core.bundle import Condition
from workbench.core.errors import MissingPart
from workbench.core.scene import using
from workbench.methods.generate.freeu import FreeU, _strengthen

ON = {"b1": 1.5, "b2": 1.6, "s1": 0.9, "s2": 0.2}


def inputs(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, Condition]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 4, 8, 8, generator=generator)
    return x, torch.full((2,), 500), Condition(tiny_sd().read(["a cat", "the dog"]), (0, 1), ("cond", "cond"))


@torch.no_grad()
def test_without_structure_it_is_diffusers_own() -> None:
    unet = copy.deepcopy(sd_pipe().unet)
    for i, block in enumerate(unet.up_blocks):  # enable_freeu of the UNet itself
        block.resolution_idx = i
    unet.enable_freeu(**ON)
    x, t, cond = inputs()
    theirs = unet(x, t, encoder_hidden_states=cond.text.states).sample
    with using(tiny_sd(), FreeU(structure=False, **ON)) as bundle:
        ours = bundle.predict(x, t, cond)
    assert_close(ours, theirs, atol=1e-5, rtol=0)
    assert (ours - tiny_sd().predict(x, t, cond)).abs().max() > 1e-3


@torch.no_grad()
def test_factors_of_one_change_nothing() -> None:
    x, t, cond = inputs()
    plain = tiny_sd().predict(x, t, cond)
    with using(tiny_sd(), FreeU(**FreeU.neutral)) as bundle:
        assert torch.equal(bundle.predict(x, t, cond), plain)


def test_the_structure_factor_on_paper() -> None:
    x = torch.tensor([[[[0.0, 1.0]], [[0.0, 1.0]]]])  # two channels of 1x2: mean 0 at the left, 1 at the right
    assert_close(_strengthen(x, 1.5, structure=True), torch.tensor([[[[0.0, 1.5]], [[0.0, 1.0]]]]))
    assert_close(_strengthen(torch.ones(1, 2, 1, 2), 1.5, structure=True)[0, :, 0, 0], torch.tensor([1.5, 1.0]))


def test_the_structure_factor_equals_loops_in_float64() -> None:
    x = torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(1))
    slow = x.double().tolist()
    for image in slow:
        mean = [[sum(channel[i][j] for channel in image) / 5 for j in range(4)] for i in range(3)]
        low, high = min(map(min, mean)), max(map(max, mean))
        for channel in image[:2]:
            for i in range(3):
                for j in range(4):
                    channel[i][j] *= 0.4 * (mean[i][j] - low) / (high - low) + 1
    assert_close(
        _strengthen(x, 1.4, structure=True).double(), torch.tensor(slow, dtype=torch.float64), atol=1e-6, rtol=0
    )


@torch.no_grad()
def test_rows_do_not_depend_on_each_other() -> None:
    x, t, cond = inputs()
    with using(tiny_sd(), FreeU(**ON)) as bundle:
        both = bundle.predict(x, t, cond)
        assert_close(bundle.predict(x[1:], t[1:], cond.rows([1])), both[1:], atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_tiny_model_draws_this_number_with_seed_0() -> None:
    x, t, cond = inputs(seed=0)
    plain = tiny_sd().predict(x, t, cond)
    with using(tiny_sd(), FreeU()) as bundle:
        change = (bundle.predict(x, t, cond) - plain).square().mean().sqrt().item()
    assert change == pytest.approx(0.107149, rel=1e-3)


def test_a_model_without_skip_connections_is_refused() -> None:
    bare = replace(tiny_sd(), all_sites=())
    with pytest.raises(MissingPart, match="has none"), using(bare, FreeU()):
        pass
