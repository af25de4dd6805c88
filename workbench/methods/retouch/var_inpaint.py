"""Inpainting by scale: the white part of a mask is drawn anew, the rest keeps the codes of the picture.

Paper: Tian, Jiang, Yuan, Peng and Wang 2024, "Visual Autoregressive Modeling", arXiv 2404.02905, section 5.3 (zero-shot
in-painting, out-painting and class-conditional editing).

Equations, at scale k with state fhat_k, drawn codes h_k and the picture's latent f:
    h_k <- M_k c_k + (1 - M_k) h_k,   M_k = bilinear(M, p_k) > 1/2, and 1 everywhere at scales of at most 3 places
    `replace` (official):  c_k = e[r_k], the codes of f cut into scales once
    `requantise` (ours):   c_k = e[argmin_v |area_down(f - fhat_k) - e_v|^2]
then fhat_{k+1} = fhat_k + phi_k(up(h_k)) as ever. M is 1 where at most half of a place's pixels are new.

Differs: `requantise` asks at each scale what the state then lacks. A code of the picture is a residual to the picture's
own state; once places beside it have changed, resizing and smoothing carry them over the border, and the kept part
drifts. Where everything is kept both modes give the picture's own tokens, where nothing is they give plain decoding,
bit for bit. The mask may have any shape, where the official notebook takes a box; in the end the kept pixels are put
back (`paste`), with `feather` to hide the seam; without both it is the official picture.

Official numbers: none, pictures only; its notebook recommends the 512 px model, guidance 3 to 4 and `smooth`.
Licence of the reference: FoundationVision/VAR, MIT (read, not copied), `demo_zero_shot_edit.ipynb`, functions
`get_edit_mask` and `replace_embedding`.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field

from workbench.blocks import retouch
from workbench.blocks.requantise import Keep, canvas
from workbench.core.ask import Ask
from workbench.core.bundle import Bundle, Images
from workbench.core.fields import Unit
from workbench.core.method import Card, Sampler
from workbench.core.tape import Tap


class VarInpaint(Sampler):
    """Redraw the masked part of a picture, scale by scale."""

    card: ClassVar[Card] = Card("var-inpaint", "Inpainting by scale", "arXiv 2404.02905", ("var",), "seconds")
    quick: ClassVar[Mapping[str, Any]] = {"guidance": 0.5, "top_p": 1.0}

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
        """Draw `ask` over its picture where its mask is white: uint8 [B, 3, H, W]."""
        surface = canvas(bundle, ask, self.card.name)
        course = retouch.Course(self.guidance, self.top_k, self.top_p, self.smooth, self.keep)
        images = retouch.redraw(bundle, ask, tap, surface, course)
        return surface.paste(images, self.feather) if self.paste else images
