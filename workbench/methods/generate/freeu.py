"""FreeU: stronger backbone, calmer skip connections.

Paper: Si, Huang, Jiang and Liu 2023, "FreeU: Free Lunch in Diffusion U-Net", arXiv 2309.11497 (CVPR 2024).

Equations, in the decoder's first two stages l (the deepest is 1), for backbone features x and skip features h:
    a_l = (b_l - 1) (m - min m) / (max m - min m) + 1,  m the mean of x over channels   (structure factor)
    x'_c = a_l x_c for the first half of the channels, x_c for the rest
    h' = IFFT(FFT(h) * M),  M = s_l on the lowest frequencies, 1 elsewhere

Differs: stages are found by the level of the skip sites, not by channel counts (1280, 640), so any UNet serves; a
constant mean map, whose factor the paper leaves undefined, gets factor b. With `structure` off, x' = b x, which is
the first version of the official code and what `enable_freeu` of diffusers does. As in both codes the frequency
window is two bins a side and holds -1 but not +1. A factor of 1 leaves its part untouched, bit for bit.

Official settings (diffusers' documentation): SD 1.5 b 1.5 1.6, s 0.9 0.2; SD 2.1 b 1.4 1.6, s 0.9 0.2; SDXL b 1.3
1.4, s 0.9 0.2. The paper reports user preference only.

Licence of the references: FreeU repository, S-Lab licence at first and MIT later (read, not copied), function
`Free_UNetModel.forward`; diffusers, Apache-2.0, function `apply_freeu`.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from workbench.core.bundle import Bundle, Site
from workbench.core.delta import Delta
from workbench.core.errors import MissingPart
from workbench.core.method import Card, Edit
from workbench.core.patch import Patch
from workbench.ops.fourier import scale_low


class FreeU(Edit):
    """Weigh backbone against skip connections in the two deepest decoder stages."""

    card: ClassVar[Card] = Card("freeu", "FreeU", "arXiv 2309.11497", ("unet",))
    neutral: ClassVar[Mapping[str, Any] | None] = {"b1": 1.0, "b2": 1.0, "s1": 1.0, "s2": 1.0}

    b1: float = Field(1.3, ge=0, le=4, description="Factor of the backbone in the deepest stage; 1 changes nothing.")
    b2: float = Field(1.4, ge=0, le=4, description="Factor of the backbone in the stage after it.")
    s1: float = Field(0.9, ge=0, le=4, description="Factor of the skips' lowest frequencies in the deepest stage.")
    s2: float = Field(0.2, ge=0, le=4, description="Factor of the skips' lowest frequencies in the stage after it.")
    structure: bool = Field(True, description="Strengthen the backbone most where its mean is high, not everywhere.")

    def patch(self, bundle: Bundle, delta: Delta, patch: Patch) -> None:
        """Hook every skip connection of the two deepest stages."""
        sites = bundle.sites("skip")
        if not sites:
            raise MissingPart(f"freeu weighs skip connections; {bundle.name} has none. Try a Stable Diffusion UNet.")
        levels = sorted({site.level for site in sites}, reverse=True)
        factors = dict(zip(levels, ((self.b1, self.s1), (self.b2, self.s2)), strict=False))
        for site in sites:
            if site.level in factors:
                patch.hook(site.module, self._weigh(site, *factors[site.level]), "before")

    def _weigh(self, site: Site, backbone: float, skip: float) -> Any:
        def before(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
            hidden, bridge = args[0].tensor_split([site.split], dim=1)
            joined = torch.cat([_strengthen(hidden, backbone, self.structure), scale_low(bridge, skip)], 1)
            return (joined, *args[1:]), kwargs

        return before


def _strengthen(x: Tensor, factor: float, structure: bool) -> Tensor:
    """Backbone features [B, C, h, w] with the first half of their channels scaled."""
    if factor == 1.0:
        return x
    scale: Tensor | float = factor
    if structure:
        mean = x.mean(1, keepdim=True)
        low, high = mean.amin((2, 3), keepdim=True), mean.amax((2, 3), keepdim=True)
        share = torch.where(high > low, (mean - low) / (high - low), 1.0)
        scale = ((factor - 1) * share + 1).to(x.dtype)
    half = x.shape[1] // 2
    return torch.cat([x[:, :half] * scale, x[:, half:]], 1)
