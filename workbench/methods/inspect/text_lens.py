"""Text lens: what the picture would be if the text encoder stopped after each of its layers.

Paper: Toker, Orgad, Ventura, Arad and Belinkov 2024, "Diffusion Lens: Interpreting Text Encoders in Text-to-Image
Pipelines", arXiv 2403.05846 (ACL 2024).

Equation: h_l = the text's hidden states after layer l, put through the encoder's final norm and shown to the network
as if they were its output; the same seed and sampler for every l. The last layer's picture is the ordinary one.

Differs: the layers after l pass their input on instead of the states being read out, which is the same thing and
leaves the encoder's own way to its output (SDXL reads the layer before the last, without the norm) as it is; a model
with several encoders stops them all after the same layer. Both the prompt and the negative prompt are stopped.

There are no official numbers that compare. Licence of the reference: tokeron/DiffusionLens, MIT (not read).
"""

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import nn

from workbench.core.errors import MissingPart
from workbench.core.method import Card, Lens
from workbench.core.patch import Patch
from workbench.core.report import Curve, Film, Report
from workbench.core.scene import Scene


class TextLens(Lens):
    """Draw from each layer of the text encoder."""

    card: ClassVar[Card] = Card(
        "text-lens", "Text lens (Diffusion Lens)", "arXiv 2403.05846", ("unet", "dit", "mmdit"), "minutes"
    )

    most: int = Field(12, ge=2, le=48, description="At most so many layers are shown, evenly spread, with the last.")

    def look(self, scene: Scene) -> Report:
        """A film an image with a frame a layer, and how far each is from the last."""
        towers = [layers(part) for name, part in scene.bundle.parts.items() if name.startswith("text")]
        towers = [tower for tower in towers if tower is not None]
        if not towers:
            raise MissingPart(f"{scene.bundle.name} has no text encoder with layers to look between.")
        deepest = max(map(len, towers))
        count = min(self.most, deepest)
        shown = sorted({round(1 + i * (deepest - 1) / max(count - 1, 1)) for i in range(count)})
        drawn = []
        for last in shown:
            images = scene.run(record=lambda patch, last=last: stop_after(patch, towers, last))
            drawn.append(images.permute(0, 2, 3, 1).cpu().numpy())
        films = np.stack(drawn, 1)  # [B, T, H, W, 3]
        labels = tuple(f"layer {last} of {deepest}" for last in shown)
        panels = [Film(film, labels, prompt) for film, prompt in zip(films, scene.ask.prompts, strict=True)]
        apart = np.sqrt(np.square(films.astype(np.float64) - films[:, -1:]).mean((0, 2, 3, 4)))
        curve = Curve(np.array(shown, dtype=np.float64), apart[None], ("distance to the last layer",),
                      "Where the picture comes about in the text", ("layer", "grey levels, rms"))  # fmt: skip
        return Report((*panels, curve), {"layers": float(deepest), "first_distance": float(apart[0])})


def layers(part: nn.Module) -> nn.ModuleList | None:
    """The layers of an encoder: its outermost list of modules, None where there is none."""
    return next((module for module in part.modules() if isinstance(module, nn.ModuleList) and len(module)), None)


def stop_after(patch: Patch, towers: list[nn.ModuleList], last: int) -> None:
    """Let every layer after the `last` (counted from 1) pass on what it is given."""
    for tower in towers:
        for layer in list(tower)[last:]:
            patch.hook(layer, _pass_on(), "after")


def _pass_on() -> Callable[..., Any]:
    def after(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        given = args[0] if args else next(value for value in kwargs.values() if isinstance(value, torch.Tensor))
        return (given, *output[1:]) if isinstance(output, tuple) else given

    return after
