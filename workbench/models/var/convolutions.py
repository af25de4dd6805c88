"""The convolutional halves of the multi-scale VQ: pictures to latents and back, under the original's names.

Each level has residual blocks and, at the deepest, one head of attention after each; the encoder halves the sides after
every level but the last, the decoder doubles them. Licence of the reference: FoundationVision/VAR, MIT (read, not
copied), classes `Encoder` and `Decoder`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn


class Residual(nn.Module):
    """Two normalised convolutions around a skip."""

    def __init__(self, given: int, width: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, given, eps=1e-6)
        self.conv1 = nn.Conv2d(given, width, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, width, eps=1e-6)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(given, width, 1) if given != width else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, given, h, w] to [B, width, h, w]."""
        h = self.conv1(F.silu(self.norm1(x)))
        return self.nin_shortcut(x) + self.conv2(F.silu(self.norm2(h)))


class Attention(nn.Module):
    """One head of attention over all places, around a skip."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, width, eps=1e-6)
        self.qkv = nn.Conv2d(width, 3 * width, 1)
        self.proj_out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, h, w] to the same shape."""
        B, C, h, w = x.shape
        query, key, value = self.qkv(self.norm(x)).reshape(B, 3, C, h * w).transpose(-1, -2)[:, :, None].unbind(1)
        seen = F.scaled_dot_product_attention(query, key, value)  # [B, 1, h*w, C]
        return x + self.proj_out(seen[:, 0].transpose(-1, -2).reshape(B, C, h, w))


class Resample(nn.Module):
    """Halve a grid by a strided convolution padded right and below, or double it by copying and a convolution."""

    def __init__(self, width: int, *, up: bool) -> None:
        super().__init__()
        self.up = up
        self.conv = nn.Conv2d(width, width, 3, stride=1 if up else 2, padding=1 if up else 0)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, h, w] to half or double the sides."""
        return self.conv(F.interpolate(x, scale_factor=2.0) if self.up else F.pad(x, (0, 1, 0, 1)))


def _level(given: int, width: int, count: int, groups: int, attend: bool) -> nn.Module:
    level = nn.Module()
    level.block = nn.ModuleList(Residual(given if i == 0 else width, width, groups) for i in range(count))
    level.attn = nn.ModuleList(Attention(width, groups) for _ in range(count if attend else 0))
    return level


def _run(level: Any, x: Tensor) -> Tensor:
    for i, block in enumerate(level.block):
        x = block(x)
        if len(level.attn):
            x = level.attn[i](x)
    return x


class Middle(nn.Module):
    """Residual, attention, residual, at the deepest level."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.block_1 = Residual(width, width, groups)
        self.attn_1 = Attention(width, groups)
        self.block_2 = Residual(width, width, groups)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, h, w] to the same shape."""
        return self.block_2(self.attn_1(self.block_1(x)))


class Encoder(nn.Module):
    """Pictures [B, 3, H, W] to [B, Z, H/f, W/f]; each level but the last halves the sides."""

    def __init__(self, width: int, mult: Sequence[int], blocks: int, latent: int, groups: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, width, 3, padding=1)
        self.down = nn.ModuleList()
        given = width
        for i, times in enumerate(mult):
            last = i == len(mult) - 1
            level = _level(given, width * times, blocks, groups, last)
            given = width * times
            if not last:
                level.downsample = Resample(given, up=False)
            self.down.append(level)
        self.mid = Middle(given, groups)
        self.norm_out = nn.GroupNorm(groups, given, eps=1e-6)
        self.conv_out = nn.Conv2d(given, latent, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Encode."""
        x = self.conv_in(x)
        for level in self.down:
            x = _run(level, x)
            if hasattr(level, "downsample"):
                x = level.downsample(x)  # type: ignore[operator]
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))


class Decoder(nn.Module):
    """Latents [B, Z, h, w] to pictures [B, 3, f h, f w]; one residual block a level more than the encoder."""

    def __init__(self, width: int, mult: Sequence[int], blocks: int, latent: int, groups: int) -> None:
        super().__init__()
        given = width * mult[-1]
        self.conv_in = nn.Conv2d(latent, given, 3, padding=1)
        self.mid = Middle(given, groups)
        levels: list[nn.Module] = []
        for i in reversed(range(len(mult))):
            level = _level(given, width * mult[i], blocks + 1, groups, i == len(mult) - 1)
            given = width * mult[i]
            if i > 0:
                level.upsample = Resample(given, up=True)
            levels.insert(0, level)
        self.up = nn.ModuleList(levels)
        self.norm_out = nn.GroupNorm(groups, given, eps=1e-6)
        self.conv_out = nn.Conv2d(given, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Decode."""
        x = self.mid(self.conv_in(x))
        for level in reversed(self.up):
            x = _run(level, x)
            if hasattr(level, "upsample"):
                x = level.upsample(x)  # type: ignore[operator]
        return self.conv_out(F.silu(self.norm_out(x)))
