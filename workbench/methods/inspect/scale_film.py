"""Scale film: the picture after each scale of a decoder by scale, and what each scale brings or leaves out.

Paper: Tian, Jiang, Yuan, Peng and Wang 2024, "Visual Autoregressive Modeling", arXiv 2404.02905, section 3.2: the state
after scale k is fhat_k = sum of phi_j(up(h_j)) over j <= k, and every prefix can be decoded.

Equations, with D the picture decoder and S scales:
    prefix      D(fhat_k), the picture so far
    addition    grey + (D(fhat_k) - D(fhat_{k-1})) / 2, what scale k changes in it
    without     D(fhat_S - (fhat_k - fhat_{k-1})), the finished picture without what scale k said (residual models only)
    change_k = rms(D(fhat_k) - D(fhat_{k-1})),   distance_k = rms(D(fhat_k) - D(fhat_S)),   in grey levels, 0..255
    share_k = |fhat_k - fhat_{k-1}|^2 / sum over k, how much of the latent's movement a scale makes

Differs: `without` and the shares are ours; a model that draws every scale anew (FlexVAR) has neither, since its state
is the last scale alone.

There are no official numbers. Licence of the reference: FoundationVision/VAR, MIT (read, not copied).
"""

from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from workbench.blocks.denoise import to_images
from workbench.core.bundle import Bundle
from workbench.core.errors import AskError
from workbench.core.method import Card, Lens
from workbench.core.report import Curve, Film, Report, Table
from workbench.core.scene import Scene
from workbench.core.tape import Step


class ScaleFilm(Lens):
    """Decode the picture after every scale."""

    card: ClassVar[Card] = Card("scale-film", "Scale film", "arXiv 2404.02905", ("var",), "seconds")

    show: Literal["prefix", "addition", "without"] = Field(
        "prefix", description="The picture so far, what each scale changes in it, or the end without what it said."
    )

    def look(self, scene: Scene) -> Report:
        """One film an image, how the picture settles, and what each scale counts for."""
        steps: list[Step] = []
        with torch.no_grad():
            scene.run(tap=steps.append)
            states = [step.x for step in steps if step.x is not None]
            if not states:
                raise AskError(f"{scene.sampler.card.name} shows no states, so there is no film of its scales.")
            whole = all(state.shape == states[0].shape for state in states) and _residual(scene.bundle)
            if self.show == "without" and not whole:
                raise AskError(f"{scene.bundle.name} draws every scale anew, so none can be left out. Show the prefix.")
            size = tuple(scene.bundle.decode(states[-1]).shape[-2:])
            prefixes = [decoded(scene.bundle, step.x0, size) for step in steps if step.x0 is not None]
            frames = self._frames(scene.bundle, prefixes, states)
        labels = tuple(f"scale {step.index + 1} of {step.total}, side {step.level:.0f}" for step in steps)
        films = [Film(np.stack([frame[row] for frame in frames]), labels, prompt)
                 for row, prompt in enumerate(scene.ask.prompts)]  # fmt: skip
        distance, change = settling(prefixes)
        sides = np.array([step.level for step in steps], dtype=np.float64)
        curve = Curve(sides, np.stack([distance, change]), ("distance to the end", "change by this scale"),
                      "How the picture settles", ("side of the scale", "grey levels, rms"))  # fmt: skip
        share = shares(states) if whole else None
        rows = tuple(
            (int(step.index + 1), float(step.level), round(float(distance[k]), 2), round(float(change[k]), 2),
             "" if share is None else round(float(share[k]), 4)) for k, step in enumerate(steps)
        )  # fmt: skip
        table = Table(("scale", "side", "distance to the end", "change", "share of the latent's movement"), rows,
                      "What each scale counts for")  # fmt: skip
        half = next(k for k, value in enumerate(distance) if value <= distance[0] / 2)
        return Report((*films, curve, table), {"first_distance": float(distance[0]), "half_scale": float(half + 1)})

    def _frames(self, bundle: Bundle, prefixes: list[np.ndarray], states: list[Tensor]) -> list[np.ndarray]:
        """What is shown of each scale: uint8 [B, H, W, 3]."""
        match self.show:
            case "prefix":
                return prefixes
            case "addition":
                return [added(after, before) for after, before in zip(prefixes, [None, *prefixes], strict=False)]
            case "without":
                before = [torch.zeros_like(states[0]), *states]
                size = prefixes[-1].shape[1:3]
                return [decoded(bundle, states[-1] - (after - earlier), size)
                        for after, earlier in zip(states, before, strict=False)]  # fmt: skip


def _residual(bundle: Bundle) -> bool:
    return bundle.about.get("prediction", "residual") == "residual"


def decoded(bundle: Bundle, state: Tensor, size: tuple[int, ...]) -> np.ndarray:
    """What a state shows, uint8 [B, H, W, 3] of a size (H, W); a coarse state's smaller picture is enlarged."""
    images = to_images(bundle.decode(state))
    if tuple(images.shape[-2:]) != size:
        images = F.interpolate(images, size=size, mode="nearest-exact")
    return images.permute(0, 2, 3, 1).cpu().numpy()


def added(after: np.ndarray, before: np.ndarray | None) -> np.ndarray:
    """Grey plus half of what changed, uint8; the first scale is shown whole."""
    if before is None:
        return after
    return np.clip(np.rint(127.5 + (after.astype(np.float64) - before) / 2), 0, 255).astype(np.uint8)


def settling(prefixes: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Distance of each picture to the last and to the one before (0 for the first), rms over all images [S]."""
    wide = np.stack(prefixes).astype(np.float64)
    axes = tuple(range(1, wide.ndim))
    distance = np.sqrt(np.square(wide - wide[-1]).mean(axes))
    change = np.sqrt(np.square(np.diff(wide, axis=0)).mean(axes))
    return distance, np.concatenate([[0.0], change])


def shares(states: list[Tensor]) -> np.ndarray:
    """How much of the squared movement of the latents [B, C, h, w] each scale makes; they sum to one."""
    before = [torch.zeros_like(states[0]), *states]
    moved = [float((after.double() - earlier.double()).square().sum())
             for after, earlier in zip(states, before, strict=False)]  # fmt: skip
    return np.array(moved) / max(sum(moved), 1e-300)
