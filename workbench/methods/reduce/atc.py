"""Agglomerative token clustering: the tokens of a block merge from the bottom up, pair by pair.

Paper: Haurum, Escalera, Taylor and Moeslund 2024, "Agglomerative Token Clustering", arXiv 2409.11923 (ECCV 2024).

Equations: d(i, j) = 1 - cos(x_i, x_j) on a block's input; r = int(ratio N) times the two nearest clusters join, with
the distance between clusters U and V that of their nearest tokens (single), their farthest (complete) or the mean
over pairs (average). With M the mean of each cluster and U the copy back, x <- x + U(attention(M(norm(x)))).

Differs: first r merges of scipy's tree instead of scikit-learn's cut of it, which gives the same partition; plain
means, as in the paper's setting for Stable Diffusion (its classifiers weigh by size and add log sizes to the logits).
The function of the official code for Stable Diffusion cannot run (an undefined name), so the tests compare with
scikit-learn. Clusters are found on the CPU, so this shows what good merging would keep; it does not save time.

Official numbers: FID of Stable Diffusion by ratio, in the paper; not compared here.

Licence of the reference: JoakimHaurum/ATC, MIT (read, not copied), function `agglomerative_clustering`.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from workbench.blocks.merging import Merger, Part, Spot
from workbench.core.bundle import Bundle
from workbench.core.delta import Delta
from workbench.core.errors import AskError
from workbench.core.method import Card, Edit
from workbench.core.patch import Patch
from workbench.ops.tokens import Merging, cut

MOST = 4096


class Atc(Edit):
    """Merge tokens into clusters grown from the bottom up."""

    card: ClassVar[Card] = Card("atc", "Agglomerative token clustering", "arXiv 2409.11923", ("unet", "dit", "mmdit"))
    neutral: ClassVar[Mapping[str, Any] | None] = {"ratio": 0.0}

    ratio: float = Field(0.5, ge=0, lt=1, description="Share of the tokens that merge away.")
    linkage: Literal["single", "complete", "average"] = Field(
        "average", description="Distance of two clusters: of their nearest tokens, their farthest, or the mean."
    )
    parts: tuple[Part, ...] = Field(("self",), min_length=1, description="What works on merged tokens.")
    level: int | None = Field(None, ge=0, le=8, description="Halvings up to which to merge; none is the finest level.")

    def patch(self, bundle: Bundle, delta: Delta, patch: Patch) -> None:
        """Merge in the blocks of the chosen levels."""
        merger = Merger(bundle, self._plan, parts=self.parts, level=self.level)
        if self.ratio > 0:
            merger.attach(patch)

    def _plan(self, x: Tensor, spot: Spot, drawn: Tensor | None) -> Merging | None:
        if spot.tokens > MOST:
            raise AskError(
                f"atc was to cluster {spot.tokens:,} tokens a block; it takes up to {MOST:,}, as its time grows with "
                "their square. Draw smaller, or take tome or todo."
            )
        count = int(spot.tokens * self.ratio)
        if not count:
            return None
        labels = [clusters(row, count, self.linkage) for row in x]
        return Merging.of(torch.tensor(labels, device=x.device), spot.tokens - count)


def clusters(x: Float[Tensor, "N C"], count: int, linkage: str) -> list[int]:
    """The cluster of each token after `count` merges by cosine distance."""
    from scipy.cluster import hierarchy

    unit = F.normalize(x.double().cpu(), dim=-1)
    rows, columns = torch.triu_indices(len(x), len(x), 1)
    distances = (1 - unit @ unit.T)[rows, columns].clamp_min(0)
    tree = hierarchy.linkage(distances.numpy(), linkage)
    return cut([(int(one), int(other)) for one, other in tree[:count, :2]], len(x))
