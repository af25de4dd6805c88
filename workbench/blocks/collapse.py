"""Whether an edit broke a model, or did nothing: judged on pairs of pictures of the same prompts and seeds."""

import torch
from jaxtyping import Bool
from torch import Tensor

from workbench.blocks.judging import Seen
from workbench.ops.stats import cosine_distances

#: Shares of the unedited model's value below (above) which something is broken.
ACCURACY, SPREAD, DIVERSITY, ROUGH = 0.5, 0.4, 0.4, 3.0
#: Fewer right pictures of the unedited model than this say nothing about accuracy.
LEAST_RIGHT = 4


def collapsed(before: Seen, after: Seen, right: Bool[Tensor, " n"], still: Bool[Tensor, " n"]) -> tuple[str, ...]:
    """What is broken in control pictures, one line each; empty when nothing is.

    `right` and `still` say which pictures the judge named rightly before and after. Looked for: half of the right ones
    lost, flat pictures, noise, and pictures that are all alike.
    """
    found: list[str] = []
    had, kept = int(right.sum()), int((right & still).sum())
    if had >= LEAST_RIGHT and kept < ACCURACY * had:
        found.append(f"of {had} control pictures the judge named rightly, {kept} still are")
    flat = float(after.spread.median()) / max(float(before.spread.median()), 1e-9)
    if flat < SPREAD:
        found.append(f"pictures are flat: their contrast fell to {flat:.0%}")
    noise = float(after.rough.median()) / max(float(before.rough.median()), 1e-9)
    if noise > ROUGH:
        found.append(f"pictures are noisy: neighbouring pixels differ {noise:.1f} times as much")
    if len(before) >= 8 and before.features.shape[1] > 1:
        first, second = _variety(before), _variety(after)
        if second < DIVERSITY * first:
            found.append(f"pictures are alike: the distance between their features fell to {second / first:.0%}")
    return tuple(found)


def idle(before: Seen, after: Seen) -> bool:
    """Whether the pictures of the target are, byte for byte or nearly (1 of 255 on average), what they were."""
    gap = (before.pictures.float() - after.pictures.float()).abs().mean()
    return bool(gap <= 1.0) and torch.allclose(before.spread, after.spread, atol=1 / 255)


def _variety(seen: Seen) -> float:
    distances = cosine_distances(seen.features)
    return float(distances.sum() / (len(distances) * (len(distances) - 1)))
