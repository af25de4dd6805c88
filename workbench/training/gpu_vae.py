"""Train the GPU tier's autoencoder: 128 px pictures to 32x32 latents of 4 channels, mean 0 and deviation about 1."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from workbench.training import vae
from workbench.training.feed import plain
from workbench.training.gpu_loop import Course, Kit, learn, past, recipe, restore
from workbench.training.loop import diffusers

CHANNELS = 4
PLACE = Path("emoji-unet", "vae")


def build(widths: tuple[int, ...] = (32, 64, 96)) -> Any:
    """Make an untrained AutoencoderKL of three levels: a quarter of the side, the loss and noise of the CPU tier's."""
    levels = len(widths)
    down, up = ("DownEncoderBlock2D",) * levels, ("UpDecoderBlock2D",) * levels
    shape = {"down_block_types": down, "up_block_types": up, "block_out_channels": widths, "latent_channels": CHANNELS}
    model: Any = diffusers.AutoencoderKL(**{**vae.SHAPE, **shape})
    pin(model)
    return model


@torch.no_grad()
def pin(model: Any) -> None:
    """Fix the posterior's spread, which is not learned: it is the noise the decoder is trained with."""
    model.encoder.conv_out.weight[CHANNELS:] = 0
    model.encoder.conv_out.bias[CHANNELS:] = 2 * math.log(vae.NOISE)


def opened(kit: Kit) -> Any:
    """Load the trained autoencoder onto the device, for use: latents times its scaling factor have deviation 1."""
    model: Any = diffusers.AutoencoderKL.from_pretrained(kit.folder / PLACE).float().eval()
    return model.to(kit.device, memory_format=torch.channels_last).requires_grad_(False)


@torch.no_grad()
def encoded(kit: Kit, model: Any, pictures: Tensor) -> Tensor:
    """Return scaled latents [B, 4, h, w] of pictures in -1..1."""
    with kit.cast():
        moments = model.encoder(pictures)
    return moments[:, :CHANNELS].float() * model.config.scaling_factor


def fit(
    kit: Kit, *, minutes: float = 3.0, batch: int = 256, lr: float = 1e-3, widths: tuple[int, ...] = (32, 64, 96)
) -> dict[str, Any]:
    """Train the autoencoder for `minutes` in all, on every scene the generator may see."""
    folder = kit.folder / PLACE
    before = past(folder, "gpu-vae")
    model = build(tuple(widths))
    if before:
        restore(model, folder / "diffusion_pytorch_model.safetensors")
    model.to(kit.device, memory_format=torch.channels_last)
    encode, decode = kit.quick(model.encoder), kit.quick(model.decoder)
    feed = kit.feed(plain, batch, start=before.get("step", 0))

    def miss() -> Tensor:
        true, _ = kit.stage.compose(next(feed).codes)
        with kit.cast():
            latent = encode(true)[:, :CHANNELS]
            # a little noise on the latents: the decoder will be given a denoiser's, not the encoder's
            made = decode(latent + vae.NOISE * kit.randn(*latent.shape))
        return vae.loss(made.float(), true, latent.float())

    facts = {"recipe": "gpu-vae", "widths": list(widths)}
    course = Course(minutes, lr)
    log, spent = learn(kit, course, model, miss, batch=batch, before=before, facts=facts, feed=feed)
    pin(model)
    model.cpu()
    final = vae.measure(model, kit.world, 64 if not kit.rig.most else 2)
    model.register_to_config(scaling_factor=round(1 / final["deviation"], 4))
    model.half().save_pretrained(folder)
    log.write(folder, **final, **spent)
    return {**final, **spent}


train = recipe(fit)
