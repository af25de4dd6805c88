"""A tiny Stable Diffusion 1.x pipeline, and the names its weights have in the original single-file layout."""

import json
import lzma
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.tiny import MERGES
from workbench.core.places import ASSETS

WIDTHS = [16, 16, 32, 32]
SMALL: dict[str, dict[str, Any]] = {
    "unet": {"block_out_channels": WIDTHS, "attention_head_dim": 2, "norm_num_groups": 4, "sample_size": 16},
    "vae": {"block_out_channels": [8, 8, 8, 8], "norm_num_groups": 4, "sample_size": 128},
    "text_encoder": {"hidden_size": 768, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
                     "vocab_size": 526, "eos_token_id": 525, "bos_token_id": 524}}  # fmt: skip

RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
          "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}  # fmt: skip
OUTER = {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2", "conv_in":
         "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2"}  # fmt: skip
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def small_assets(place: Path) -> Path:
    """An assets folder whose SD 1.x configuration is tiny, with a vocabulary of 526."""
    configs = Path(shutil.copytree(ASSETS / "configs", place / "configs"))
    for part, changes in SMALL.items():
        path = configs / "sd1" / part / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    (configs / "clip-merges.txt.xz").write_bytes(lzma.compress("\n".join(["#version: 0.2", *MERGES]).encode()))
    return place


def small_pipeline(configs: Path) -> Any:
    """A random pipeline of the configurations in a folder."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from tests.tiny import tokenizer

    torch.manual_seed(0)
    facts = {part: json.loads((configs / part / "config.json").read_text()) for part in SMALL}
    parts: dict[str, Any] = {
        "unet": UNet2DConditionModel.from_config(facts["unet"]),
        "vae": AutoencoderKL.from_config(facts["vae"]),
        "text_encoder": CLIPTextModel(CLIPTextConfig(**facts["text_encoder"])),
        "tokenizer": tokenizer(),
        "scheduler": DDIMScheduler(steps_offset=1, clip_sample=False),
    }
    return StableDiffusionPipeline(**parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False)


def save_original(pipe: Any, path: Path, **more: Tensor) -> None:
    """Write a pipeline as one file in the original layout."""
    tensors = {f"model.diffusion_model.{unet_name(k)}": v for k, v in pipe.unet.state_dict().items()}
    for key, value in pipe.vae.state_dict().items():
        matrix = "attentions" in key and value.ndim == 2
        tensors[f"first_stage_model.{vae_name(key)}"] = value[..., None, None] if matrix else value
    for key, value in pipe.text_encoder.state_dict().items():
        tensors[f"cond_stage_model.transformer.text_model.{key.removeprefix('text_model.')}"] = value
    save_file({name: value.clone().contiguous() for name, value in {**tensors, **more}.items()}, path)


def unet_name(key: str) -> str:
    """diffusers' name of a UNet weight -> the original one, for two layers a block and four levels."""
    stem, _, kind = key.rpartition(".")
    if stem in OUTER:
        return f"{OUTER[stem]}.{kind}"
    block, rest = re.fullmatch(r"(down_blocks\.\d|up_blocks\.\d|mid_block)\.(.*)", key).groups()  # type: ignore[union-attr]
    what, number, inner = re.fullmatch(r"(\w+)\.(\d)\.(.*)", rest).groups()  # type: ignore[union-attr]
    place = {"resnets": 0, "attentions": 1}.get(what, 0)
    level = int(block[-1]) if block != "mid_block" else 0
    if block == "mid_block":
        room = f"middle_block.{(2 * int(number)) if what == 'resnets' else 1}"
    elif what == "downsamplers":
        return f"input_blocks.{3 * level + 3}.0.op.{kind}"
    elif what == "upsamplers":
        return f"output_blocks.{3 * level + 2}.{1 if level == 0 else 2}.conv.{kind}"
    elif block.startswith("down"):
        room = f"input_blocks.{3 * level + int(number) + 1}.{place}"
    else:
        room = f"output_blocks.{3 * level + int(number)}.{place}"
    if what == "resnets":
        name, _, kind = inner.rpartition(".")
        inner = f"{RESNET[name]}.{kind}"
    return f"{room}.{inner}"


def vae_name(key: str) -> str:
    """diffusers' name of a KL autoencoder's weight -> the original one."""
    key = key.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    key = re.sub(r"up_blocks\.(\d)", lambda found: f"up.{3 - int(found[1])}", key)
    key = re.sub(r"down_blocks\.(\d)", r"down.\1", key)
    key = key.replace("downsamplers.0", "downsample").replace("upsamplers.0", "upsample")
    key = re.sub(r"mid_block\.resnets\.(\d)", lambda found: f"mid.block_{int(found[1]) + 1}", key)
    key = key.replace("resnets.", "block.")
    if "mid_block.attentions.0." in key:
        head, _, tail = key.partition("mid_block.attentions.0.")
        name, _, kind = tail.rpartition(".")
        key = f"{head}mid.attn_1.{ATTENTION[name]}.{kind}"
    return key
