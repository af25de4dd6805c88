"""Pictures of the same seeds drawn in several ways: side by side, how far apart, and what the judge says of each."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from workbench.core.bundle import Images
from workbench.core.catalog import find
from workbench.core.errors import AskError, MissingPart
from workbench.core.method import Metric
from workbench.core.scene import Scene


def judged(scene: Scene, images: Images) -> dict[str, float]:
    """The judge's shares of right `object`s and `style`s; empty where there is no judge or nothing that it knows."""
    metric = find("judge-accuracy")()
    try:
        if not isinstance(metric, Metric):
            return {}
        found = metric.score(images, scene.ask, scene.bundle).numbers
    except (AskError, MissingPart):
        return {}
    return {ours: found[theirs] for theirs, ours in (("value", "object"), ("style", "style")) if theirs in found}


def distance(images: Images, other: Images) -> float:
    """Root mean square difference in grey levels, 0..255."""
    return float((images.double() - other.double()).square().mean().sqrt())


def sheet(rows: Sequence[Sequence[UInt8[Tensor, "3 H W"]]]) -> UInt8[np.ndarray, "h w 3"]:
    """Rows of pictures of one size as one picture; shorter rows end in white, empty ones are left out."""
    filled = [row for row in rows if len(row)]
    most, blank = max(map(len, filled)), torch.full_like(filled[0][0], 255)
    lines = [torch.cat([*row, *[blank] * (most - len(row))], 2) for row in filled]
    return np.ascontiguousarray(torch.cat(lines, 1).permute(1, 2, 0).cpu().numpy())
