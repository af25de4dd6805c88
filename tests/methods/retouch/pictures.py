"""Pictures and masks in files, of the tiny VAR's size."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tests.tiny import tiny_var
from workbench.core.ask import Ask
from workbench.core.bundle import Bundle
from workbench.core.tape import Step

SIDE = 16


def picture(folder: Path, seed: int = 0) -> Path:
    """A smooth random picture."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    path = folder / f"picture-{seed}.png"
    Image.fromarray(small).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(path)
    return path


def mask(folder: Path, new: slice | None) -> Path:
    """White in the columns `new`, black elsewhere; None is all black."""
    values = np.zeros((SIDE, SIDE), np.uint8)
    if new is not None:
        values[:, new] = 255
    path = folder / f"mask-{new}.png".replace(" ", "").replace("(", "").replace(")", "").replace(",", "-")
    Image.fromarray(values).save(path)
    return path


def request(folder: Path, new: slice | None, **more: object) -> Ask:
    """Two images of two prompts over one picture."""
    values = {"prompts": ("class:1", "class:3"), "seeds": (5, 6), "image": picture(folder), "mask": mask(folder, new)}
    return Ask(**{**values, **more})


def drawn(method: object, ask: Ask, bundle: Bundle | None = None) -> tuple[Tensor, list[Tensor]]:
    """Pictures and the state after every scale."""
    states: list[Tensor] = []

    def tap(step: Step) -> None:
        assert step.x is not None
        states.append(step.x.clone())

    images = method.sample(bundle or tiny_var(), ask, tap)  # type: ignore[attr-defined]
    return images, states


def own_prefixes(ask: Ask, bundle: Bundle | None = None) -> list[Tensor]:
    """The states that the picture's own tokens make, one row."""
    bundle = bundle or tiny_var()
    pixels = torch.from_numpy(np.array(Image.open(ask.image))).permute(2, 0, 1)[None] / 127.5 - 1  # type: ignore[arg-type]
    return bundle.parts["vq"].quantise(bundle.encode(pixels)).prefixes
