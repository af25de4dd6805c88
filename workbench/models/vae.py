"""Pictures to latents and back: the scale, mean, spread and shift that a model's autoencoder is used with."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def pixels_a_cell(vae: Any) -> int:
    """Pixels a side of one latent cell."""
    widths = getattr(vae.config, "encoder_block_out_channels", None) or vae.config.block_out_channels
    return 2 ** (len(widths) - 1)


def decoder(vae: Any) -> Callable[[Tensor], Tensor]:
    """Latents [B, C, h, w] as the network sees them to pixels [B, 3, H, W] in -1..1."""

    def decode(latents: Tensor) -> Tensor:
        mean, std = _moments(vae, latents)
        latents = latents * std / vae.config.scaling_factor + mean
        return vae.decode(latents.to(vae.dtype), return_dict=False)[0]

    return decode


def encoder(vae: Any) -> Callable[[Tensor, Sequence[torch.Generator] | None], Tensor]:
    """Pixels [B, 3, H, W] in -1..1 to latents; with generators row i is drawn from generator i, else it is the mode."""

    def encode(pixels: Tensor, generators: Sequence[torch.Generator] | None = None) -> Tensor:
        rows: list[Tensor] = []
        for i, row in enumerate(pixels.to(vae.device, vae.dtype).split(1)):
            out = vae.encode(row)
            if hasattr(out, "latent_dist"):
                dist = out.latent_dist
                rows.append(dist.mode() if generators is None else dist.sample(generators[i]))
            else:
                rows.append(out.latents)
        latents = torch.cat(rows)
        mean, std = _moments(vae, latents)
        return (latents - mean) * vae.config.scaling_factor / std

    return encode


def _moments(vae: Any, like: Tensor) -> tuple[Tensor | float, Tensor | float]:
    """Mean and spread of raw latents by channel (SDXL's newer ones), or one shift for all (SD3, FLUX)."""
    config = vae.config
    mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
    if mean is None or std is None:
        return getattr(config, "shift_factor", None) or 0.0, 1.0
    shape = (1, -1, 1, 1)
    return torch.tensor(mean).view(shape).to(like), torch.tensor(std).view(shape).to(like)
