"""Stable Diffusion 3: the same latents as diffusers' own pipeline, any text encoder left out, sites by name."""

import pytest
import torch

from tests.models.parity import alone, equal
from tests.tiny import sd3_pipe, sd_pipe, tiny_sd3
from workbench.blocks.denoise import Course
from workbench.core.bundle import Condition
from workbench.core.errors import MissingPart, UnsupportedFamily
from workbench.models.sd3 import from_pipeline


@pytest.mark.parametrize(("scheduler", "guidance"), [("euler", 1.0), ("euler", 4.0)])
def test_the_loop_draws_what_diffusers_draws(scheduler: str, guidance: float) -> None:
    pipe = sd3_pipe()
    bundle = from_pipeline(pipe, name="tiny", digest="")
    equal(bundle, pipe, Course(scheduler, 3, guidance), guidance_scale=guidance, max_sequence_length=24)


def test_without_t5_it_draws_what_diffusers_draws_without_t5() -> None:
    pipe = sd3_pipe(t5=False)
    equal(from_pipeline(pipe, name="tiny", digest=""), pipe, Course("euler", 3, 4.0), guidance_scale=4.0)


def test_noise_levels_may_follow_the_size() -> None:
    pipe = sd3_pipe()
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, use_dynamic_shifting=True)
    bundle = from_pipeline(pipe, name="tiny", digest="")
    equal(bundle, pipe, Course("euler", 3, 1.0), guidance_scale=1.0, max_sequence_length=24)
    small, large = (bundle.scheduler("euler", 4, (side, side)).sigmas for side in (16, 512))
    assert (large[1:-1] > small[1:-1]).all()


def test_an_image_depends_on_its_own_row_alone() -> None:
    alone(tiny_sd3(), Course("euler", 3, 4.0))


@pytest.mark.parametrize("left_out", [("text_encoder",), ("text_encoder_2", "text_encoder_3"), ("text_encoder_2",)])
def test_zeros_stand_for_any_encoder_that_is_not_there(left_out: tuple[str, ...]) -> None:
    pipe, whole = sd3_pipe(), tiny_sd3().read(["the red cat"])
    for part in left_out:
        setattr(pipe, part, None)
    text = from_pipeline(pipe, name="tiny", digest="").read(["the red cat"])
    assert whole.pooled is not None
    assert text.pooled is not None
    own = {"text_encoder": slice(0, 16), "text_encoder_2": slice(16, 32)}
    for part, columns in own.items():
        expected = torch.zeros(1, 16) if part in left_out else whole.pooled[:, columns]
        torch.testing.assert_close(text.pooled[:, columns], expected)
        seen = torch.zeros(1, 77, 16) if part in left_out else whole.states[:, :77, columns]
        torch.testing.assert_close(text.states[:, :77, columns], seen)
    t5 = text.states[:, 77:]
    assert bool(t5.any()) == ("text_encoder_3" not in left_out)


def test_t5_alone_reads_but_tells_no_ids() -> None:
    pipe = sd3_pipe()
    pipe.text_encoder = pipe.text_encoder_2 = None
    text = from_pipeline(pipe, name="tiny", digest="").read(["the red cat"])
    assert text.ids is None
    assert not text.states[:, :77].any()
    torch.testing.assert_close(text.states[:, 77:], tiny_sd3().read(["the red cat"]).states[:, 77:])


def test_no_encoder_at_all_is_refused() -> None:
    pipe = sd3_pipe(t5=False)
    pipe.text_encoder = pipe.text_encoder_2 = None
    with pytest.raises(MissingPart, match="tiny has no text encoder"):
        from_pipeline(pipe, name="tiny", digest="")


def test_another_transformer_is_refused() -> None:
    with pytest.raises(UnsupportedFamily, match="StableDiffusionPipeline with a NoneType; its reader takes"):
        from_pipeline(sd_pipe(), name="strange", digest="")


def test_joint_attentions_have_the_pictures_and_the_texts_matrices() -> None:
    bundle = tiny_sd3()
    joint = [site for site in bundle.sites("self-attention") if site.text]
    assert [site.path for site in joint] == [f"transformer_blocks.{i}.attn" for i in range(3)]
    assert {site.text for site in joint} == {"last"}
    assert {(site.tokens, site.heads, site.level) for site in joint} == {(16, 4, 1)}
    assert {"query", "key", "value", "out", "text_query", "text_key", "text_value"} <= set(joint[0].handles)
    assert "text_out" not in joint[-1].handles  # the last block drops its text
    dual = [site for site in bundle.sites("self-attention") if not site.text]
    assert [site.path for site in dual] == ["transformer_blocks.0.attn2"]
    assert [site.tokens for site in bundle.sites("mlp")] == [16, None, 16, None, 16]


def test_the_picture_stands_where_the_site_says_it_stands() -> None:
    """Only the picture's tokens feed the prediction of the last block, so a change to them alone shows."""
    bundle = tiny_sd3()
    site = [site for site in bundle.sites("self-attention") if site.text][-1]
    seen: list[torch.Size] = []
    handle = site.module.register_forward_hook(lambda module, args, output: seen.append(output[0].shape))
    cond = Condition(bundle.read(["a cat"]), (0,), ("cond",))
    bundle.predict(torch.zeros(1, *bundle.shapes.latent), torch.tensor([500.0]), cond)
    handle.remove()
    assert seen == [torch.Size([1, 16, 32])]
