"""Skip-Tuning: factors on paper, a twin that cuts the tensors by hand, and rest."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from tests.tiny import sd_pipe, tiny_sd
from workbench.core.bundle import Condition
from workbench.core.errors import AskError, MissingPart
from workbench.core.scene import using
from workbench.methods.fewstep.skip_tuning import SkipTuning


def inputs(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, Condition]:
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(seed))
    return x, torch.full((2,), 500), Condition(tiny_sd().read(["a cat", "the dog"]), (0, 1), ("cond", "cond"))


def test_factors_are_linear_from_the_deepest_level_to_the_finest() -> None:
    site = tiny_sd().sites("skip")[0]
    deep = replace(tiny_sd(), all_sites=tuple(replace(site, level=level) for level in (3, 3, 2, 1, 0)))
    factors = SkipTuning(bottom=0.4, top=1.0).factors(deep)
    assert list(factors) == [3, 2, 1, 0]
    assert list(factors.values()) == pytest.approx([0.4, 0.6, 0.8, 1.0])


@torch.no_grad()
def test_it_equals_scaling_what_the_encoder_hands_over() -> None:
    unet = sd_pipe().unet  # the same weights as the tiny bundle, the skip tensors scaled as they enter each up block
    for block, factor in zip(unet.up_blocks, (0.5, 0.9), strict=True):

        def scale(module: object, args: object, kwargs: dict, factor: float = factor) -> tuple:
            skips = tuple(skip * factor for skip in kwargs["res_hidden_states_tuple"])
            return args, {**kwargs, "res_hidden_states_tuple": skips}

        block.register_forward_pre_hook(scale, with_kwargs=True)
    x, t, cond = inputs()
    slow = unet(x, t, encoder_hidden_states=cond.text.states).sample
    with using(tiny_sd(), SkipTuning(bottom=0.5, top=0.9)) as bundle:
        assert_close(bundle.predict(x, t, cond), slow, atol=1e-6, rtol=0)


@torch.no_grad()
def test_factors_of_one_change_nothing() -> None:
    x, t, cond = inputs()
    plain = tiny_sd().predict(x, t, cond)
    with using(tiny_sd(), SkipTuning(**SkipTuning.neutral)) as bundle:
        assert torch.equal(bundle.predict(x, t, cond), plain)
    assert torch.equal(tiny_sd().predict(x, t, cond), plain)


@torch.no_grad()
def test_the_tiny_model_draws_this_number_with_seed_0() -> None:
    x, t, cond = inputs(seed=0)
    plain = tiny_sd().predict(x, t, cond)
    with using(tiny_sd(), SkipTuning()) as bundle:
        change = (bundle.predict(x, t, cond) - plain).square().mean().sqrt().item()
    assert change == pytest.approx(0.0067136, rel=1e-3)


def test_bad_requests_are_refused() -> None:
    with pytest.raises(AskError, match="skip-tuning: bottom is -1"):
        SkipTuning(bottom=-1)
    with pytest.raises(MissingPart, match="has none"), using(replace(tiny_sd(), all_sites=()), SkipTuning()):
        pass
