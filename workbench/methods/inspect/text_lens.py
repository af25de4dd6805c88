"""Text lens: what the picture would be if the text encoder stopped after each of its layers.

Paper: Toker, Orgad, Ventura, Arad and Belinkov 2024, "Diffusion Lens: Interpreting Text Encoders in Text-to-Image
Pipelines", arXiv 2403.05846 (ACL 2024).

Equation: h_l = the text's hidden states after layer l, put through the encoder's final norm and shown to the network
as if they were its output; the same seed and sampler for every l. The last layer's picture is the ordinary one.

Differs: the layers after l pass their input on (the edit `clip-skip`) instead of the states being read out, which is
the same thing and leaves the encoder's own way to its output as it is (SDXL reads the layer before the last, without
the norm); a model with several encoders leaves out as many layers of each. The negative prompt is read so, too.

There are no official numbers that compare. Licence of the reference: tokeron/DiffusionLens, MIT (not read).
"""

from typing import ClassVar, cast

import numpy as np
from pydantic import Field

from workbench.blocks.towers import towers
from workbench.core.catalog import method
from workbench.core.method import Card, Edit, Lens
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
        deepest = min(map(len, towers(scene.bundle)))
        count = min(self.most, deepest)
        shown = sorted({round(1 + i * (deepest - 1) / max(count - 1, 1)) for i in range(count)})
        drawn = []
        for last in shown:
            stop = cast(Edit, method("clip-skip", skip=deepest - last))
            images = scene.run(edits=(*scene.edits, stop))
            drawn.append(images.permute(0, 2, 3, 1).cpu().numpy())
        films = np.stack(drawn, 1)  # [B, T, H, W, 3]
        labels = tuple(f"layer {last} of {deepest}" for last in shown)
        panels = [Film(film, labels, prompt) for film, prompt in zip(films, scene.ask.prompts, strict=True)]
        apart = np.sqrt(np.square(films.astype(np.float64) - films[:, -1:]).mean((0, 2, 3, 4)))
        curve = Curve(np.array(shown, dtype=np.float64), apart[None], ("distance to the last layer",),
                      "Where the picture comes about in the text", ("layer", "grey levels, rms"))  # fmt: skip
        return Report((*panels, curve), {"layers": float(deepest), "first_distance": float(apart[0])})
