"""A pipeline as a bundle: its sites in order, its shapes, its seams."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import LatentConsistencyModelPipeline
from torch.testing import assert_close

from tests.tiny import sd_pipe, tiny_sd, tiny_sdxl
from workbench.blocks.denoise import Course, condition, draw
from workbench.core.ask import Ask
from workbench.core.bundle import Condition
from workbench.core.errors import UnsupportedFamily
from workbench.models.unet import from_pipeline, guidance_embedding


def test_attention_sites_stand_in_the_order_of_the_forward_pass() -> None:
    bundle = tiny_sd()
    sites = [site for site in bundle.all_sites if site.kind in ("self-attention", "cross-attention")]
    seen: list[str] = []
    handles = [
        site.module.register_forward_hook(lambda *_, name=site.name: seen.append(name))  # type: ignore[misc]
        for site in sites
    ]
    cond = Condition(bundle.read(["a cat"]), (0,), ("cond",))
    bundle.predict(torch.zeros(1, *bundle.shapes.latent), torch.tensor([5]), cond)
    for handle in handles:
        handle.remove()
    assert seen == [site.name for site in sites]


def test_each_site_knows_its_matrices_heads_and_tokens() -> None:
    for site in tiny_sd().sites("cross-attention"):
        assert site.key.weight.shape[1] == tiny_sd().shapes.text[1]
        assert site.query.weight.shape[0] == site.out.weight.shape[1]
        assert site.heads
        assert site.tokens == (8 >> site.level) ** 2
    for site in tiny_sd().sites("mlp"):
        assert site.up.weight.shape == site.gate.weight.shape == site.down.weight.T.shape


def test_skips_say_where_the_hidden_channels_end() -> None:
    bundle = tiny_sd()
    seen: dict[str, int] = {}
    stages = [(stage, stage.module) for stage in bundle.sites("stage") if stage.side == "up"]
    handles = [
        module.register_forward_pre_hook(
            lambda _, args, kwargs, name=stage.name: seen.update(
                {name: (args or [kwargs["hidden_states"]])[0].shape[1]}
            ),  # type: ignore[misc]
            with_kwargs=True,
        )
        for stage, module in stages
    ]
    cond = Condition(bundle.read(["a cat"]), (0,), ("cond",))
    bundle.predict(torch.zeros(1, *bundle.shapes.latent), torch.tensor([5]), cond)
    for handle in handles:
        handle.remove()
    first = {
        stage.name: next(s for s in bundle.sites("skip") if s.path.startswith(stage.path)).split for stage, _ in stages
    }
    assert first == seen


def test_a_level_and_a_kind_choose_sites() -> None:
    bundle = tiny_sd()
    assert {site.level for site in bundle.sites("cross-attention", 1)} == {1}
    assert bundle.sites("cross-attention", 7) == ()


def test_an_xl_model_reads_two_encoders_and_its_size() -> None:
    bundle = tiny_sdxl()
    text = bundle.read(["a cat", "a dog"])
    assert text.states.shape == (2, 77, 48)
    assert text.pooled is not None
    assert bundle.extra is not None
    ids = bundle.extra(Condition(text, (0, 1), ("cond", "cond")), (24, 16))["time_ids"]
    assert ids.tolist() == [[16, 24, 0, 0, 16, 24]] * 2


def test_a_pipeline_without_a_unet_is_refused() -> None:
    with pytest.raises(UnsupportedFamily, match="UNet pipelines"):
        from_pipeline(SimpleNamespace(), name="strange")


def test_pictures_go_to_latents_and_back_at_the_models_scale() -> None:
    bundle = from_pipeline(sd_pipe(1), name="tiny")
    latents = bundle.encode(torch.zeros(2, 3, 16, 16))
    assert latents.shape == (2, *bundle.shapes.latent)
    assert bundle.decode(latents).shape == (2, 3, 16, 16)
    drawn = bundle.encode(torch.zeros(2, 3, 16, 16), [torch.Generator().manual_seed(seed) for seed in (5, 5)])
    assert torch.equal(drawn[0], drawn[1])  # row i draws from generator i alone


@pytest.mark.parametrize(("guidance", "width"), [(8.0, 256), (1.5, 9), (1.0, 4)])
def test_the_guidance_is_embedded_as_diffusers_does(guidance: float, width: int) -> None:
    embed = LatentConsistencyModelPipeline.get_guidance_scale_embedding
    theirs = embed(None, torch.tensor([guidance - 1]), width)  # type: ignore[arg-type]
    mine = guidance_embedding(torch.tensor([guidance]), width)
    assert_close(mine, theirs, atol=2e-3, rtol=0)  # sines of up to 7000 in float32


def test_a_network_that_reads_its_guidance_is_called_once_as_in_diffusers() -> None:
    pipe = sd_pipe(seed=4, time_cond_proj_dim=8)
    bundle = from_pipeline(pipe, name="whole-lcm", digest="whole-lcm")
    ask, mine = Ask(prompts=["a cat"], seeds=[3]), []
    draw(bundle, ask, lambda step: mine.append(step.x), Course("ddim", 3, 6.0))
    theirs = pipe("a cat", num_inference_steps=3, guidance_scale=6.0, generator=torch.Generator().manual_seed(3),
                  width=16, height=16, output_type="latent").images  # fmt: skip
    assert_close(mine[-1], theirs, atol=1e-4 * float(theirs.abs().max()), rtol=0)
    assert_close(bundle.predict(mine[0], torch.tensor([500]), condition(bundle, ask, False, (16, 16))),
                 pipe.unet(mine[0], torch.tensor([500]), bundle.read(["a cat"]).states).sample)  # fmt: skip
