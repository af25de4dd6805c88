"""FLUX: the same latents as diffusers' own pipeline, guidance as an input and as two calls, packing."""

from typing import Any

import pytest
import torch

from tests.models.parity import SIZE, alone, equal, ours
from tests.tiny import flux_pipe, sd3_pipe, tiny_flux
from workbench.blocks.denoise import Course
from workbench.core.bundle import Condition
from workbench.core.errors import UnsupportedFamily
from workbench.models.flux import from_pipeline, pack, places, unpack


def unpacked(tokens: torch.Tensor) -> torch.Tensor:
    return unpack(tokens, (SIZE[1] // 2, SIZE[0] // 2))


@pytest.mark.parametrize("true_guidance", [1.0, 3.0])
def test_a_model_told_its_guidance_draws_what_diffusers_draws(true_guidance: float) -> None:
    pipe = flux_pipe()
    bundle = from_pipeline(pipe, name="tiny", digest="")
    assert bundle.about["guidance_input"]
    equal(bundle, pipe, Course("euler", 3, 2.5, true_guidance=true_guidance), unpacked,
          guidance_scale=2.5, true_cfg_scale=true_guidance, max_sequence_length=24)  # fmt: skip


def test_a_model_that_is_not_told_takes_guidance_for_two_calls() -> None:
    pipe = flux_pipe(guided=False)
    bundle = from_pipeline(pipe, name="tiny", digest="")
    equal(bundle, pipe, Course("euler", 3, 4.0), unpacked, true_cfg_scale=4.0, max_sequence_length=24)


def test_the_guidance_that_it_is_told_changes_the_picture() -> None:
    low, high = (ours(tiny_flux(), Course("euler", 2, guidance))[0] for guidance in (1.0, 8.0))
    assert (low - high).abs().max() > 1e-3


def test_untold_it_takes_the_published_guidance() -> None:
    bundle = tiny_flux()
    cond = Condition(bundle.read(["a cat"]), (0,), ("cond",))
    x, t = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([500.0])
    told = Condition(cond.text, (0,), ("cond",), extra={"guidance": torch.tensor([3.5])})
    assert torch.equal(bundle.predict(x, t, cond), bundle.predict(x, t, told))


def test_an_image_depends_on_its_own_row_alone() -> None:
    alone(tiny_flux(), Course("euler", 3, 3.0, true_guidance=2.0))


def test_packing_is_diffusers_packing_and_comes_undone() -> None:
    pipe: Any = flux_pipe()
    x = torch.randn(2, 4, 6, 10, generator=torch.Generator().manual_seed(0))
    assert torch.equal(pack(x), pipe._pack_latents(x, 2, 4, 6, 10))
    assert torch.equal(unpack(pack(x), (6, 10)), x)
    plain = pipe._prepare_latent_image_ids(2, 3, 5, torch.device("cpu"), torch.float32)
    assert torch.equal(places((6, 10), torch.device("cpu")), plain)


def test_attentions_of_one_and_of_two_streams_have_the_text_first() -> None:
    sites = tiny_flux().sites("self-attention")
    names = [f"{kind}transformer_blocks.{i}.attn" for kind in ("", "single_") for i in range(2)]
    assert [site.path for site in sites] == names
    assert {site.text for site in sites} == {"first"}
    assert {(site.tokens, site.heads, site.level) for site in sites} == {(16, 2, 1)}
    assert "text_query" in sites[0].handles
    assert set(sites[-1].handles) == {"query", "key", "value"}  # its output shares a matrix with the mlp
    assert len(tiny_flux().sites("mlp")) == 4


def test_another_transformer_is_refused() -> None:
    with pytest.raises(UnsupportedFamily, match="SD3Transformer2DModel; its reader takes a FluxTransformer2DModel"):
        from_pipeline(sd3_pipe(), name="strange", digest="")
