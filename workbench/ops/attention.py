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
    found = halved(tokens, size)
    if found is None:
        raise AskError(
            f"{tokens} tokens are no grid of a {size[0]}x{size[1]} latent halved some times (were tokens merged "
            "without saying how to undo it?). Look at another site."
        )
    return found


def halved(tokens: int, size: tuple[int, int]) -> tuple[int, int] | None:
    """A grid (height, width) halved, rounding up, until it has `tokens` places; None where it never has.

    >>> halved(64, (16, 16)), halved(77, (16, 16))
    ((8, 8), None)
    """
    height, width = size
    while height * width > tokens and height * width > 1:
        height, width = -(-height // 2), -(-width // 2)
    return (height, width) if height * width == tokens else None


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


def overfocus(
    weights: Float[Tensor, "*B N L"], mean: Float[Tensor, "*B L"], least: float = 2.0
) -> Float[Tensor, "*B N"]:
    """Cosine of each query's attention with the mean over all queries, both without what lies below `least` / L.

    0 where queries look at different places or nowhere in particular, 1 where all look at the same few (Guo et al.
    2023, arXiv 2303.11126: the term their diversification loss lowers, here for a head instead of the mean of heads).
    """
    floor = least / weights.shape[-1]
    kept, middle = (torch.where(values >= floor, values, 0.0) for values in (weights.float(), mean.float()))
    sizes = kept.norm(dim=-1) * middle.norm(dim=-1)[..., None]
    dots = (kept @ middle[..., None])[..., 0]
    return torch.where(sizes > 0, dots / sizes.clamp_min(torch.finfo(torch.float32).tiny), 0.0)


def places(size: tuple[int, int]) -> Float[Tensor, "n 2"]:
    """Row and column of each grid place's middle, 0..1 of the height and of the width, row by row."""
    rows, columns = ((torch.arange(side) + 0.5) / side for side in size)
    return torch.cartesian_prod(rows, columns).reshape(-1, 2)


def reach(weights: Float[Tensor, "*B N L"], size: tuple[int, int], start: int = 0) -> Float[Tensor, "*B N"]:
    """Mean distance of what places look at, over that of an even look: 0 looks at itself, 1 everywhere alike.

    `weights` are the rows of places `start`, `start` + 1, ... over all L places of a grid (height, width).
    """
    at = places(size).to(weights)
    apart = torch.cdist(at[start : start + weights.shape[-2]], at)  # [N, L]
    even = apart.mean(-1).clamp_min(torch.finfo(torch.float32).tiny)
    return (weights.float() * apart).sum(-1) / even


def downward(weights: Float[Tensor, "*B N L"], size: tuple[int, int]) -> Float[Tensor, "*B N"]:
    """How far below the middle a place looks on average, -0.5 (top) .. 0.5 (bottom); 0 for an even look."""
    return weights.float() @ (places(size)[:, 0].to(weights) - 0.5)


def roll(weights: Float[Tensor, "B A N N"], before: Float[Tensor, "B N N"] | None = None) -> Float[Tensor, "B N N"]:
    """One layer of attention rollout: (mean over heads + I), rows summing to one, times what came before.

    Abnar and Zuidema 2020, arXiv 2005.00928, eq. 1.
    """
    layer = mean_heads(weights) + torch.eye(weights.shape[-1], device=weights.device)
    layer = layer / layer.sum(-1, keepdim=True)
    return layer if before is None else layer @ before


def relevance(weights: Float[Tensor, "B A N N"], gradients: Float[Tensor, "B A N N"],
              before: Float[Tensor, "B N N"]) -> Float[Tensor, "B N N"]:  # fmt: skip
    """One layer of transformer relevance: R + mean over heads of (gradient x weight) cut at 0, times R.

    Chefer et al. 2021, arXiv 2103.15679, eq. 5 and 6.
    """
    return before + mean_heads((gradients * weights).clamp_min(0)) @ before


def principal(features: Float[Tensor, "N D"], count: int = 3) -> Float[Tensor, "N count"]:
    """The first principal components of N features, each scaled to 0..1, with a sign that follows from the data.

    The sign makes the component's third moment positive, so that the rarer side is bright. Missing ones are 0.
    """
    centred = features.double() - features.double().mean(0)
    left, sizes, _ = torch.linalg.svd(centred, full_matrices=False)
    scores = (left * sizes)[:, :count]
    scores = torch.where(scores.pow(3).sum(0) < 0, -scores, scores)
    low, high = scores.amin(0), scores.amax(0)
    even = (scores - low) / (high - low).clamp_min(torch.finfo(torch.float64).tiny)
    found = torch.where(high - low > 1e-9 * sizes[:1].clamp_min(1e-30), even, 0.0).float()
    return F.pad(found, (0, count - found.shape[1]))
