"""PixArt: the same latents as diffusers' own pipelines, its mask of text, its sizes as conditions."""

import pytest
import torch

from tests.models.parity import alone, equal, ours, theirs
from tests.tiny import pixart_pipe, sd3_pipe, tiny_pixart
from workbench.blocks.denoise import Course
from workbench.core.bundle import Condition
from workbench.core.errors import UnsupportedFamily
from workbench.models.pixart import from_pipeline

PLAIN = {"use_resolution_binning": False, "clean_caption": False, "max_sequence_length": 24}


@pytest.mark.parametrize("sigma", [False, True])
@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_the_loop_draws_what_diffusers_draws(sigma: bool, guidance: float) -> None:
    pipe = pixart_pipe(sigma=sigma)
    equal(from_pipeline(pipe, name="tiny", digest=""), pipe, Course("dpm++", 3, guidance),
          guidance_scale=guidance, **PLAIN)  # fmt: skip


def test_the_large_alpha_is_told_the_size_as_diffusers_tells_it() -> None:
    pipe = pixart_pipe(sample_size=128, attention_head_dim=12, use_additional_conditions=True)
    bundle = from_pipeline(pipe, name="tiny", digest="")
    assert bundle.shapes.image == (3, 256, 256)
    latents, _ = ours(bundle, Course("dpm++", 2, 3.0))
    plain = theirs(pipe, 2, "latent", guidance_scale=3.0, **PLAIN)
    torch.testing.assert_close(latents, plain, atol=1e-5, rtol=1e-5)
    assert bundle.extra is not None
    text = bundle.read(["a cat", "a dog"])
    told = bundle.extra(Condition(text, (0, 1), ("cond", "cond")), (24, 16))
    assert told["resolution"].tolist() == [[16.0, 24.0]] * 2
    assert told["aspect_ratio"].squeeze().tolist() == pytest.approx([16 / 24] * 2)


def test_an_image_depends_on_its_own_row_alone() -> None:
    alone(tiny_pixart(), Course("dpm++", 3, 4.0))


def test_padding_is_masked_out_of_the_text() -> None:
    """Whatever the states of the padding are, the prediction is the same."""
    bundle = tiny_pixart()
    text = bundle.read(["a cat"])
    assert text.mask is not None
    assert int(text.mask.sum()) == 3  # a, cat and the end
    spoilt = text.states.clone()
    spoilt[:, 3:] = 7.0
    x, t = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([500])
    plain = bundle.predict(x, t, Condition(text, (0,), ("cond",)))
    other = bundle.predict(x, t, Condition(type(text)(spoilt, mask=text.mask, ids=text.ids), (0,), ("cond",)))
    torch.testing.assert_close(plain, other)
    assert plain.shape == x.shape  # without the learned variance


def test_sites_are_those_of_a_transformer_with_cross_attention() -> None:
    bundle = tiny_pixart()
    assert bundle.family == "dit"
    for kind, child in (("self-attention", "attn1"), ("cross-attention", "attn2"), ("mlp", "ff")):
        found = bundle.sites(kind)  # type: ignore[arg-type]
        assert [site.path for site in found] == [f"transformer_blocks.{i}.{child}" for i in range(3)]
        assert {(site.tokens, site.level) for site in found} == {(16, 1)}
    site = bundle.sites("cross-attention")[0]
    assert set(site.handles) == {"query", "key", "value", "out"}
    assert bundle.shapes.text == (24, 40)


def test_another_transformer_is_refused() -> None:
    with pytest.raises(UnsupportedFamily, match="SD3Transformer2DModel; its reader takes a PixArtTransformer2DModel"):
        from_pipeline(sd3_pipe(), name="strange", digest="")
