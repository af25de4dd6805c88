"""Latent consistency: timesteps, the multistep rule by hand, guidance as an input, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, LatentConsistencyModelPipeline, LCMScheduler
from torch import Tensor
from torch.testing import assert_close

from tests.tiny import sd_pipe, tiny_sd
from workbench.blocks.denoise import condition
from workbench.core.ask import Ask
from workbench.core.errors import AskError
from workbench.core.tape import Step, ignore
from workbench.methods.fewstep.lcm import Lcm
from workbench.models.unet import from_pipeline

GOLDEN = 40.192  # deviation in grey levels with the adapter random:1
ASK = Ask(prompts=["a cat", "the red dog"], seeds=[1, 2])


def steps_of(sampler: Any, ask: Ask = ASK) -> list[Step]:
    seen: list[Step] = []
    sampler.sample(tiny_sd(), ask, seen.append)
    return seen


@pytest.mark.parametrize(("steps", "times"), [(1, [999]), (2, [999, 499]), (4, [999, 759, 499, 259])])
def test_the_timesteps_are_those_of_fifty(steps: int, times: list[int]) -> None:
    assert [round(step.level) for step in steps_of(Lcm(student="", steps=steps))] == times


@torch.no_grad()
def test_slow_twin() -> None:
    """Jump, noise, jump again, in float64 around the network's own answers, with each image's own draws."""
    seen = steps_of(Lcm(student="", steps=3), ASK.row(1))
    bundle, cond = tiny_sd(), condition(tiny_sd(), ASK.row(1), False, (16, 16))
    bars = bundle.scheduler("lcm", 1).alphas_cumprod.double()
    generator = torch.Generator().manual_seed(2)
    x, times = torch.randn(1, 4, 8, 8, generator=generator).double(), [999, 679, 339]
    for index, t in enumerate(times):
        said = bundle.predict(x.float(), torch.tensor([t]), cond).double()
        clean = (x - (1 - bars[t]).sqrt() * said) / bars[t].sqrt()
        skip, out = 0.25 / ((10 * t) ** 2 + 0.25), 10 * t / ((10 * t) ** 2 + 0.25) ** 0.5
        x = skip * x + out * clean
        if index + 1 < len(times):
            noise = torch.randn(1, 4, 8, 8, generator=generator).double()
            x = bars[times[index + 1]].sqrt() * x + (1 - bars[times[index + 1]]).sqrt() * noise
        scale = float(x.abs().max())
        assert_close(seen[index].x.double() / scale, x / scale, atol=2e-5, rtol=0)  # the network itself is float32


def test_one_step_draws_no_noise_but_the_first() -> None:
    """Another seed of the second image leaves the first alone, and one step is one call."""
    one = Lcm(student="", steps=1).sample(tiny_sd(), ASK, ignore)
    other = Lcm(student="", steps=1).sample(tiny_sd(), ASK.but(seeds=(1, 9)), ignore)
    assert torch.equal(one[0], other[0])
    assert not torch.equal(one[1], other[1])


@pytest.mark.parametrize("role", ["model", "student"])
def test_a_network_that_reads_its_guidance_draws_as_in_diffusers(role: str, tmp_path: Path) -> None:
    """As the loaded model, and as a whole student of a model that does not read its guidance and predicts otherwise."""
    pipe = sd_pipe(seed=4, time_cond_proj_dim=8)
    bundle, student = from_pipeline(pipe, name="whole-lcm", digest="whole-lcm"), ""
    if role == "student":
        (tmp_path / "model_index.json").write_text("{}")
        student, other, base = str(tmp_path), bundle, sd_pipe(seed=5)
        pipe.vae, pipe.text_encoder = base.vae, base.text_encoder  # the student is the network alone
        base.scheduler = DDIMScheduler.from_config(base.scheduler.config, prediction_type="v_prediction")
        bundle = from_pipeline(base, name="base", digest="base", opener=lambda name: other)
    mine: list[Tensor] = []
    Lcm(student=student, steps=2, guidance=6.0).sample(bundle, ASK.row(0), lambda step: mine.append(step.x))
    whole = LatentConsistencyModelPipeline(
        vae=pipe.vae, text_encoder=pipe.text_encoder, tokenizer=pipe.tokenizer, unet=pipe.unet,
        scheduler=LCMScheduler.from_config(pipe.scheduler.config), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False)  # fmt: skip
    whole.set_progress_bar_config(disable=True)
    theirs = whole("a cat", num_inference_steps=2, guidance_scale=6.0, generator=torch.Generator().manual_seed(1),
                   width=16, height=16, output_type="latent").images  # fmt: skip
    assert_close(mine[-1], theirs, atol=1e-4 * float(theirs.abs().max()), rtol=0)
    rows: list[int] = []
    handle = pipe.unet.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    Lcm(student=student, steps=1, guidance=6.0).sample(bundle, ASK, ignore)
    handle.remove()
    assert rows == [2]  # never guided by two calls


def test_a_students_weight_of_nothing_is_the_base() -> None:
    assert not torch.equal(*(Lcm(student=s, steps=2).sample(tiny_sd(), ASK, ignore) for s in ("", "random:1")))


def test_more_steps_than_the_origin_has_are_refused() -> None:
    with pytest.raises(AskError, match="lcm: steps is 60, must be at most the 50"):
        Lcm(student="", steps=60).sample(tiny_sd(), ASK, ignore)
    assert len(steps_of(Lcm(student="", steps=60, origin=100), ASK.row(0))) == 60


def test_the_tiny_model_draws_this_number_with_seeds_1_and_2() -> None:
    images = Lcm(student="random:1", steps=2).sample(tiny_sd(), ASK, ignore).float()
    assert images.std().item() == pytest.approx(GOLDEN, rel=1e-2)
