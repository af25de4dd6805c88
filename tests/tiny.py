"""Tiny random Stable Diffusion models for the tests: real diffusers classes, about 100,000 parameters, milliseconds.

`tiny_sd()` and `tiny_sdxl()` are made once a process and shared: leave them as they were. A test that means to spoil a
model takes `tiny_sd.__wrapped__()`, a fresh one.
"""

import functools
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from workbench.core.bundle import Bundle
from workbench.core.errors import MissingPart
from workbench.core.places import ASSETS

torch.set_num_threads(1)  # tensors of a few thousand numbers gain nothing from more, and lose much on a busy machine

MERGES = (
    "c a",
    "ca t</w>",
    "d o",
    "do g</w>",
    "t h",
    "th e</w>",
    "o n</w>",
    "r e",
    "re d</w>",
    "f l",
    "fl a",
    "fla t</w>",
)
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789!\"'#$%&()*+,-./:;?_"
SIDE = 8  # of the latent grid
PIXELS = 2 * SIDE


@functools.cache
def tokenizer() -> CLIPTokenizer:
    """A byte-level BPE made by hand: letters, letters that end a word, twelve merges, start and end."""
    words = [*LETTERS, *(letter + "</w>" for letter in LETTERS), *(merge.replace(" ", "") for merge in MERGES)]
    vocab = {word: i for i, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    pairs: Any = [tuple(merge.split()) for merge in MERGES]
    return CLIPTokenizer(vocab=vocab, merges=pairs, model_max_length=77)


def _text(cls: type, width: int) -> Any:
    words = tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(words), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2,
        num_attention_heads=4, projection_dim=width, max_position_embeddings=77, bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id)  # fmt: skip
    return cls(config)


def _vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 16), down_block_types=("DownEncoderBlock2D",) * 2, latent_channels=4, sample_size=PIXELS,
        up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4)  # fmt: skip


def _unet(width: int, **more: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=SIDE, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8, attention_head_dim=(2, 4),
        cross_attention_dim=width, down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2, **more)  # fmt: skip


def _scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        steps_offset=1)  # fmt: skip


def _lively(pipe: Any) -> Any:
    """Random weights whose answers depend visibly on the text, so that an edit without effect shows."""
    with torch.no_grad():
        for name, weight in pipe.unet.named_parameters():
            if name.endswith(("attn2.to_v.weight", "attn2.to_out.0.weight")):
                weight.mul_(3.0)
            elif name.endswith(("attn1.to_q.weight", "attn1.to_k.weight", "attn2.to_q.weight", "attn2.to_k.weight")):
                weight.mul_(2.0)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def sd_pipe(seed: int = 0, **unet: Any) -> StableDiffusionPipeline:
    """A fresh Stable Diffusion 1.x pipeline with random weights of this seed; latents 4x8x8, pictures 16x16.

    `unet` changes its configuration (`in_channels=9` makes an inpainting model).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipe = StableDiffusionPipeline(
            vae=_vae(), text_encoder=_text(CLIPTextModel, 32), tokenizer=tokenizer(), unet=_unet(32, **unet),
            scheduler=_scheduler(), safety_checker=None, feature_extractor=None,
            requires_safety_checker=False)  # type: ignore[arg-type]  # fmt: skip
    return _lively(pipe)


def sdxl_pipe(seed: int = 0) -> StableDiffusionXLPipeline:
    """A fresh Stable Diffusion XL pipeline with random weights of this seed: two text encoders, pooled text, sizes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = _unet(
            48, addition_embed_type="text_time", addition_time_embed_dim=8, use_linear_projection=True,
            transformer_layers_per_block=(1, 2), projection_class_embeddings_input_dim=32 + 6 * 8)  # fmt: skip
        pipe = StableDiffusionXLPipeline(
            vae=_vae(), text_encoder=_text(CLIPTextModel, 16), tokenizer=tokenizer(),
            text_encoder_2=_text(CLIPTextModelWithProjection, 32), tokenizer_2=tokenizer(), unet=unet,
            scheduler=_scheduler(), add_watermarker=False)  # fmt: skip
    return _lively(pipe)


def opener(name: str) -> Bundle:
    """A shipped model by its name, as the loader would open it. Raises `MissingPart` that names the missing folder."""
    folder: Path = ASSETS / "models" / name
    if not (folder / "config.json").is_file() and not (folder / "model_index.json").is_file():
        raise MissingPart(f"assets/models/{name} is not there (yet).")
    from workbench.models.load import load

    return load(str(folder))


def _bundle(pipe: Any, name: str) -> Bundle:
    from workbench.models.unet import from_pipeline

    bundle = from_pipeline(pipe, name=name, digest=f"{name}-0", opener=opener)
    bundle.read([""])  # transformers hangs its observers of hidden states on the text models at the first use
    return bundle


@functools.cache
def tiny_sd(seed: int = 0) -> Bundle:
    """The shared tiny Stable Diffusion bundle."""
    return _bundle(sd_pipe(seed), "tiny-sd")


@functools.cache
def tiny_sdxl(seed: int = 0) -> Bundle:
    """The shared tiny Stable Diffusion XL bundle."""
    return _bundle(sdxl_pipe(seed), "tiny-sdxl")
