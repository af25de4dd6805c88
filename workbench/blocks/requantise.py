"""Keeping part of a picture while a decoder by scale redraws the rest: its codes, and where they stay.

The picture's latent f is cut into scales once. At scale k the codes of the kept places are either the picture's own
(`replace`, the official mode) or the codes nearest to what is missing of the picture there now (`requantise`):
    replace: e[r_k] with r_k of f alone          requantise: e[argmin_v |area_down(f - fhat_k) - e_v|^2]
The first encode residuals of a latent that is no longer there once neighbours have changed, since resizing and
smoothing carry their changes over the border; the second take that up, so what is kept does not drift.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# modules of a model are reached by what they can do, and torch's interpolate carries no types

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from workbench.blocks.denoise import to_images
from workbench.blocks.pictures import open_picture
from workbench.core.ask import Ask
from workbench.core.bundle import Bundle, Images
from workbench.core.errors import AskError, MissingPart

Keep = Literal["requantise", "replace"]
#: Scales of at most so many places say too little of where: they are the picture's own.
FEW = 3


@runtime_checkable
class Quantiser(Protocol):
    """What a multi-scale VQ can do: ask a residual for a scale, find the nearest codes, and what codes stand for."""

    def ask(self, k: int, rest: Tensor) -> Tensor:
        """What scale k has to say of a residual [B, C, h, w]."""
        ...

    def nearest(self, z: Tensor) -> Tensor:
        """The nearest codes of latents [B, C, p, p], [B, p * p]."""
        ...

    def embed(self, k: int, tokens: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """The codes [B, C, p, p] of tokens."""
        ...

    def quantise(self, f: Tensor) -> Any:
        """All scales of a latent: `tokens`, `prefixes`."""
        ...


def quantiser(bundle: Bundle) -> Quantiser:
    """The part of a bundle that cuts latents into scales. Raises `MissingPart` where there is none."""
    for part in bundle.parts.values():
        if isinstance(part, Quantiser):
            return part
    raise MissingPart(
        f"{bundle.name} has no multi-scale VQ, so pictures cannot be cut into its scales. Load a VAR model."
    )


@dataclass(frozen=True, eq=False)
class Canvas:
    """A picture to redraw in part: pixels [1, 3, H, W] in -1..1 and where it is new, [1, 1, H, W] of 0 and 1."""

    pixels: Float[Tensor, "1 3 H W"]
    new: Float[Tensor, "1 1 H W"]

    def kept(self, latent: tuple[int, int]) -> Float[Tensor, "1 1 h w"]:
        """Which places of a latent stay: those of which at most half is new."""
        share = F.interpolate(self.new, size=latent, mode="area")
        return (share <= 0.5).float()

    def paste(self, images: Images, feather: float) -> Images:
        """Put the picture's own pixels back where nothing is new; `feather` pixels of the new side are mixed."""
        new = soften(self.new, feather).to(images.device)
        own = to_images(self.pixels).to(images.device)
        if feather == 0:
            return torch.where(new > 0.5, images, own)
        return (new * images + (1 - new) * own).round().to(torch.uint8)


def soften(new: Float[Tensor, "1 1 H W"], feather: float) -> Float[Tensor, "1 1 H W"]:
    """A mask that rises from 0 at its border to 1 over `feather` pixels inwards; 0 outside stays exactly 0."""
    if feather <= 0:
        return new
    rings = int(np.ceil(feather))
    total, shrunk = torch.zeros_like(new), new
    for _ in range(rings):
        shrunk = -F.max_pool2d(-F.pad(shrunk, (1, 1, 1, 1), mode="replicate"), 3, 1)
        total = total + shrunk
    return new * (1 + total) / (1 + rings)


def canvas(bundle: Bundle, ask: Ask, name: str) -> Canvas:
    """The picture and mask of a request at the model's size. Raises `AskError` when one of them is missing."""
    if ask.image is None or ask.mask is None:
        lacking = "picture and no mask" if ask.image is None else "mask"
        raise AskError(f"{name} redraws the white part of a mask; there is no {lacking}. Give an image and a mask.")
    mask = open_picture(ask.mask, mode="L")
    picture = open_picture(ask.image)
    if mask.shape[:2] != picture.shape[:2]:
        raise AskError(
            f"The mask is {mask.shape[1]}x{mask.shape[0]} and the picture {picture.shape[1]}x{picture.shape[0]}. "
            "Give a mask of the picture's size."
        )
    _, height, width = bundle.shapes.image
    small = np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))
    return Canvas(signed(picture, (width, height)), torch.from_numpy((small >= 128).astype(np.float32))[None, None])


def signed(picture: np.ndarray, size: tuple[int, int]) -> Float[Tensor, "1 3 H W"]:
    """A picture uint8 [H, W, 3] at a size (width, height), in -1..1."""
    if picture.shape[1::-1] != size:
        picture = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))
    return torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1


@dataclass(frozen=True, eq=False)
class Source:
    """A picture's latent f [B, C, h, w], its tokens a scale [B, p * p], and the schedule of grids."""

    quantiser: Quantiser
    f: Float[Tensor, "B C h w"]
    tokens: tuple[Int[Tensor, "B _"], ...]
    grids: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, bundle: Bundle, pixels: Float[Tensor, "1 3 H W"], count: int) -> "Source":
        """What a picture is made of, once for each of `count` images. Raises `AskError` without residual scales."""
        if bundle.about.get("prediction", "residual") != "residual":
            raise AskError(f"{bundle.name} draws each scale anew; kept places need a model of residuals (VAR).")
        found, grids = quantiser(bundle), cast(Sequence[Sequence[int]], bundle.about["grids"])
        with torch.no_grad():
            f = bundle.encode(pixels.to(bundle.device))
            tokens = found.quantise(f).tokens
        rows = tuple(t.expand(count, -1) for t in tokens)
        return cls(found, f.expand(count, -1, -1, -1), rows, tuple((int(h), int(w)) for h, w in grids))

    def own(self, k: int) -> Float[Tensor, "B C p q"]:
        """The picture's own codes at scale k."""
        return self.quantiser.embed(k, self.tokens[k], self.grids[k])

    def missing(self, k: int, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C p q"]:
        """The codes nearest to what the state before scale k lacks of the picture."""
        return self.quantiser.embed(k, self.quantiser.nearest(self.quantiser.ask(k, self.f - x)), self.grids[k])


@dataclass(frozen=True, eq=False)
class Keeper:
    """Changes the codes of each scale: a source's where `kept` [1, 1, h, w] is 1, in one of the two modes."""

    source: Source
    kept: Float[Tensor, "1 1 h w"]
    mode: Keep

    def __call__(
        self, k: int, codes: Float[Tensor, "B C p q"], x: Float[Tensor, "B C h w"]
    ) -> Float[Tensor, "B C p q"]:
        """The codes to add at scale k to the state x."""
        stay = places(self.kept, self.source.grids[k]).to(codes)
        if not stay.any():
            return codes
        mine = self.source.own(k) if self.mode == "replace" else self.source.missing(k, x)
        return torch.where(stay > 0.5, mine.to(codes), codes)


def places(kept: Float[Tensor, "1 1 h w"], grid: tuple[int, int]) -> Float[Tensor, "1 1 p q"]:
    """Which places of a coarser grid stay: bilinear resizing above one half; all of the few of a very coarse one.

    Where nothing is kept nothing is, however coarse the grid.
    """
    stay = (F.interpolate(kept, size=grid, mode="bilinear", align_corners=False) > 0.5).float()
    if grid[0] * grid[1] <= FEW:
        return torch.full_like(stay, float(kept.any()))
    return stay
