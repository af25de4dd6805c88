"""Clip skip: stop the text encoder some layers before its end.

Paper: none for the habit, which began with models trained on the state after the layer before the last; its effect
layer by layer is the subject of Toker et al. 2024, "Diffusion Lens", arXiv 2403.05846.

Equation: with L layers the text's states are norm(h_{L - skip}) instead of norm(h_L), h_l being the hidden states after
layer l and norm the encoder's final one.

Differs: the skipped layers pass their input on, so that the encoder's own way to its output stays as it is and the
pooled text follows. We count from the last layer for every model, where diffusers' `clip_skip` counts from the layer
that a model reads: Stable Diffusion XL reads the one before the last, without the norm, so 1 changes its pooled text
alone. Several encoders are stopped by the same number of layers.

There are no official numbers. Licence of the reference: diffusers, Apache-2.0 (read, not copied), `encode_prompt`.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from workbench.blocks.towers import pass_on, towers
from workbench.core.bundle import Bundle
from workbench.core.delta import Delta
from workbench.core.errors import AskError
from workbench.core.method import Card, Edit
from workbench.core.patch import Patch


class ClipSkip(Edit):
    """Read the prompt with fewer layers."""

    card: ClassVar[Card] = Card("clip-skip", "Clip skip", "arXiv 2403.05846", ("unet", "dit", "mmdit"))
    quick: ClassVar[Mapping[str, Any]] = {"skip": 1}
    neutral: ClassVar[Mapping[str, Any] | None] = {"skip": 0}

    skip: int = Field(1, ge=0, le=96, description="How many of the text encoder's last layers to leave out; 0 none.")

    def patch(self, bundle: Bundle, delta: Delta, patch: Patch) -> None:
        """The last layers give back what they are given."""
        for layers in towers(bundle) if self.skip else ():
            if self.skip >= len(layers):
                raise AskError(
                    f"clip-skip: skip is {self.skip}; a text encoder of {bundle.name} has {len(layers)} layers, so at "
                    f"most {len(layers) - 1} can be left out."
                )
            for layer in layers[len(layers) - self.skip :]:
                patch.hook(layer, pass_on)
