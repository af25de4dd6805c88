"""The public block layouts of Stable Diffusion 1.5 and XL at small widths, with random weights."""

import functools

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from tests.tiny import _bundle, _lively, _scheduler, _text, _vae, sd_pipe, tokenizer
from workbench.core.bundle import Bundle


@functools.cache
def layout(name: str) -> Bundle:
    """`sd15` with a text width of 24, or `sdxl` with text widths of 16 and 24 (40 joined)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return _bundle(_sd15() if name == "sd15" else _sdxl(), name)


@functools.cache
def exact() -> Bundle:
    """The tiny Stable Diffusion model in float64, for twins to eight digits."""
    return _bundle(sd_pipe().to(torch.float64), "exact")


def _sd15() -> StableDiffusionPipeline:
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16, 16, 16), layers_per_block=2, norm_num_groups=4, attention_head_dim=2,
        cross_attention_dim=24, down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3)  # fmt: skip
    return _lively(StableDiffusionPipeline(
        vae=_vae(), text_encoder=_text(CLIPTextModel, 24), tokenizer=tokenizer(), unet=unet, scheduler=_scheduler(),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False))  # type: ignore[arg-type]  # fmt: skip


def _sdxl() -> StableDiffusionXLPipeline:
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16, 16), layers_per_block=2, norm_num_groups=4,
        attention_head_dim=(2, 2, 2), cross_attention_dim=40,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10), use_linear_projection=True, addition_embed_type="text_time",
        addition_time_embed_dim=8, projection_class_embeddings_input_dim=24 + 6 * 8)  # fmt: skip
    return _lively(StableDiffusionXLPipeline(
        vae=_vae(), text_encoder=_text(CLIPTextModel, 16), tokenizer=tokenizer(), tokenizer_2=tokenizer(), unet=unet,
        text_encoder_2=_text(CLIPTextModelWithProjection, 24), scheduler=_scheduler(),
        add_watermarker=False))  # fmt: skip
