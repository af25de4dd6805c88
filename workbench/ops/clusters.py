"""A few points that stand for many."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# torch.cdist carries no types

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.core.errors import AskError


def kmeans(
    points: Float[Tensor, "n d"], k: int, *, seed: int = 0, rounds: int = 100
) -> tuple[Float[Tensor, "k d"], Int[Tensor, " n"]]:
    """Lloyd's centres (float64) and each point's cluster, from k-means++ starts drawn with a generator of its own.

    A cluster that runs empty takes the point farthest from its centre, so all k are used; asks for at most n clusters.
    Raises `AskError` for k outside 1..n.
    """
    if not 1 <= k <= len(points):
        raise AskError(f"{k} clusters were asked for among {len(points)} points; give 1 to {len(points)}.")
    points = points.double()
    centres = _starts(points, k, torch.Generator().manual_seed(seed))
    nearest = torch.full((len(points),), -1, device=points.device)
    for _ in range(rounds):
        gaps, labels = torch.cdist(points, centres).min(1)
        for empty in (i for i in range(k) if not (labels == i).any()):
            labels[int(gaps.argmax())] = empty
            gaps[int(gaps.argmax())] = 0.0
        if torch.equal(labels, nearest):
            break
        nearest = labels
        members = torch.nn.functional.one_hot(nearest, k).to(points)
        centres = (members.T @ points) / members.sum(0)[:, None]
    return centres, nearest


def _starts(points: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """k-means++: each further start is drawn with a chance proportional to its squared distance to the nearest."""
    chosen = [int(torch.randint(len(points), (1,), generator=generator))]
    gaps = (points - points[chosen[0]]).square().sum(1)
    while len(chosen) < k:
        weights = gaps.cpu()
        spread = bool(weights.sum() > 0)
        pick = torch.multinomial(weights if spread else torch.ones_like(weights), 1, generator=generator)
        chosen.append(int(pick))
        gaps = torch.minimum(gaps, (points - points[chosen[-1]]).square().sum(1))
    return points[chosen].clone()
