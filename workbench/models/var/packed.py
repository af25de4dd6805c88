"""Matrix products on a CPU with weights that are laid out for its kernels.

A BLAS reads a weight as it stands, at every scale; oneDNN multiplies by one whose blocks lie in the order of its
kernels, about twice as fast where it was measured (float32, 384 to 1536 wide, 8 to 1024 rows). Sums are added up in
another order: results differ by rounding, as they do between two numbers of rows.

The copies live as long as their weights, up to `MOST` bytes. A weight is not trusted to be the one that was laid out:
at the first use in a run its count of writes is compared, and its product with one fixed vector, since a write through
`.data` is not counted. What neither shows is smaller than the rounding of a product.
"""

from __future__ import annotations

import functools
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

#: Multiplications from which laying a weight out pays, and from which using one that is laid out does.
WORTH_PACKING, WORTH_USING = 1 << 22, 1 << 20
#: Bytes of all copies together.
MOST = 512 << 20


@dataclass(frozen=True, eq=False)
class Laid:
    """A weight in oneDNN's layout, and how to tell that it is still the same."""

    packed: Tensor
    version: int
    mark: Tensor


_laid: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
_now: ContextVar[Packs | None] = ContextVar("packs", default=None)


class Packs:
    """The laid out weights that one run has found to be sound."""

    def __init__(self) -> None:
        self._sound: dict[int, tuple[Tensor, Laid]] = {}

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Map x [..., n] to x W^T + b [..., m], as `F.linear` does."""
        work = x.numel() * len(weight)
        laid = self._find(weight, work) if work >= WORTH_USING and _can(x, weight) else None
        if laid is None:
            return F.linear(x, weight, bias)
        return torch.ops.mkldnn._linear_pointwise(x, laid.packed, bias, "none", [], "")

    def _find(self, weight: Tensor, work: int) -> Laid | None:
        owner, laid = self._sound.get(id(weight), (None, None))
        if owner is weight and laid is not None and laid.version == weight._version:
            return laid
        laid = _laid.get(weight)
        if laid is None or laid.version != weight._version or not torch.equal(laid.mark, _mark(weight)):
            _laid.pop(weight, None)
            if work < WORTH_PACKING or _bytes() + weight.nbytes > MOST:
                return None
            packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), None)
            laid = _laid[weight] = Laid(packed, weight._version, _mark(weight))
        self._sound[id(weight)] = weight, laid
        return laid


@contextmanager
def packing(packs: Packs) -> Generator[None, None, None]:
    """In the body, `linear` goes by these."""
    before = _now.set(packs)
    try:
        yield
    finally:
        _now.reset(before)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear`, by laid out weights within a run."""
    packs = _now.get()
    return F.linear(x, weight, bias) if packs is None else packs.linear(x, weight, bias)


class Linear(nn.Linear):
    """A linear layer whose weight may be laid out."""

    def forward(self, input: Tensor) -> Tensor:
        """Map [..., n] to [..., m]."""
        return linear(input, self.weight, self.bias)


def _can(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN is there, takes these, and nobody asks for gradients."""
    plain = isinstance(weight, nn.Parameter) and not weight.is_inference()
    wide = x.device.type == weight.device.type == "cpu" and x.dtype == weight.dtype == torch.float32
    return plain and wide and not torch.is_grad_enabled() and torch.backends.mkldnn.is_available()


def _mark(weight: Tensor) -> Tensor:
    return weight.detach() @ _probe(weight.shape[1])


@functools.lru_cache(maxsize=64)
def _probe(width: int) -> Tensor:
    return torch.rand(width, generator=torch.Generator().manual_seed(width)) + 0.5


def _bytes() -> int:
    return sum(weight.nbytes for weight in _laid.keys())  # noqa: SIM118  (a weak dictionary)
