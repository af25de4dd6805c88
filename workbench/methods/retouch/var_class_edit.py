"""Editing by scale: another prompt for a picture, with the picture's own noise or in a masked part alone.

Papers: Tian, Jiang, Yuan, Peng and Wang 2024, "Visual Autoregressive Modeling", arXiv 2404.02905, section 5.3 (mode
`fresh`); Dao, He, Han, Nguyen, Heyrani Nobari, Ahmed, Zhang, Nguyen and Metaxas 2025, "Discrete Noise Inversion for
Next-scale Autoregressive Text-based Image Editing" (VARIN), arXiv 2509.01984 (mode `invert`).

Equations of `invert`: drawing is argmax_v (l_v + g_v) with Gumbel noise g. Given the logits l of the source prompt
along the picture's own tokens r, the noise that made them has an exact posterior; at every place
    T = logsumexp(l) + G_r,   z_r = T,   z_v = -log(exp(-T) + exp(-(l_v + G_v))),   g = z - l,   G ~ Gumbel
The picture is drawn again with these g and the logits of the new prompt. Scales before `start` keep the picture's
tokens; a mask keeps its black part as inpainting does.

Differs: VARIN inverts the argmax by a pseudo-inverse of its own (location-aware argmax inversion); here noise comes
from the exact posterior, so over pictures of the model it is Gumbel noise again. With the source prompt and guidance
unchanged the tokens come back exactly. The cuts top_k and top_p are off while noise is inverted, since a token that
they leave out has no noise that draws it; they may be put on for the new drawing. `fresh` draws with new noise, which
is the official editing: then a mask says where.

Official numbers: none are quoted, since VARIN's models are others. Licence of the references: FoundationVision/VAR, MIT
(read, not copied), `demo_zero_shot_edit.ipynb`; of VARIN only the abstract was read.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from workbench.blocks import retouch, scales
from workbench.blocks.pictures import open_picture
from workbench.blocks.requantise import Canvas, Keep, Source, canvas, signed
from workbench.core.ask import Ask
from workbench.core.bundle import Bundle, Images
from workbench.core.errors import AskError
from workbench.core.fields import Role, Unit
from workbench.core.method import Card, Sampler
from workbench.core.tape import Tap
from workbench.ops.gumbel import rewind
from workbench.ops.noise import row_generator


class VarClassEdit(Sampler):
    """Draw a picture again under another prompt or class."""

    card: ClassVar[Card] = Card("var-class-edit", "Editing by scale", "arXiv 2509.01984", ("var",), "seconds")
    quick: ClassVar[Mapping[str, Any]] = {"guidance": 0.5}

    source: Annotated[str, Role("anchor")] = Field("", description="What the picture shows now; may be empty.")
    mode: Literal["invert", "fresh"] = Field(
        "invert", description="Draw with the noise that makes the picture under `source`, or with new noise."
    )
    start: int = Field(2, ge=0, le=64, description="Scales before this one keep the picture's tokens.")
    keep: Keep = Field("requantise", description="With a mask, what the kept part's codes are nearest to.")
    guidance: float = Field(4.0, ge=0, le=50, description="How hard to follow the prompts at the last scale.")
    top_k: int = Field(0, ge=0, description="How many tokens to draw from at each place; 0 is all.")
    top_p: float = Field(1.0, gt=0, le=1, description="Share of the probability to draw from; 1 is all of it.")
    smooth: bool = Field(False, description="Mix codes instead of drawing one: softer pictures.")
    paste: bool = Field(True, description="With a mask, put the kept pixels back in the end.")
    feather: Annotated[float, Unit("px")] = Field(
        2.0,
        ge=0,
        le=64,
        description="Width, on the new side, over which it is mixed with what was there.",
    )

    def sample(self, bundle: Bundle, ask: Ask, tap: Tap) -> Images:
        """Draw the picture of `ask` under its prompts: uint8 [B, 3, H, W]."""
        surface = self._surface(bundle, ask)
        found = Source.of(bundle, surface.pixels, len(ask))
        kept = dict(enumerate(found.tokens[: self.start]))
        more: dict[str, Any] = {"force": kept}
        if self.mode == "invert" and self.start < len(found.grids):
            more["noise"] = self._inverted(bundle, ask, found)
        course = retouch.Course(self.guidance, self.top_k, self.top_p, self.smooth, self.keep, more)
        images = retouch.redraw(bundle, ask, tap, surface, course, found)
        return surface.paste(images, self.feather) if self.paste and ask.mask is not None else images

    def _surface(self, bundle: Bundle, ask: Ask) -> Canvas:
        """The picture, new where the mask is white, or everywhere."""
        if ask.image is None:
            raise AskError("var-class-edit draws a picture again under another prompt; there is none. Give an image.")
        if ask.mask is not None:
            return canvas(bundle, ask, self.card.name)
        _, height, width = bundle.shapes.image
        return Canvas(signed(open_picture(ask.image), (width, height)), torch.ones(1, 1, height, width))

    def _inverted(self, bundle: Bundle, ask: Ask, found: Source) -> Any:
        """The noise of every scale, as draws of the race: one walk along the picture's tokens under `source`."""
        noise: dict[int, Tensor] = {}

        def note(k: int, like: Tensor) -> Tensor:
            """Take the logits [B, n, V] that the picture's tokens were drawn from, if they were."""
            rows = [torch.rand(like.shape[1:], generator=row_generator(seed, "gumbel", k), dtype=torch.float64)
                    for seed in ask.seeds]  # fmt: skip
            gumbel = rewind(like, found.tokens[k], torch.stack(rows).to(like.device))
            noise[k] = (-gumbel).exp()  # -log of an Exp(1) draw is Gumbel noise
            return noise[k]

        choice = scales.Choice(noise=note, force=dict(enumerate(found.tokens)))
        before = ask.but(prompts=(self.source,) * len(ask))
        retouch.quietly(bundle, before, choice, self.guidance)
        return lambda k, like: noise[k]
