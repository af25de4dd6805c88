"""DeepCache: parity with the official helper, empty at every start, rows kept apart."""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tiny import sd_pipe, tiny_sd, tiny_sdxl
from workbench.blocks.denoise import condition
from workbench.core.ask import Ask
from workbench.core.bundle import Bundle
from workbench.core.errors import AskError, MissingPart
from workbench.core.patch import Patch
from workbench.core.scene import Scene, using
from workbench.core.tape import Ended, Started, Step
from workbench.methods.generate.diffuse import Diffuse
from workbench.methods.reduce.cfg_cutoff import CfgCutoff
from workbench.methods.reduce.deep_cache import DeepCache
from workbench.models.unet import from_pipeline

ASK = Ask(prompts=["a cat", "the red dog"], seeds=[1, 2])
STEPS = 7


def walk(predict: Callable[[Tensor, int, Tensor], Tensor], timesteps: Tensor) -> list[Tensor]:
    """Some way through the network's answers, the same for both."""
    x = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    states = []
    for index, t in enumerate(timesteps):
        x = x - predict(x, index, t) / 4
        states.append(x)
    return states


def ours(bundle: Bundle, timesteps: Tensor, **settings: Any) -> list[Tensor]:
    cond = condition(bundle, ASK, True, (16, 16))
    with using(bundle, DeepCache(**settings)):
        bundle.tell(Started(len(timesteps), ASK.seeds))
        states = walk(
            lambda x, index, t: bundle.predict(
                x, t.expand(4), replace(cond, step=Step(index, len(timesteps), float(t)))
            ),
            timesteps,
        )
        bundle.tell(Ended())
    return states


@pytest.mark.parity
@torch.no_grad()
@pytest.mark.parametrize("name", ["DDIMScheduler", "DPMSolverMultistepScheduler"])
@pytest.mark.parametrize(("interval", "branch"), [(2, 0), (3, 0), (5, 0), (3, 1), (2, 2), (3, 3)])
def test_it_equals_the_official_helper(name: str, interval: int, branch: int) -> None:
    library = pytest.importorskip("DeepCache", reason="no DeepCache: pip install DeepCache==0.1.1")
    import diffusers

    pipe = sd_pipe(5)
    bundle = from_pipeline(pipe, name="tiny", digest="tiny-5")
    scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config)
    scheduler.set_timesteps(STEPS)
    states = condition(bundle, ASK, True, (16, 16)).text.states
    mine = ours(bundle, scheduler.timesteps, interval=interval, branch=branch)
    plain = ours(bundle, scheduler.timesteps, interval=1)
    helper = library.DeepCacheSDHelper(pipe=SimpleNamespace(unet=pipe.unet, scheduler=scheduler))
    # its branches count three a block, as Stable Diffusion has; this model has two
    helper.set_params(cache_interval=interval, cache_branch_id=3 * (branch // 2) + branch % 2)
    helper.enable()
    theirs = walk(lambda x, index, t: pipe.unet(x, t, states, return_dict=False)[0], scheduler.timesteps)
    for one, other in zip(mine, theirs, strict=True):
        assert torch.equal(one, other)
    assert (mine[-1] - plain[-1]).abs().max() > 1e-4


@torch.no_grad()
def test_cached_steps_run_the_outer_layers_alone() -> None:
    bundle, ran = tiny_sd(), []
    names = (
        "unet:mid_block",
        "unet:down_blocks.0.resnets.0",
        "unet:up_blocks.1.resnets.0",
        "unet:up_blocks.1.resnets.1",
    )
    sites = [site for site in bundle.all_sites if site.name in names and site.kind in ("residual", "stage")]

    def record(patch: Patch) -> None:
        for site in sites:
            forward = site.module.forward
            patch.put(site.module, "forward", lambda *a, f=forward, n=site.path, **k: (ran.append(n), f(*a, **k))[1])

    with Patch(bundle) as patch:
        record(patch)
        Scene(bundle, Diffuse(steps=4), (DeepCache(interval=2),), ASK).run()
    runs = {"mid_block": 2, "down_blocks.0.resnets.0": 2, "up_blocks.1.resnets.0": 2, "up_blocks.1.resnets.1": 4}
    assert {site.path: ran.count(site.path) for site in sites} == runs


def test_every_run_starts_empty() -> None:
    sampler = Diffuse(steps=4)
    with using(tiny_sd(), DeepCache(interval=4)) as bundle:
        first = sampler.sample(bundle, ASK, lambda step: None)
        other = sampler.sample(bundle, ASK.but(seeds=(8, 9)), lambda step: None)
        assert torch.equal(sampler.sample(bundle, ASK, lambda step: None), first)
    assert not torch.equal(first, other)


@torch.no_grad()
def test_outside_of_a_run_everything_is_computed() -> None:
    cond = condition(tiny_sd(), ASK, True, (16, 16))
    x, t = torch.zeros(4, 4, 8, 8), torch.full((4,), 500)
    plain = tiny_sd().predict(x, t, cond)
    with using(tiny_sd(), DeepCache(interval=3)) as bundle:
        for index in range(2):
            assert torch.equal(bundle.predict(x, t, replace(cond, step=Step(index, 5, 500.0))), plain)


def test_a_guidance_cut_off_reuses_the_rows_that_stay() -> None:
    sampler = Diffuse(steps=6, guidance=3.0)
    cut = CfgCutoff(stop=0.5)
    for edits in ((DeepCache(interval=4), cut), (cut, DeepCache(interval=4))):
        both = Scene(tiny_sd(), sampler, edits, ASK).run()
        alone = torch.cat([Scene(tiny_sd(), sampler, edits, ASK.row(i)).run() for i in range(2)])
        assert (both.int() - alone.int()).abs().max() <= 1
        assert not torch.equal(both, Scene(tiny_sd(), sampler, (cut,), ASK).run())


def test_the_deepest_branch_keeps_the_middle_alone_and_a_deeper_one_is_refused() -> None:
    deepest = Scene(tiny_sd(), Diffuse(steps=4), (DeepCache(interval=2, branch=3),), ASK).run()
    outer = Scene(tiny_sd(), Diffuse(steps=4), (DeepCache(interval=2, branch=0),), ASK).run()
    plain = Scene(tiny_sd(), Diffuse(steps=4), (), ASK).run()
    near, far = ((images.float() - plain.float()).square().mean().sqrt() for images in (deepest, outer))
    assert 0 < near < far
    with pytest.raises(AskError, match=r"deep-cache: branch is 4; tiny-sd has branches 0 to 3"):
        Scene(tiny_sd(), Diffuse(steps=4), (DeepCache(branch=4),), ASK).run()


def test_two_text_encoders_and_several_blocks_a_layer() -> None:
    cached = Scene(tiny_sdxl(), Diffuse(steps=4), (DeepCache(interval=2, branch=1),), ASK).run()
    assert not torch.equal(cached, Scene(tiny_sdxl(), Diffuse(steps=4), (), ASK).run())


def test_a_run_of_one_step_and_a_model_of_one_stream_are_refused() -> None:
    with pytest.raises(AskError, match="deep-cache reuses what earlier steps computed; this run has 1 step"):
        Scene(tiny_sd(), Diffuse(steps=1), (DeepCache(),), ASK).run()
    bare = Bundle("bare", "unet", "b", {}, tiny_sd().shapes, tiny_sd().seams)
    with pytest.raises(MissingPart, match=r"bare has none\. For transformers there is first-block-cache"):
        DeepCache().patch(bare, DeepCache().fit(bare, lambda step: None), Patch(bare))
