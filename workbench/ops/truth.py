"""Maps measured against true masks, and the maps that know nothing: what any measure has to beat.

Maps are [h, w] with high values where something is said to be; masks are boolean and of the same size. `kept` leaves
places out, such as the band around an object's border.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# torch's norm, unique and from_numpy carry no types

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.core.errors import AskError


def average_precision(scores: Float[Tensor, " n"], truth: Bool[Tensor, " n"]) -> float:
    """Sum over thresholds of (recall - recall before) x precision; equal scores are passed together.

    A constant score gives the share of true places, a perfect order 1.

    >>> round(average_precision(torch.tensor([3.0, 2.0, 1.0]), torch.tensor([True, False, True])), 4)
    0.8333

    Raises `AskError` when nothing is true.
    """
    total = int(truth.sum())
    if not total:
        raise AskError("The mask is empty, so no precision can be taken. Leave this scene out.")
    ordered, order = scores.sort(descending=True, stable=True)
    hits = truth[order].cumsum(0).float()
    ends = torch.cat([ordered[1:] != ordered[:-1], torch.ones(1, dtype=torch.bool, device=scores.device)])
    ranks = torch.arange(1, len(scores) + 1, device=scores.device)[ends]
    gained = hits[ends].diff(prepend=hits.new_zeros(1)) / total
    return float((gained * hits[ends] / ranks).sum())


def pointing(values: Float[Tensor, "h w"], truth: Bool[Tensor, "h w"], tolerance: int = 1) -> float:
    """Whether the map's peak lies in the mask or within `tolerance` cells of it; of equal peaks, the share that does.

    >>> pointing(torch.eye(4), torch.eye(4) > 0, 0)
    1.0
    """
    near = F.max_pool2d(truth[None].float(), 2 * tolerance + 1, 1, tolerance)[0] > 0
    return float(near[values == values.max()].float().mean())


def energy(values: Float[Tensor, "h w"], truth: Bool[Tensor, "h w"]) -> float:
    """Share of the map's mass, cut at 0, that lies in the mask; a map without mass gives 0."""
    mass = values.clamp_min(0)
    total = float(mass.sum())
    return float(mass[truth].sum()) / total if total else 0.0


def overlap(values: Float[Tensor, " n"], truth: Bool[Tensor, " n"], threshold: float) -> float:
    """Intersection over union of the mask and the places whose value, spread to 0..1, reaches the threshold."""
    reach = values.max() - values.min()
    said = (values - values.min()) >= threshold * reach
    union = int((said | truth).sum())
    return int((said & truth).sum()) / union if union else 0.0


def best_overlap(values: Float[Tensor, " n"], truth: Bool[Tensor, " n"], count: int = 50) -> float:
    """The greatest intersection over union that any of `count` thresholds reaches."""
    return max(overlap(values, truth, (i + 1) / (count + 1)) for i in range(count))


def binding(maps: Float[Tensor, "o h w"], masks: Bool[Tensor, "o h w"]) -> Float[Tensor, "o o"]:
    """Share of word i's mass in object j's mask; the diagonal is what each word should have."""
    return torch.tensor([[energy(values, mask) for mask in masks] for values in maps])


def bound(matrix: Float[Tensor, "o o"]) -> bool:
    """Whether every word has more of its mass in its own object than in any other."""
    own = matrix.diagonal()
    others = matrix.masked_fill(torch.eye(len(matrix), dtype=torch.bool, device=matrix.device), -1.0)
    return bool((own > others.amax(1)).all())


def centred(size: tuple[int, int], width: float = 0.25) -> Float[Tensor, "h w"]:
    """A Gaussian about the middle whose deviation is `width` of each side: the guess that things are central."""
    rows, columns = (torch.linspace(-0.5 + 0.5 / side, 0.5 - 0.5 / side, side) for side in size)
    return torch.exp(-(rows[:, None] ** 2 + columns[None] ** 2) / (2 * width**2))


def correlation(one: Float[Tensor, " n"], other: Float[Tensor, " n"]) -> float:
    """Spearman's rank correlation, equal values sharing their mean rank; 0 where one of both is constant.

    >>> round(correlation(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 4.0, 9.0])), 6)
    1.0
    """
    x, y = (_ranks(values.double()) for values in (one, other))
    x, y = x - x.mean(), y - y.mean()
    size = float(x.norm() * y.norm())
    return float(x @ y) / size if size else 0.0


def _ranks(values: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    _, groups, counts = values.unique(return_inverse=True, return_counts=True)
    ends = counts.cumsum(0).double()
    return (ends - (counts - 1) / 2)[groups]
