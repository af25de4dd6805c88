"""Tiny random diffusion models for the tests: real diffusers classes, about 100,000 parameters, milliseconds.

`tiny_sd()`, `tiny_sdxl()`, `tiny_sd3()`, `tiny_pixart()` and `tiny_flux()` are made once a process and shared: leave
them as they were. A test that means to spoil a model takes `tiny_sd.__wrapped__()`, a fresh one.
"""

import functools
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

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
WORDS = ("a", "cat", "dog", "the", "on", "red", "flat")
T5_WIDTH = 40
T5_LENGTH = 24


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


@functools.cache
def t5_tokenizer() -> T5Tokenizer:
    """A unigram model made by hand: seven whole words, letters and digits, no start token; it reads 24 tokens."""
    marks = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -3.0)]
    pieces = [(f"▁{word}", -1.0) for word in WORDS] + [(letter, -4.0) for letter in LETTERS if letter.isalnum()]
    return T5Tokenizer(vocab=marks + pieces, extra_ids=0, model_max_length=T5_LENGTH)  # type: ignore[arg-type]


def _t5() -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(vocab_size=len(t5_tokenizer()), d_model=T5_WIDTH, d_kv=8, d_ff=64, num_layers=2, num_heads=4,
                 feed_forward_proj="gated-gelu"))  # fmt: skip


def _vae(**more: Any) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 16), down_block_types=("DownEncoderBlock2D",) * 2, latent_channels=4, sample_size=PIXELS,
        up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4, **more)  # fmt: skip


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
        network = getattr(pipe, "unet", None) or pipe.transformer
        for name, weight in network.named_parameters():
            if name.endswith(("attn2.to_v.weight", "attn2.to_out.0.weight")):
                weight.mul_(3.0)
            elif name.endswith(("attn1.to_q.weight", "attn1.to_k.weight", "attn2.to_q.weight", "attn2.to_k.weight")):
                weight.mul_(2.0)
            elif name.endswith(("add_v_proj.weight", "context_embedder.weight")):
                weight.mul_(3.0)
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


def sd3_pipe(seed: int = 0, t5: bool = True, **transformer: Any) -> StableDiffusion3Pipeline:
    """A fresh Stable Diffusion 3 pipeline: two CLIPs and a T5, or no T5; its first block is of 3.5's dual kind."""
    config = {"num_layers": 3, "dual_attention_layers": (0,), "qk_norm": "rms_norm", **transformer}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SD3Transformer2DModel(
            sample_size=SIDE, patch_size=2, in_channels=4, out_channels=4, attention_head_dim=8, num_attention_heads=4,
            joint_attention_dim=T5_WIDTH, caption_projection_dim=32, pooled_projection_dim=32, pos_embed_max_size=16,
            **config)  # fmt: skip
        pipe = StableDiffusion3Pipeline(
            transformer=model, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=_vae(shift_factor=0.06, scaling_factor=1.5), text_encoder=_text(CLIPTextModelWithProjection, 16),
            tokenizer=tokenizer(), text_encoder_2=_text(CLIPTextModelWithProjection, 16), tokenizer_2=tokenizer(),
            text_encoder_3=_t5() if t5 else None,
            tokenizer_3=t5_tokenizer() if t5 else None)  # type: ignore[arg-type]  # fmt: skip
    return _lively(pipe)


def pixart_pipe(seed: int = 0, sigma: bool = False, **transformer: Any) -> PixArtAlphaPipeline | PixArtSigmaPipeline:
    """A fresh PixArt-alpha or PixArt-Sigma pipeline with a learned variance."""
    config = {"sample_size": SIDE, "attention_head_dim": 8, "use_additional_conditions": False, **transformer}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = PixArtTransformer2DModel(
            num_attention_heads=4, in_channels=4, out_channels=8, num_layers=3, patch_size=2,
            cross_attention_dim=4 * config["attention_head_dim"], caption_channels=T5_WIDTH, **config)  # fmt: skip
        scheduler = DPMSolverMultistepScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
        cls = PixArtSigmaPipeline if sigma else PixArtAlphaPipeline
        pipe = cls(t5_tokenizer(), _t5(), _vae(), model, scheduler)
    return _lively(pipe)


def flux_pipe(seed: int = 0, guided: bool = True) -> FluxPipeline:
    """A fresh FLUX pipeline of the dev kind (guidance is an input, noise levels follow the size) or of schnell's."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = FluxTransformer2DModel(
            patch_size=1, in_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=16,
            num_attention_heads=2, joint_attention_dim=T5_WIDTH, pooled_projection_dim=32, axes_dims_rope=(4, 6, 6),
            guidance_embeds=guided)  # fmt: skip
        scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0 if guided else 1.0, use_dynamic_shifting=guided)
        pipe = FluxPipeline(
            scheduler=scheduler, vae=_vae(shift_factor=0.12, scaling_factor=0.36),
            text_encoder=_text(CLIPTextModel, 32), tokenizer=tokenizer(), text_encoder_2=_t5(),
            tokenizer_2=t5_tokenizer(), transformer=model)  # type: ignore[arg-type]  # fmt: skip
    return _lively(pipe)


def opener(name: str) -> Bundle:
    """A shipped model by its name, as the loader would open it. Raises `MissingPart` that names the missing folder."""
    folder: Path = ASSETS / "models" / name
    if not (folder / "config.json").is_file() and not (folder / "model_index.json").is_file():
        raise MissingPart(f"assets/models/{name} is not there (yet).")
    from workbench.models.load import load

    return load(str(folder))


def _bundle(pipe: Any, name: str) -> Bundle:
    from workbench.models.load import from_pipeline

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


@functools.cache
def tiny_sd3(seed: int = 0) -> Bundle:
    """The shared tiny Stable Diffusion 3 bundle: family mmdit, text last in its joint attentions."""
    return _bundle(sd3_pipe(seed), "tiny-sd3")


@functools.cache
def tiny_pixart(seed: int = 0) -> Bundle:
    """The shared tiny PixArt-alpha bundle: family dit, self-attention and masked cross-attention."""
    return _bundle(pixart_pipe(seed), "tiny-pixart")


@functools.cache
def tiny_flux(seed: int = 0) -> Bundle:
    """The shared tiny FLUX bundle: family mmdit, text first, blocks of two streams and of one."""
    return _bundle(flux_pipe(seed), "tiny-flux")


def var_parts(seed: int = 0, *, depth: int = 2, prediction: str = "residual", **more: Any) -> tuple[Any, Any]:
    """A tiny VQ and a tiny next-scale transformer with lively random weights; latents 4x8x8, pictures 16x16."""
    from workbench.models.var import MultiScaleVQ, VARTransformer

    direct = prediction == "direct"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        common = {"patch_nums": (1, 2, 3, 4, 6, 8), "vocab_size": 24, "latent_channels": 4}
        vq = MultiScaleVQ(**common, channels=8, channel_mult=(1, 1), layers_per_block=1, norm_groups=4,
                          residual=not direct)  # fmt: skip
        told = {"num_classes": 5, "pooled_dim": 12, "text_model": "tiny-clip", **more}
        net = VARTransformer(**common, depth=depth, width=16 * depth, heads=2, prediction=prediction,
                             position="area" if direct else "absolute", **told)  # fmt: skip
        with torch.no_grad():
            for name, value in net.named_parameters():  # gates near 0 and a small head would hide every mistake
                value.normal_(0, 1.0 if name.startswith(("text_emb.w", "class_emb")) else 0.25)
            vq.quantize.embedding.weight.normal_()
    return vq.eval(), net.eval()


def _var_opener(name: str) -> Bundle:
    from tests.clip import tiny_clip

    return tiny_clip() if name == "tiny-clip" else opener(name)


@functools.cache
def tiny_var(seed: int = 0, prediction: str = "residual") -> Bundle:
    """The shared tiny VAR bundle: residual prediction, or direct, which takes any schedule; `open("refiner")` too."""
    from workbench.models.var.bundle import from_parts

    vq, net = var_parts(seed, prediction=prediction)
    refiner = var_parts(seed + 1, depth=1, prediction=prediction)[1]
    return from_parts(vq, net, refiner=refiner, name="tiny-var", digest=f"tiny-var-{seed}", opener=_var_opener)
