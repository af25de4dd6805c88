"""The public diffusion transformers at full size with random weights; prompts are read as noise, so no T5 is needed.

Configurations are those of diffusers' own classes, which have PixArt-XL's and FLUX.1's as defaults, with what the
published `transformer/config.json`, `vae/config.json` and scheduler of each model say otherwise.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Literal

import torch

from workbench.core.bundle import Bundle, Family, Seams
from workbench.models import dit, flux, pixart, schedulers, sd3, vae
from workbench.models.pipeline import quiet
from workbench.models.random_dit import NOISE, noise_reader
from workbench.models.unet import guide

Kind = Literal["pixart", "sd3", "flux"]
_FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0}
_WIDE_VAE = {"latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False, "force_upcast": True}


@dataclass(frozen=True)
class Plan:
    """What there is to a model: its network's class and what differs from its defaults, text, autoencoder, noise."""

    cls: str
    family: Family
    reader: Any
    tokens: int
    pooled: int | None
    network: Mapping[str, Any] = field(default_factory=dict[str, Any])
    vae: Mapping[str, Any] = field(default_factory=dict[str, Any])
    noise: Mapping[str, Any] = field(default_factory=lambda: _FLOW)


PLANS: Mapping[Kind, Plan] = {
    "pixart": Plan(
        "PixArtTransformer2DModel", "dit", pixart, 120, None, noise=NOISE,
        network={"caption_channels": 4096}),
    "sd3": Plan(
        "SD3Transformer2DModel", "mmdit", sd3, sd3.CLIP_TOKENS + sd3.T5_TOKENS, 2048,
        network={"num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536,
                 "pos_embed_max_size": 192},
        vae={**_WIDE_VAE, "scaling_factor": 1.5305, "shift_factor": 0.0609}),
    "flux": Plan(
        "FluxTransformer2DModel", "mmdit", flux, flux.T5_TOKENS, 768, network={"guidance_embeds": True},
        vae={**_WIDE_VAE, "scaling_factor": 0.3611, "shift_factor": 0.1159},
        noise={**_FLOW, "use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15}),
}  # fmt: skip
WIDTH = 4096  # of T5-XXL's states


def blank_dit(kind: Kind, *, device: str = "cpu", dtype: torch.dtype = torch.float32, seed: int = 0) -> Bundle:
    """PixArt-XL at 1,024 px, Stable Diffusion 3 medium or FLUX.1-dev with random weights, without its text encoders.

    On the device `meta` it has shapes and no numbers.
    """
    import diffusers

    plan, where = PLANS[kind], torch.device(device)
    with quiet(), torch.random.fork_rng(devices=[] if where.type != "cuda" else [where]), where:
        torch.manual_seed(seed)
        model: Any = getattr(diffusers, plan.cls)(**plan.network)
        decoder: Any = diffusers.AutoencoderKL(
            block_out_channels=(128, 256, 512, 512), layers_per_block=2, sample_size=1024,  # type: ignore[arg-type]
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,  # type: ignore[arg-type]
            **plan.vae)  # fmt: skip
        pipe = SimpleNamespace(transformer=model.to(dtype), vae=decoder.to(dtype))
    side = 1024 // vae.pixels_a_cell(pipe.vae)
    shapes = dit.shapes(pipe, side, 2, (plan.tokens, WIDTH))
    read = noise_reader(plan.tokens, WIDTH, plan.pooled, where, dtype)
    seams = Seams(read, plan.reader.predictor(model), guide, schedulers.advance, vae.decoder(pipe.vae))
    cell = shapes.multiple

    def schedule(name: str, steps: int, size: tuple[int, int]) -> Any:
        tokens = (size[0] // cell) * (size[1] // cell)
        return schedulers.make(name, plan.noise, steps, where, tokens, even=kind == "flux")

    given = {"name": f"blank-{kind}", "digest": f"blank-{kind}-{seed}-{dtype}"}
    sites = flux.sites(model, side) if kind == "flux" else plan.reader.sites(model)
    return dit.bundle(
        pipe, seams, given, family=plan.family, shapes=shapes, all_sites=tuple(sites), schedule=schedule,
        facts={"guidance_input": bool(model.config.get("guidance_embeds"))},
        extra=pixart.sizes if kind == "pixart" else None)  # fmt: skip
