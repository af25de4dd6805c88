"""Diversity: how different the pictures of one prompt are, in the eyes of a scorer.

Paper: Sadat et al. 2023, "CADS", arXiv 2310.17347, section 4, whose mean pairwise similarity this is, seen from the
other side; features after Radford et al. 2021, arXiv 2103.00020.

Equation: value = mean over prompts of the mean over its pairs i < j of 1 - cos(f_i, f_j);
interval by delete-one jackknife over the pictures (Efron 1982), cut to 0..2.

Differs: 1 - cosine, so more is more varied; features of the in-house scorer instead of SSCD; prompts weigh alike
whatever their number of pictures.

Official numbers do not compare: they depend on the features. There is no official code.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from workbench.core.ask import Ask
from workbench.core.bundle import Bundle, Images
from workbench.core.errors import AskError
from workbench.core.fields import Role
from workbench.core.method import Card, Metric
from workbench.core.report import Report, Table
from workbench.ops.stats import cosine_distances, jackknife


class Diversity(Metric):
    """Mean pairwise distance of features within a prompt."""

    card: ClassVar[Card] = Card("diversity", "Diversity", "arXiv 2310.17347", ("any",), "seconds")
    quick: ClassVar[Mapping[str, Any]] = {"within": "all"}
    unit: ClassVar[str] = "1 - cosine"
    better: ClassVar[Literal["higher", "lower"]] = "higher"

    scorer: Annotated[str, Role("model")] = Field("emoji-scorer", description="The model whose features are compared.")
    within: Literal["prompt", "all"] = Field("prompt", description="Pairs of the same prompt, or all pairs.")

    @torch.no_grad()
    def score(self, images: Images, ask: Ask, bundle: Bundle) -> Report:
        """The mean distance with its interval, and a line a prompt."""
        names = list(ask.prompts) if self.within == "prompt" else ["all"] * len(ask)
        if len(set(names)) == len(names):
            raise AskError(
                f"diversity compares pictures of the same prompt; none of the {len(names)} prompts comes twice. Draw "
                "several seeds of a prompt, or set within=all."
            )
        scorer = bundle.open(self.scorer)
        pixels = images.to(scorer.device).to(scorer.dtype) / 127.5 - 1
        distances = cosine_distances(torch.cat([scorer.encode(row) for row in pixels.split(1)]).float().cpu())
        value = mean_distance(distances, names)
        low, high = self._interval(distances, names, value)
        groups = {name: [i for i, other in enumerate(names) if other == name] for name in dict.fromkeys(names)}
        rows = tuple(
            (name, len(at), round(mean_distance(distances[at][:, at], [name] * len(at)), 4))
            for name, at in groups.items()
            if len(at) > 1
        )
        table = Table(("prompt", "pictures", "mean distance"), rows, "Diversity by prompt")
        return Report((table,), {"value": value, "low": low, "high": high, "count": len(names)})

    def _interval(self, distances: Tensor, names: list[str], value: float) -> tuple[float, float]:
        without: list[float] = []
        for i in range(len(names)):
            rest = [j for j in range(len(names)) if j != i]
            kept = [names[j] for j in rest]
            if len(set(kept)) == len(kept):
                return 0.0, 2.0  # a single pair says nothing about its own spread
            without.append(mean_distance(distances[rest][:, rest], kept))
        low, high = jackknife(value, torch.tensor(without, dtype=torch.float64))
        return max(0.0, low), min(2.0, high)


def mean_distance(distances: Tensor, names: Sequence[str]) -> float:
    """Mean over names of the mean distance of their pairs; names that come once are passed over."""
    means: list[float] = []
    for name in dict.fromkeys(names):
        at = [i for i, other in enumerate(names) if other == name]
        if len(at) > 1:
            means.append(distances[at][:, at].sum().item() / (len(at) * (len(at) - 1)))
    return sum(means) / len(means)
