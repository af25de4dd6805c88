"""Attention weights as maps: means over heads, entropy, grids, resizing.

Weights are softmax outputs [B, A, N, L]: every row over the last axis sums to one.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# torch.linalg, torch.fft and torch.special carry no types

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from workbench.core.errors import AskError


def mean_heads(weights: Float[Tensor, "B A N L"]) -> Float[Tensor, "B N L"]:
    """Average over the heads, in float32."""
    return weights.float().mean(1)


def entropy(weights: Float[Tensor, "*B L"]) -> Float[Tensor, "*B"]:
    """Entropy in nats of distributions along the last axis: 0 looks at one place, log L everywhere alike.

    >>> round(entropy(torch.full((1, 4), 0.25)).item(), 4) == round(math.log(4), 4)
    True
    """
    return torch.special.entr(weights.float()).sum(-1)


def evenness(weights: Float[Tensor, "*B L"]) -> Float[Tensor, "*B"]:
    """Entropy over its greatest value log L, in 0..1; 1 where there is a single place."""
    places = weights.shape[-1]
    if places == 1:
        return torch.ones(weights.shape[:-1], device=weights.device)
    return entropy(weights) / math.log(places)


def grid(tokens: int, size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of `tokens` places that halve a latent grid `size` (height, width), rounding up, some times.

    >>> grid(20, (8, 10))
    (4, 5)

    Raises `AskError` when no number of halvings gives that many places.
    """
    height, width = size
    while height * width > tokens and height * width > 1:
        height, width = -(-height // 2), -(-width // 2)
    if height * width != tokens:
        raise AskError(
            f"{tokens} tokens are no grid of a {size[0]}x{size[1]} latent halved some times (were tokens merged "
            "without saying how to undo it?). Look at another site."
        )
    return height, width


def to_grid(values: Float[Tensor, "*B N"], size: tuple[int, int]) -> Float[Tensor, "*B h w"]:
    """Fold the last axis, N places row by row, to the grid that `size` (the latent's height, width) halves to."""
    height, width = grid(values.shape[-1], size)
    return values.unflatten(-1, (height, width))


def resize(maps: Float[Tensor, "*B h w"], size: tuple[int, int], mode: str = "bilinear") -> Float[Tensor, "*B H W"]:
    """Resize maps to (height, width) without corner alignment; `mode` is bilinear, bicubic or nearest."""
    flat = maps.reshape(-1, 1, *maps.shape[-2:]).float()
    options = {} if mode == "nearest" else {"align_corners": False}
    return F.interpolate(flat, size=size, mode=mode, **options).reshape(*maps.shape[:-2], *size)


def place(pixel: tuple[int, int], picture: tuple[int, int], cells: tuple[int, int]) -> int:
    """Index of the grid cell under a pixel (x, y); `picture` and `cells` are (height, width).

    >>> place((127, 0), (128, 128), (4, 4))
    3

    Raises `AskError` for a pixel outside the picture.
    """
    x, y = pixel
    height, width = picture
    if not (0 <= x < width and 0 <= y < height):
        raise AskError(
            f"The pixel is ({x}, {y}); the picture is {width}x{height}, so x goes from 0 to {width - 1} and y from 0 "
            f"to {height - 1}."
        )
    return (y * cells[0] // height) * cells[1] + x * cells[1] // width


def spread(maps: Float[Tensor, "*B h w"]) -> Float[Tensor, "*B h w"]:
    """Scale each map to 0..1 by its own least and greatest value; a constant map becomes 0."""
    low = maps.amin((-2, -1), keepdim=True)
    reach = maps.amax((-2, -1), keepdim=True) - low
    return torch.where(reach > 0, (maps - low) / reach.clamp_min(torch.finfo(maps.dtype).tiny), 0.0)


def mean_tokens(maps: Float[Tensor, "*B N L"], tokens: Int[Tensor, " k"]) -> Float[Tensor, "*B N"]:
    """Average the maps of some text tokens, as for a word of several pieces."""
    return maps.index_select(-1, tokens.to(maps.device)).mean(-1)
