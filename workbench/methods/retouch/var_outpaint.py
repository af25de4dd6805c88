"""Outpainting by scale: a picture gets a wider surrounding, drawn anew.

Paper: Tian, Jiang, Yuan, Peng and Wang 2024, "Visual Autoregressive Modeling", arXiv 2404.02905, section 5.3.

Equations: those of inpainting by scale with the mask turned round: M is 1 inside a box and what lies around it is new
(see var-inpaint). With `shrink` the picture is first scaled into the box; the rest of what is encoded repeats its edge
pixels, and since none of that is kept it matters only through the encoder's view of the border.

Differs: the official notebook keeps the middle of a picture of the model's size; that is `shrink` off, with nothing
pasted. Shrinking makes the canvas wider than the picture, which is what is usually meant.

Official numbers: none, pictures only. Licence of the reference: FoundationVision/VAR, MIT (read, not copied),
`demo_zero_shot_edit.ipynb`, function `get_edit_mask` with `inpainting=False`.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field

from workbench.blocks import retouch
from workbench.blocks.pictures import open_picture
from workbench.blocks.requantise import Canvas, Keep, signed
from workbench.core.ask import Ask
from workbench.core.bundle import Bundle, Images
from workbench.core.errors import AskError
from workbench.core.fields import Unit
from workbench.core.method import Card, Sampler
from workbench.core.tape import Tap

Box = tuple[int, int, int, int]


class VarOutpaint(Sampler):
    """Draw what lies around a picture, scale by scale."""

    card: ClassVar[Card] = Card("var-outpaint", "Outpainting by scale", "arXiv 2404.02905", ("var",), "seconds")
    quick: ClassVar[Mapping[str, Any]] = {"guidance": 0.5, "top_p": 1.0}

    share: float = Field(0.6, ge=0.1, le=1, description="Side of the kept box over the canvas's; 1 keeps everything.")
    across: float = Field(0.5, ge=0, le=1, description="Where the box lies from left (0) to right (1).")
    down: float = Field(0.5, ge=0, le=1, description="Where the box lies from top (0) to bottom (1).")
    shrink: bool = Field(True, description="Scale the picture into the box, or keep that part of it alone.")
    keep: Keep = Field(
        "requantise", description="Codes of the kept part: nearest to what is missing now, or the picture's own."
    )
    guidance: float = Field(4.0, ge=0, le=50, description="How hard to follow the prompt at the last scale.")
    top_k: int = Field(0, ge=0, description="How many tokens to draw from at each place; 0 is all.")
    top_p: float = Field(0.95, gt=0, le=1, description="Share of the probability to draw from; 1 is all of it.")
    smooth: bool = Field(False, description="Mix codes instead of drawing one: softer pictures.")
    paste: bool = Field(True, description="Put the kept pixels back in the end.")
    feather: Annotated[float, Unit("px")] = Field(
        2.0,
        ge=0,
        le=64,
        description="Width, on the new side, over which it is mixed with what was there.",
    )

    def sample(self, bundle: Bundle, ask: Ask, tap: Tap) -> Images:
        """Draw `ask` around its picture: uint8 [B, 3, H, W]."""
        if ask.image is None or ask.mask is not None:
            wrong = "there is no picture" if ask.image is None else "a mask was given"
            raise AskError(f"var-outpaint draws around a picture and makes its own mask; {wrong}. Give an image alone.")
        surface = self.surface(open_picture(ask.image), bundle.shapes.image[1:])
        course = retouch.Course(self.guidance, self.top_k, self.top_p, self.smooth, self.keep)
        images = retouch.redraw(bundle, ask, tap, surface, course)
        return surface.paste(images, self.feather) if self.paste else images

    def surface(self, picture: np.ndarray, size: tuple[int, int]) -> Canvas:
        """The picture uint8 [h, w, 3] on a canvas of a size (height, width), and what is new of it."""
        height, width = size
        left, top, right, bottom = self.box(size)
        new = torch.ones(1, 1, height, width)
        new[..., top:bottom, left:right] = 0
        if not self.shrink:
            return Canvas(signed(picture, (width, height)), new)
        inside = signed(picture, (right - left, bottom - top))
        around = (left, width - right, top, height - bottom)
        return Canvas(torch.nn.functional.pad(inside, around, mode="replicate"), new)

    def box(self, size: tuple[int, int]) -> Box:
        """The kept box in pixels of a canvas (height, width): left, top, right, bottom."""
        height, width = size
        high, wide = max(1, round(height * self.share)), max(1, round(width * self.share))
        left, top = round((width - wide) * self.across), round((height - high) * self.down)
        return left, top, left + wide, top + high
