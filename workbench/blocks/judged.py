"""What a scorer is shown: the pictures of a scene, and the model of the clip family that looks at them."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# torch's norm, unique and from_numpy carry no types

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from workbench.blocks.pictures import open_picture
from workbench.core.attend import Attention
from workbench.core.bundle import Bundle, Images, Site
from workbench.core.errors import AskError, MissingPart, PatchError
from workbench.core.patch import Patch
from workbench.core.scene import Scene


def scorer_of(scene: Scene, name: str) -> Bundle:
    """The scene's own model where that is a scorer, or the one of that name. Raises `MissingPart` for another kind."""
    found = scene.bundle if scene.bundle.family == "clip" else scene.bundle.open(name)
    if found.family != "clip":
        raise MissingPart(f"{name} is of family {found.family}; a scorer is of family clip. Try emoji-scorer.")
    return found


def pictures_of(scene: Scene) -> Images:
    """The pictures of a scene: drawn by its model, or its own file where the model is a scorer and draws none."""
    if scene.bundle.family != "clip":
        return scene.run()
    if scene.ask.image is None:
        raise AskError(f"{scene.bundle.name} draws no pictures. Give it one to look at: --image FILE.")
    pixels = torch.from_numpy(open_picture(scene.ask.image).copy()).permute(2, 0, 1)[None]
    return pixels.expand(len(scene.ask), -1, -1, -1)


def vision_sites(scorer: Bundle) -> tuple[Site, ...]:
    """The self-attentions of a scorer's picture tower, in order: those with as many tokens as patches and a start."""
    return _tower(scorer, "vision")


def text_sites(scorer: Bundle) -> tuple[Site, ...]:
    """The self-attentions of a scorer's text tower, in order."""
    return _tower(scorer, "text")


def _tower(scorer: Bundle, name: str) -> tuple[Site, ...]:
    found = tuple(site for site in scorer.sites("self-attention") if site.path.startswith(name))
    if not found:
        raise MissingPart(f"{scorer.name} has no self-attention in a tower called {name}.")
    return found


def patches(scorer: Bundle) -> tuple[int, int]:
    """Rows and columns of a scorer's patches; its first token stands for the whole picture."""
    side = round((int(vision_sites(scorer)[0].tokens or 1) - 1) ** 0.5)
    return side, side


def pixels_of(images: Images, scorer: Bundle) -> Float[Tensor, "B 3 H W"]:
    """Pictures as the scorer takes them, -1..1."""
    return images.to(scorer.device, scorer.dtype) / 127.5 - 1


def under(images: Images) -> list[np.ndarray]:
    """Each picture as an array [H, W, 3], to lie beneath a map."""
    return [np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy()) for image in images]


@dataclass
class Traced:
    """Softmax weights [B, A, N, L] of sites in the order of their calls, kept in the graph."""

    weights: list[Tensor] = field(default_factory=list[Tensor])

    def gradients(self, value: Tensor) -> tuple[Tensor, ...]:
        """The gradient of the sum of `value` with respect to each site's weights."""
        return torch.autograd.grad(value.sum(), self.weights, allow_unused=False)


@contextmanager
def traced(bundle: Bundle, sites: Sequence[Site]) -> Generator[Traced, None, None]:
    """Compute the sites' attention explicitly in the body, so that its weights have gradients.

    softmax(q k^T) v by hand differs from the fused kernel by rounding alone. Nothing needs a gradient but the weights:
    the graph starts at the first site's input. Raises `PatchError` afterwards when no call was seen.
    """
    kept = Traced()

    def attend(call: Attention) -> Tensor:
        weights = call.weights()
        kept.weights.append(weights)
        value = call.value.repeat_interleave(call.query.shape[1] // call.value.shape[1], dim=1)
        return (weights @ value.float()).to(call.query.dtype)

    def start(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        states = args[0] if args else next(iter(kwargs.values()))
        if not states.requires_grad:
            states.requires_grad_(True)

    with Patch(bundle) as patch, torch.enable_grad():
        patch.hook(sites[0].module, start, "before")
        for site in sites:
            patch.attend(site, attend)
        yield kept
        if not kept.weights:
            raise PatchError(f"No call of {sites[0].name} was seen, so there is nothing to trace.")
