"""Next-scale decoding: grids of tokens from coarse to fine, each predicted from all coarser ones.

Paper: Tian, Jiang, Yuan, Peng and Wang 2024, "Visual Autoregressive Modeling: Scalable Image Generation via Next-Scale
Prediction", arXiv 2404.02905 (NeurIPS 2024).

Equations, at scale k of S: logits l = (1 + t) l(c) - t l(none) with t = guidance k / (S - 1); tokens r ~ softmax of l
cut to its top_k largest, then to the nucleus top_p; fhat <- fhat + phi_k(up(e[r])). With `smooth` the codes are mixed
instead: e = sum_v w_v e_v, w = softmax((l (1 + k / (S - 1)) + Gumbel) / tau_k), tau_k from 0.27 down to 0.0135.

Differs from the original code: one generator an image, so a picture does not depend on its batch mates (one generator
for one picture is consumed as there, so the tokens are the same); top_p 1 and top_k 0 switch the cuts off; a cut keeps
equal logits together; keys and values are kept in one preallocated block, modulations are worked out once.
With `alone` each picture is computed on its own, so that not even the rounding depends on the batch; it is slower.

Official numbers: ImageNet 256, d16 310 M FID 3.55, d30 2.0 B FID 1.97 with guidance 1.5, top_p 0.96, top_k 900
(README); the demo draws with guidance 4, top_p 0.95.

Licence of the reference: FoundationVision/VAR, MIT (read, not copied), `VAR.autoregressive_infer_cfg`.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from workbench.blocks import scales
from workbench.core.ask import Ask
from workbench.core.bundle import Bundle, Images
from workbench.core.method import Card, Sampler
from workbench.core.tape import Tap


class Var(Sampler):
    """Decode scale by scale."""

    card: ClassVar[Card] = Card("var", "Next-scale decoding", "arXiv 2404.02905", ("var",), "seconds")
    quick: ClassVar[Mapping[str, Any]] = {"guidance": 1.5, "top_p": 0.9}

    guidance: float = Field(
        4.0, ge=0, le=50, description="How hard to follow the prompt at the last scale; it grows from 0 at the first."
    )
    top_k: int = Field(0, ge=0, description="How many tokens to draw from at each place; 0 is all.")
    top_p: float = Field(0.95, gt=0, le=1, description="Share of the probability to draw from; 1 is all of it.")
    temperature: float = Field(1.0, gt=0, le=10, description="Below 1 the likely tokens are drawn more often.")
    smooth: bool = Field(False, description="Mix codes instead of drawing one: softer pictures.")
    alone: bool = Field(False, description="Compute each picture on its own: the same bits in any batch, slower.")

    def sample(self, bundle: Bundle, ask: Ask, tap: Tap) -> Images:
        """Draw `ask`: uint8 [B, 3, H, W]."""
        scales.refuse_picture(ask, self.card.name)
        scales.own_size(bundle, ask)
        grids = scales.own_grids(bundle)
        guided = self.guidance > 0
        memory = scales.Memory(grids, len(ask) * (2 if guided else 1))
        choice = scales.Choice(self.top_k, self.top_p, self.temperature, self.smooth)
        run = scales.Descent(
            bundle, (scales.turn(bundle, ask, memory, guided),), scales.ramp(self.guidance, len(grids)), choice,
            scales.generators(bundle, ask), tap, alone=self.alone)  # fmt: skip
        x = scales.descend(run, scales.blank(bundle, len(ask), grids[-1]))
        return scales.pictures(bundle, x, alone=self.alone)
