"""How many floating-point operations something takes, counted while it runs, the attention core included.

    with Ledger() as ledger:
        sampler.sample(bundle, ask, tap)
    ledger.total, ledger.parts["attention"]

Counts matrix products, convolutions and fused attention (a multiplication and an addition are two), which are all but
a few percent; norms, activations, sorting and copying are not counted. Published "MACs" often leave the attention core
out.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# torch's dispatch carries no types

from collections import Counter
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class Ledger(TorchDispatchMode):
    """Counts the operations of its body in this thread: `parts` by kind (attention, matrices, convolutions)."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: Counter[str] = Counter()

    @property
    def total(self) -> int:
        """All operations."""
        return self.parts.total()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        packet = func.overloadpacket
        name = packet.__name__
        if "scaled_dot_product" in name and "backward" not in name:
            self.parts["attention"] += attention(*args[:3])
        elif name == "_linear_pointwise":  # of oneDNN, by a weight [m, n] in a layout of its own
            self.parts["matrices"] += 2 * args[0].numel() * args[1].shape[0]
        elif packet in flop_registry:
            kind = "convolutions" if "conv" in name else "matrices"
            self.parts[kind] += int(flop_registry[packet](*args, **(kwargs or {}), out_val=output))
        return output


def attention(query: Tensor, key: Tensor, value: Tensor) -> int:
    """Operations of softmax(q k^T) v for [B, A, N, d] queries.

    >>> import torch
    >>> attention(torch.zeros(1, 2, 8, 4), torch.zeros(1, 2, 6, 4), torch.zeros(1, 2, 6, 4))
    1536
    """
    rows = query.shape[:-1].numel()
    return 2 * rows * key.shape[-2] * (query.shape[-1] + value.shape[-1])
