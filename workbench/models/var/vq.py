"""The multi-scale VQ autoencoder of VAR: a picture as token grids from coarse to fine, each the residual of the last.

Paper: Tian, Jiang, Yuan, Peng and Wang 2024, "Visual Autoregressive Modeling", arXiv 2404.02905, algorithms 1 and 2.

Equations, for f [B, C, h, w] and scales k of side p_k, with rest_0 = f and fhat_0 = 0:
    r_k = argmin_v |area_down(rest_k, p_k) - e_v|^2
    h_k = phi_k(bicubic_up(e[r_k], p_K)),   phi(x) = (1 - q) x + q conv(x),   q = 1/2
    fhat_{k+1} = fhat_k + h_k,   rest_{k+1} = rest_k - h_k
and neither resizing at the last scale. S scales share n convolutions: scale k takes the one whose tick is nearest.
Ground-truth mode (FlexVAR, arXiv 2502.20313) quantises area_down(f, p_k) itself, without phi, and every scale alone is
a picture.

The names of all parameters are those of the original checkpoint `vae_ch160v4096z32.pth`; every width is a setting, so
a tiny one fits as well. Licence of the reference: FoundationVision/VAR, MIT (read, not copied), classes `VQVAE` and
`VectorQuantizer2`. It measures distances in the same expression, so tokens agree; the loss of its quantiser is here,
that of its training is not public.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isqrt
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from workbench.core.errors import AskError, CheckpointMismatch
from workbench.models.var.convolutions import Decoder, Encoder


@functools.cache
def shares(scales: int, convolutions: int) -> tuple[int, ...]:
    """Which of the shared convolutions each scale takes; the ticks are the original's, near ties included.

    >>> shares(10, 4)
    (0, 0, 1, 1, 1, 2, 2, 3, 3, 3)
    """
    if convolutions == 0:
        return tuple(range(scales))
    edge = 1 / 3 / convolutions if convolutions == 4 else 1 / 2 / convolutions
    ticks = np.linspace(edge, 1 - edge, convolutions)
    return tuple(int(np.argmin(np.abs(ticks - k / max(scales - 1, 1)))) for k in range(scales))


class Phi(nn.Conv2d):
    """A 3x3 convolution of which only the part `ratio` replaces its input."""

    def __init__(self, width: int, ratio: float) -> None:
        super().__init__(width, width, 3, padding=1)
        self.ratio = ratio

    def forward(self, input: Tensor) -> Tensor:
        """Map [B, C, h, w] to the same shape."""
        return input * (1 - self.ratio) + super().forward(input) * self.ratio


class SharedPhi(nn.Module):
    """The convolutions that smooth upsampled residuals, under the original's names for one, some and all of them."""

    def __init__(self, width: int, ratio: float, scales: int, count: int) -> None:
        super().__init__()
        self.index = shares(scales, count)
        if count == 1:
            self.qresi = Phi(width, ratio)
        elif count > 1:
            self.qresi_ls = nn.ModuleList(Phi(width, ratio) for _ in range(count))
        else:
            for k in range(scales):
                self.add_module(str(k), Phi(width, ratio))

    def forward(self, k: int, x: Tensor) -> Tensor:
        """Smooth [B, C, h, w] of scale k."""
        if hasattr(self, "qresi"):
            return self.qresi(x)
        if hasattr(self, "qresi_ls"):
            return self.qresi_ls[self.index[k]](x)
        return self.get_submodule(str(k))(x)


class Quantiser(nn.Module):
    """The code book, the convolutions phi, and how often each code was used at each scale."""

    def __init__(self, vocab: int, width: int, scales: int, ratio: float, shared: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab, width)
        self.quant_resi = SharedPhi(width, ratio, scales, shared)
        self.ema_vocab_hit_SV: Tensor
        self.register_buffer("ema_vocab_hit_SV", torch.zeros(scales, vocab))


@dataclass(frozen=True, eq=False)
class Quantised:
    """A latent by scales: `tokens` k [B, p_k^2], what was quantised `asked` k [B, C, p_k, p_k], `prefixes` k fhat."""

    tokens: list[Tensor]
    asked: list[Tensor]
    prefixes: list[Tensor]


@dataclass(frozen=True, eq=False)
class Trained:
    """One training pass: pictures made [B, 3, H, W] (not clamped), the quantiser's loss, and its parts."""

    pictures: Tensor
    loss: Tensor
    quantised: Quantised


class MultiScaleVQ(ModelMixin, ConfigMixin):
    """Pictures [B, 3, H, W] in -1..1 to token grids of sides `patch_nums`, and back.

    The latent has `patch_nums[-1]` places a side and a picture 2^(levels - 1) times as many pixels.
    """

    config_name = "config.json"
    config: Any

    @register_to_config
    def __init__(
        self,
        *,
        patch_nums: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16),
        vocab_size: int = 4096,
        latent_channels: int = 32,
        channels: int = 160,
        decoder_channels: int | None = None,
        channel_mult: tuple[int, ...] = (1, 1, 2, 2, 4),
        layers_per_block: int = 2,
        norm_groups: int = 32,
        quant_resi: float = 0.5,
        share_quant_resi: int = 4,
        beta: float = 0.25,
        using_znorm: bool = False,
        residual: bool = True,
    ) -> None:
        super().__init__()
        rising = all(a < b for a, b in pairwise(patch_nums))
        if not patch_nums or patch_nums[0] < 1 or not rising:
            raise AskError(f"patch_nums is {tuple(patch_nums)}; it must be rising sides of 1 and more, as (1, 2, 4).")
        mult, Z = tuple(channel_mult), latent_channels
        self.patch_nums, self.factor = tuple(patch_nums), 2 ** (len(mult) - 1)
        self.encoder = Encoder(channels, mult, layers_per_block, Z, norm_groups)
        self.decoder = Decoder(decoder_channels or channels, mult, layers_per_block, Z, norm_groups)
        self.quantize = Quantiser(vocab_size, Z, len(patch_nums), quant_resi, share_quant_resi)
        self.quant_conv = nn.Conv2d(Z, Z, 3, padding=1)
        self.post_quant_conv = nn.Conv2d(Z, Z, 3, padding=1)

    def encode(self, images: Tensor) -> Tensor:
        """Latents f [B, C, h, w] of pictures [B, 3, H, W] in -1..1, not yet quantised."""
        if images.ndim != 4 or images.shape[1] != 3 or any(side % self.factor for side in images.shape[-2:]):
            raise AskError(
                f"Pictures are {tuple(images.shape)}; this autoencoder takes [B, 3, H, W] with sides that are "
                f"multiples of {self.factor}."
            )
        return self.quant_conv(self.encoder(images))

    def nearest(self, z: Tensor) -> Tensor:
        """The codes [..., h*w] nearest to latents [B, C, h, w], [B, h*w]; by angle where the config says so."""
        B, C = z.shape[:2]
        wide = torch.promote_types(z.dtype, torch.float32)
        rows, book = z.to(wide).permute(0, 2, 3, 1).reshape(-1, C), self.quantize.embedding.weight.to(wide)
        if self.config.using_znorm:
            return (F.normalize(rows, dim=-1) @ F.normalize(book, dim=-1).T).argmax(1).view(B, -1)
        far = rows.square().sum(1, keepdim=True) + book.square().sum(1)
        return far.addmm(rows, book.T, alpha=-2).argmin(1).view(B, -1)

    def ask(self, k: int, rest: Tensor) -> Tensor:
        """What scale k has to say of a residual [B, C, h, w]: its area mean [B, C, p_k, p_k]; all of it at the last."""
        if k == len(self.patch_nums) - 1:
            return rest
        return F.interpolate(rest, size=self._grid(k, rest), mode="area")

    def embed(self, k: int, tokens: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Codes [B, C, p_k, p_k] of tokens [B, p_k^2]; another grid by its `size` (rows, columns)."""
        vocab, side = self.config.vocab_size, isqrt(tokens.shape[1])
        # on a GPU the look would wait for everything before it
        if tokens.device.type == "cpu" and tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < vocab:
            raise AskError(f"Scale {k} has a token outside 0..{vocab - 1}, the code book. Do both models match?")
        rows, columns = size or (side, side)
        if rows * columns != tokens.shape[1]:
            raise AskError(f"Scale {k} has {tokens.shape[1]} tokens, which do not fill a grid of {rows}x{columns}.")
        book = F.embedding(tokens, self.quantize.embedding.weight)  # [B, n, C]
        return book.transpose(1, 2).reshape(len(tokens), -1, rows, columns)

    def phi(self, k: int, h: Tensor) -> Tensor:
        """Smooth the upsampled codes [B, C, h, w] of scale k."""
        return self.quantize.quant_resi(k, h)

    def rise(self, k: int, h: Tensor, size: tuple[int, int]) -> Tensor:
        """What scale k's codes [B, C, p_k, p_k] add to a latent of a size: upsampled, then smoothed."""
        if tuple(h.shape[-2:]) != size and k < len(self.patch_nums) - 1:
            h = F.interpolate(h, size=size, mode="bicubic")
        return self.phi(k, h)

    def accumulate(self, k: int, f_hat: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """The latent [B, C, h, w] after scale k, and the input of scale k + 1 [B, C, p, p]; the latent at the last.

        In ground-truth mode the latent is this scale alone, upsampled, and so is the next input.
        """
        size = (f_hat.shape[-2], f_hat.shape[-1])
        if self.config.residual:
            f_hat = f_hat + self.rise(k, h, size)
        else:
            f_hat = h if tuple(h.shape[-2:]) == size else F.interpolate(h, size=size, mode="bicubic")
        if k + 1 >= len(self.patch_nums):
            return f_hat, f_hat
        if self.config.residual:
            return f_hat, self.ask(k + 1, f_hat)
        return f_hat, F.interpolate(h, size=self._grid(k + 1, f_hat), mode="bicubic")

    def quantise(self, f: Tensor) -> Quantised:
        """All scales of a latent [B, C, h, w]."""
        f_hat, tokens, asked, prefixes = torch.zeros_like(f), [], [], []
        for k in range(len(self.patch_nums)):
            z = self.ask(k, f - f_hat if self.config.residual else f)
            tokens.append(self.nearest(z.detach()))
            asked.append(z)
            f_hat, _ = self.accumulate(k, f_hat, self.embed(k, tokens[-1], (z.shape[-2], z.shape[-1])))
            prefixes.append(f_hat)
        return Quantised(tokens, asked, prefixes)

    @torch.no_grad()
    def encode_tokens(self, images: Tensor) -> list[Tensor]:
        """Token grids of pictures [B, 3, H, W] in -1..1: for each scale [B, p_k^2]."""
        return self.quantise(self.encode(images)).tokens

    def inputs(self, tokens: Sequence[Tensor]) -> Tensor:
        """Teacher-forced inputs of scales 1 to K - 1, one after the other: [B, sum of p_k^2 but the first, C]."""
        f_hat = self.blank(len(tokens[0]))
        rows = []
        for k, at in enumerate(tokens[: len(self.patch_nums) - 1]):
            f_hat, following = self.accumulate(k, f_hat, self.embed(k, at))
            rows.append(following.flatten(2).transpose(1, 2))
        return torch.cat(rows, 1)

    def blank(self, count: int, size: tuple[int, int] | None = None) -> Tensor:
        """The latent before the first scale: zeros [B, C, h, w]."""
        side, weight = self.patch_nums[-1], self.quantize.embedding.weight
        return weight.new_zeros(count, weight.shape[1], *(size or (side, side)))

    def decode(self, f_hat: Tensor) -> Tensor:
        """Pictures [B, 3, H, W] in -1..1 of accumulated latents [B, C, h, w]."""
        return self.decoder(self.post_quant_conv(f_hat)).clamp(-1, 1)

    def forward(self, images: Tensor, stop: Tensor | None = None) -> Trained:
        """One training pass; gradients reach the encoder straight through the quantiser.

        `stop` [B] decodes row i from the scales up to stop[i] alone, so that prefixes make pictures, too. The loss is
        the mean over scales of beta |sg(fhat_k) - f|^2 + |fhat_k - sg(f)|^2.
        """
        f = self.encode(images)
        with torch.autocast(f.device.type, enabled=False):
            f = f.to(torch.promote_types(f.dtype, torch.float32))
            found = self.quantise(f)
            terms = [self.config.beta * F.mse_loss(p.detach(), f) + F.mse_loss(p, f.detach()) for p in found.prefixes]
            loss = torch.stack(terms).mean()
            last = found.prefixes[-1]
            if stop is not None:
                last = torch.stack(found.prefixes)[stop, torch.arange(len(stop), device=stop.device)]
            through = f + (last - f).detach()
        return Trained(self.decoder(self.post_quant_conv(through)), loss, found)

    def _grid(self, k: int, f: Tensor) -> tuple[int, int]:
        """The grid of scale k in a latent [B, C, h, w]: p_k a side, in the latent's shape."""
        p, last = self.patch_nums[k], self.patch_nums[-1]
        rows, columns = (max(1, round(p * side / last)) for side in f.shape[-2:])
        return rows, columns

    def check(self, state: dict[str, Tensor]) -> None:
        """Raise `CheckpointMismatch` when tensors of a checkpoint are not those of this configuration."""
        mine = {name: tuple(value.shape) for name, value in self.state_dict().items()}
        given = {name: tuple(value.shape) for name, value in state.items()}
        for shapes in (mine, given):
            shapes.pop("quantize.ema_vocab_hit_SV", None)
        if mine != given:
            wrong = sorted(name for name in {**mine, **given} if mine.get(name) != given.get(name))
            raise CheckpointMismatch(
                f"{len(wrong)} tensors do not fit this autoencoder, first {wrong[0]}: {given.get(wrong[0])} where "
                f"{mine.get(wrong[0])} is wanted. Is it the VQ file of another model?"
            )
