"""Denoise film: the clean picture that the model predicts at each step.

Paper: Gandikota and Bau 2025, "Distilling Diversity and Control in Diffusion Models", arXiv 2503.10637, whose
"DT-visualization" shows what a step already has in mind; the quantity is as old as DDIM (arXiv 2010.02502, eq. 12).

Equations: x0 = (x_t - sqrt(1 - a_t) e) / sqrt(a_t) for a network that predicts noise, sqrt(a_t) x_t - sqrt(1 - a_t) v
for one that predicts velocity, x_t - sigma v for flow matching; taken after guidance, then decoded. A decoder by
scale shows its accumulated latent instead.
    change_i = rms(D(x0_i) - D(x0_{i-1})),   distance_i = rms(D(x0_i) - D(x0_last))   in grey levels, 0..255

Differs: the schedulers' own x0 is used, so clipping and thresholds show where a scheduler applies them.

There are no official numbers. Licence of the reference: rohitgandikota/distillation, MIT (read, not copied).
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field

from workbench.blocks.denoise import to_images
from workbench.core.errors import AskError
from workbench.core.method import Card, Lens
from workbench.core.report import Curve, Film, Report
from workbench.core.scene import Scene
from workbench.core.tape import Step


class DenoiseFilm(Lens):
    """Decode the predicted clean picture of every step."""

    card: ClassVar[Card] = Card(
        "denoise-film", "Denoise film", "arXiv 2503.10637", ("unet", "dit", "mmdit", "var"), "seconds"
    )
    quick: ClassVar[Mapping[str, Any]] = {"frames": 3}

    frames: int = Field(24, ge=2, le=200, description="At most so many steps are shown, evenly spread, with the last.")

    def look(self, scene: Scene) -> Report:
        """One film an image, and how much each step changed."""
        shown: list[tuple[Step, np.ndarray]] = []

        def tap(step: Step) -> None:
            if step.x0 is not None and step.index in chosen(step.total, self.frames):
                pixels = to_images(scene.bundle.decode(step.x0))
                shown.append((step, pixels.permute(0, 2, 3, 1).cpu().numpy()))

        with torch.no_grad():
            scene.run(tap=tap)
        if not shown:
            raise AskError(f"{scene.sampler.card.name} shows no clean picture at its steps, so there is no film of it.")
        labels = tuple(f"step {step.index + 1} of {step.total}, level {step.level:.0f}" for step, _ in shown)
        films = np.stack([pixels for _, pixels in shown], 1)  # [B, T, H, W, 3]
        panels = [Film(film, labels, title) for film, title in zip(films, scene.ask.prompts, strict=True)]
        steps = np.array([step.index + 1 for step, _ in shown], dtype=np.float64)
        distance, change = changes(films)
        curve = Curve(steps, np.stack([distance, change]), ("distance to the last", "change since the one before"),
                      "How the picture settles", ("step", "grey levels, rms"))  # fmt: skip
        half = steps[np.argmax(distance <= distance[0] / 2)] if distance[0] > 0 else steps[0]
        numbers = {"first_distance": float(distance[0]), "half_step": float(half)}
        return Report((*panels, curve), numbers)


def chosen(total: int, most: int) -> set[int]:
    """Indices of at most `most` of `total` steps, evenly spread, with the first and the last."""
    if total <= most:
        return set(range(total))
    return {round(i * (total - 1) / (most - 1)) for i in range(most)}


def changes(films: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance of each frame to the last and to the one before (0 for the first), rms grey levels over images [T]."""
    wide = films.astype(np.float64)
    axes = (0, 2, 3, 4)
    distance = np.sqrt(np.square(wide - wide[:, -1:]).mean(axes))
    change = np.sqrt(np.square(np.diff(wide, axis=1)).mean(axes))
    return distance, np.concatenate([[0.0], change])
