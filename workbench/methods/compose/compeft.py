"""ComPEFT: every adapter as signs of its largest entries and one number, then added.

Paper: Yadav, Choshen, Raffel and Bansal 2023, "ComPEFT: Compression for Communicating Parameter Efficient Updates via
Sparsification and Quantization", arXiv 2311.13171.

Equations, for t all factor entries of one adapter together:
    t' = alpha std(t) sign(t) where |t| is among the largest share `kept`, else 0
so an adapter has the values -c, 0 and c alone; the compressed adapters are added with their weights. One entry costs
H(kept) + kept bits, H the binary entropy, against 16 bits in half precision; `fit` writes the ratio down.

Differs: by default the factors are first written in the one form that does not depend on the file, with the singular
values shared evenly between the two. In a file one factor is often far smaller than the other, and the largest entries
of both together are then those of one alone: the other becomes 0, and the adapter with it (`gauge=raw` shows it). The
paper thins what training changed, for which it needs the factors at the start of training; files do not hold those.
alpha is given, where the paper searches it on a validation set, in 0.5 .. 10. Random adapters lose most of themselves;
those that training made have heavy tails and keep more.

Official numbers: +4.16 % on MMLU over QLoRA of LLaMA 65B at up to 26 times smaller, kept in 0.05 .. 0.5.

Licence of the reference: ComPEFT, BSD-3-Clause (read, not copied), function `get_compressed_lora_weights`.
"""

from collections.abc import Mapping
from math import log2
from typing import Any, ClassVar

import torch
from pydantic import Field

from workbench.blocks import composing
from workbench.core.bundle import Bundle
from workbench.core.delta import Delta
from workbench.core.method import Card, Edit
from workbench.core.tape import Tap
from workbench.ops.low_rank import LowRank
from workbench.ops.merging_adapters import keep_largest


class Compeft(Edit):
    """Compress each adapter to signs and a scale, and add them."""

    card: ClassVar[Card] = Card("compeft", "ComPEFT", "arXiv 2311.13171", composing.FAMILIES, cost="seconds")
    neutral: ClassVar[Mapping[str, Any] | None] = {"strength": 0.0}
    quick: ClassVar[Mapping[str, Any]] = {"adapters": composing.TWO}

    adapters: composing.Adapters
    weights: composing.Weights = ()
    strength: composing.Strength = 1.0
    kept: float = Field(0.2, gt=0, le=1, description="Share of an adapter's entries that keep their sign (k).")
    gauge: composing.Gauge = "svd"
    scale: float = Field(1.0, gt=0, le=20, description="Size of what is kept, in standard deviations (alpha).")

    def fit(self, bundle: Bundle, tap: Tap) -> Delta:
        """The sum of the compressed adapters, as factors."""
        found = composing.read(bundle, self)
        small = [compressed(self.cut(part), self.kept, self.scale).scaled(weight) for part, weight in found.pairs()]
        return found.delta(small[0].concatenated(*small[1:]), ratio=f"{smaller(self.kept):.1f}")

    def cut(self, low: LowRank) -> LowRank:
        """The adapter in the chosen form."""
        return low.gauge() if self.gauge == "svd" else low


def compressed(adapter: LowRank, kept: float, scale: float) -> LowRank:
    """The adapter with t' of the module's equation for its entries."""
    tensors = [part for key in sorted(adapter.factors) for part in adapter.factors[key]]
    flat = torch.cat([part.double().flatten() for part in tensors])
    signs = scale * flat.std() * keep_largest(flat, kept).sign()
    pieces = iter(signs.split([part.numel() for part in tensors]))
    whole = {key: tuple(next(pieces).reshape(part.shape).to(part) for part in adapter.factors[key])
             for key in sorted(adapter.factors)}  # fmt: skip
    return LowRank(whole)  # type: ignore[arg-type]


def smaller(kept: float) -> float:
    """How many times smaller than half precision an adapter is, coded at its entropy.

    >>> round(smaller(0.05))
    48
    """
    rest = 1 - kept
    entropy = -kept * log2(kept) - (rest * log2(rest) if rest else 0.0)
    return 16 / (entropy + kept)
