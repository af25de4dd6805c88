"""ResAdapter: a small adapter of a network's sampling layers and norms that lets it draw at other sizes.

Paper: Cheng, Xie, Xia, Li, Wu, Ren, Xiao, Xu and Wang 2024, "ResAdapter: Domain Consistent Resolution Adapter for
Diffusion Models", arXiv 2403.02084 (AAAI 2025).

Equations: at every down- and upsampling convolution  y = W x + w (alpha / r) up down x  (Res-LoRA), and every norm of
the residual blocks has  n0 + w (n1 - n0)  in the place of its scale and shift n0 (Res-Norm), w the strength.

Differs: the authors replace the norms whole and scale the convolutions alone, so their strength below 1 leaves the
norms at 1; `norms` gives that back when it is set apart. Nothing is written into the model: the changed norms are an
addition too, since a norm is linear in what it scales and shifts by. Any adapter is taken, and other layers that its
file may change follow `strength`.

Official settings: strength 1 below the trained size, 0.3 to 0.7 above it; sizes 128 to 1024 for SD 1.5 and 256 to 1536
for SDXL. Official numbers: FID on LAION, at sizes that the shipped model does not have.

Licence of the reference: bytedance/res-adapter, Apache-2.0 (read, not copied), function `load_resadapter`.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field

from workbench.blocks import composing
from workbench.blocks.adapters import attach, attach_dense, read_adapter
from workbench.blocks.gates import scalar
from workbench.core.bundle import Bundle
from workbench.core.delta import Delta
from workbench.core.fields import Role
from workbench.core.method import Card, Edit
from workbench.core.patch import Patch


class ResAdapter(Edit):
    """Draw at sizes the model was not trained for, with a ResAdapter's files."""

    card: ClassVar[Card] = Card("res-adapter", "ResAdapter", "arXiv 2403.02084", ("unet",))
    quick: ClassVar[Mapping[str, Any]] = {"adapters": composing.TWO[:1]}
    neutral: ClassVar[Mapping[str, Any] | None] = {"strength": 0.0, "norms": 0.0}

    adapters: Annotated[tuple[str, ...], Role("adapter")] = Field(
        min_length=1, max_length=1, description="A folder with the convolutions' and the norms' files, or one file."
    )
    strength: float = Field(1.0, ge=0, le=2, description="How much of the convolutions' change; 0 none of it.")
    norms: float | None = Field(None, ge=0, le=2, description="How much of the norms' change; empty follows strength.")

    def patch(self, bundle: Bundle, delta: Delta, patch: Patch) -> None:
        """Hang convolutions and norms on the model, each at its strength."""
        adapter = read_adapter(bundle, self.adapters[0])
        norms = {key: value for key, value in adapter.dense.items() if value.ndim < 2}
        rest = {key: value for key, value in adapter.dense.items() if value.ndim >= 2}
        attach(patch, bundle, adapter.low_rank, scalar(self.strength))
        attach_dense(patch, bundle, rest, scalar(self.strength))
        attach_dense(patch, bundle, norms, scalar(self.strength if self.norms is None else self.norms))
