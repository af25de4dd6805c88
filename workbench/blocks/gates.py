"""Gates: how strongly an adapter acts at a place, at a step, in a row, at a pixel, in a rank.

A live adapter adds  g * up(r * (down x))  to a module's answer. The output gate g and the rank gate r are functions of
`Now`: they say one number, or a tensor that broadcasts over the module's answer. Gates multiply with `both`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from workbench.core.bundle import Condition
from workbench.core.errors import AskError
from workbench.ops.attention import halved

#: What a module's answer lies on: pixels of a map [R, C, h, w] or picture tokens [R, N, C], text tokens [R, L, C], or
#: neither ([R, C]: time and the like).
Ground = Literal["picture", "text", "none"]


@dataclass(frozen=True, eq=False)
class Now:
    """A call of one module: whose weight (`part:path.weight`), its answer's shape and ground, and what the network is
    told (None while text is read, where rows are prompts and there is no step). `grid` is the latent's (h, w)."""

    key: str
    shape: tuple[int, ...]
    ground: Ground
    cond: Condition | None
    grid: tuple[int, int]

    @property
    def when(self) -> float | None:
        """How far the run is, 0 at its first step and 1 at its last; None outside a run."""
        step = None if self.cond is None else self.cond.step
        return None if step is None else step.index / max(step.total - 1, 1)

    def rows(self, values: Float[Tensor, " R"]) -> Tensor:
        """One number a row in the form that broadcasts over the answer."""
        return values.reshape(-1, *[1] * (len(self.shape) - 1))


Gate = Callable[[Now], "float | Tensor"]


def scalar(weight: float) -> Gate:
    """The same everywhere."""
    return lambda now: weight


def both(*gates: Gate) -> Gate:
    """The product of gates; a plain 0 of one of them spares asking the others."""

    def gate(now: Now) -> float | Tensor:
        total: float | Tensor = 1.0
        for each in gates:
            value = each(now)
            if isinstance(value, float | int) and value == 0:
                return 0.0
            total = total * value
        return total

    return gate


def places(weights: Mapping[str, float], other: float = 1.0) -> Gate:
    """A number a place: keys are `part`, `part:path` or any beginning of one that ends at a dot; the longest counts."""
    known: dict[str, float] = {}

    def gate(now: Now) -> float:
        if now.key not in known:
            fitting = [name for name in weights if covers(name, now.key)]
            known[now.key] = weights[max(fitting, key=len)] if fitting else other
        return known[now.key]

    return gate


def covers(name: str, key: str) -> bool:
    """Whether a place's name holds a weight: its part, or a beginning of its path that ends at a dot.

    >>> [covers("unet:up_blocks.1", f"unet:up_blocks.{n}.conv.weight") for n in (1, 10)]
    [True, False]
    """
    return key == name or key.startswith((f"{name}:", f"{name}.")) or (name.endswith(":") and key.startswith(name))


def steps(share: Callable[[float], float]) -> Gate:
    """A number a step from how far the run is, 0..1; the reading of text and calls outside a run count as fully on."""
    return lambda now: 1.0 if now.when is None else share(now.when)


def points(values: Sequence[float]) -> Callable[[float], float]:
    """A line through numbers at equal distances over the run: the first at its first step, the last at its last."""
    if not values:
        raise AskError("A schedule without numbers says nothing. Give one or more.")

    def share(when: float) -> float:
        at = when * (len(values) - 1)
        low = min(int(at), max(len(values) - 2, 0))
        high = min(low + 1, len(values) - 1)
        return values[low] + (values[high] - values[low]) * (at - low)

    return share


def rows(values: Callable[[Condition], Float[Tensor, " R"]]) -> Gate:
    """A number a row of the batch, from what the network is told of each; while text is read, 1."""

    def gate(now: Now) -> float | Tensor:
        if now.cond is None:
            return 1.0
        row = values(now.cond)
        if len(row) != now.shape[0]:
            raise AskError(
                f"{now.key} answers {now.shape[0]} rows and the gate says {len(row)} numbers; give one each."
            )
        return now.rows(row)

    return gate


def region(
    mask: Float[Tensor, "h w"] | Float[Tensor, "R h w"],
    tokens: Float[Tensor, " L"] | Float[Tensor, "R L"] | None = None,
) -> Gate:
    """A mask over the picture, 0..1, brought to every module's own grid by averaging.

    Modules that answer on text tokens (keys and values of cross-attention, text towers) are gated by `tokens`, or by 1
    where none are given; those that answer on neither by 1.
    """

    def gate(now: Now) -> float | Tensor:
        if now.ground == "text":
            return 1.0 if tokens is None else _rowed(tokens, now)[..., None]
        if now.ground == "none":
            return 1.0
        height, width = side(now)
        small = F.adaptive_avg_pool2d(mask.reshape(-1, 1, *mask.shape[-2:]).float(), (height, width))
        small = small.expand(now.shape[0], -1, -1, -1) if len(small) != now.shape[0] else small
        return small if len(now.shape) == 4 else small.flatten(2).transpose(1, 2)

    return gate


def side(now: Now) -> tuple[int, int]:
    """Height and width of the grid that a module answers on: the map's own, or the latent's halved until it fits.

    Raises `AskError` when no halving of the latent grid has as many tokens.
    """
    if len(now.shape) == 4:
        return now.shape[2], now.shape[3]
    found = halved(now.shape[1], now.grid)
    if found is None:
        raise AskError(f"{now.key} answers {now.shape[1]} tokens, which is no halving of the grid {now.grid}.")
    return found


def _rowed(values: Tensor, now: Now) -> Tensor:
    values = values.reshape(-1, values.shape[-1])
    return values.expand(now.shape[0], -1) if len(values) != now.shape[0] else values


def device_of(value: "float | Tensor", like: Tensor) -> "float | Tensor":
    """A gate's answer where the module's is, in its dtype."""
    return value.to(like.device, like.dtype) if isinstance(value, torch.Tensor) else value
