"""Merge: several adapters as one change of the weights, by the rules that everyone knows.

Papers: Ilharco et al. 2022, "Editing Models with Task Arithmetic", arXiv 2212.04089 (sum); Yadav, Tam, Choshen, Raffel
and Bansal 2023, "TIES-Merging: Resolving Interference When Merging Models", arXiv 2306.01708; Yu, Yu, Yu, Huang and Li
2023, "Language Models are Super Mario" (DARE), arXiv 2311.03099.

Equations, for the changes t_i of one matrix and weights w_i, with top(t, p) the share p of largest entries, else 0:
    sum         sum w_i t_i                                        exact, as narrow as the adapters together
    svd         the nearest matrix of rank r to the sum            r: the highest of the adapters' unless `rank` says
    magnitude   sum w_i top(t_i, p)
    ties        mean over {i: sign t'_i = s} of w_i t'_i,          t'_i = top(t_i, p), s = sign sum t'_i
    dare        sum w_i t_i b_i / p,                               b_i = 1 with probability p, else 0
    dare-ties   the mean of ties over t_i b_i / p

Differs from the usual library in what is called `linear` there: it adds factors, (sum B_i)(sum A_i), whose cross terms
B_i A_j belong to no adapter (relative error 0.98 measured with two random ones); here every rule works on products. The
scale of each file (alpha / r, or alpha / sqrt r) is applied once. What DARE drops follows from a fixed seed, the matrix
and the adapter. TIES takes a mean, so two adapters that touch different entries keep their size, but two that agree
are averaged: expect about two thirds of each, and raise the weights.

Official numbers: none for pictures. Density 0.2 is the TIES paper's default.

Licence of the reference: peft, Apache-2.0 (read, not copied), functions `ties`, `dare_linear`, `dare_ties` and
`magnitude_prune`, to which the tests hold these.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from workbench.blocks import composing
from workbench.core.bundle import Bundle
from workbench.core.delta import Delta
from workbench.core.method import Card, Edit
from workbench.core.tape import Tap
from workbench.ops import merging_adapters as rules
from workbench.ops.noise import row_generator

Rule = Literal["sum", "svd", "ties", "dare", "dare-ties", "magnitude"]


class Merge(Edit):
    """Put several adapters into the weights as one change."""

    card: ClassVar[Card] = Card("merge", "Merge adapters", "arXiv 2306.01708", composing.FAMILIES, cost="seconds")
    neutral: ClassVar[Mapping[str, Any] | None] = {"strength": 0.0}
    quick: ClassVar[Mapping[str, Any]] = {"adapters": composing.TWO}

    adapters: composing.Adapters
    weights: composing.Weights = ()
    strength: composing.Strength = 1.0
    rule: Rule = Field("sum", description="How changes of one matrix become one.")
    density: float = Field(0.2, gt=0, le=1, description="Share of entries that ties, dare and magnitude keep.")
    rank: int = Field(
        0, ge=0, le=1024, description="Highest rank of the result; 0 keeps all, for svd the adapters' own highest."
    )
    seed: int = Field(0, ge=0, le=2**32, description="What dare's choice of entries follows from.")

    def fit(self, bundle: Bundle, tap: Tap) -> Delta:
        """The merged change of every matrix, as factors where the rule or `rank` leaves them."""
        found = composing.read(bundle, self)
        if self.rule in ("sum", "svd"):
            whole = found.sum()
            rank = self.rank or (found.highest if self.rule == "svd" else 0)
            return found.delta(whole.truncated(rank) if rank else whole)
        return composing.merged(bundle, self, composing.dense(self.combined, self.rank))

    def combined(self, key: str, changes: Float[Tensor, "n o k"], weights: Sequence[float]) -> Float[Tensor, "o k"]:
        """One matrix's merged change by a rule on dense changes."""
        if self.rule == "ties":
            return rules.ties(changes, weights, self.density)
        if self.rule == "magnitude":
            return rules.magnitude(changes, weights, self.density)
        drawn = partial(row_generator, self.seed, "dare", key)
        generators = [drawn(index) for index in range(len(changes))]
        return rules.dare(changes, weights, self.density, generators, elect=self.rule == "dare-ties")
