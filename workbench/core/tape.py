"""What a run shows while it runs, and where recorded values go."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.core.errors import TapeFull


@dataclass(frozen=True)
class Started:
    """A run begins: `total` steps for the images with these seeds."""

    total: int
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Step:
    """One finished step of a run.

    `x` is the state after the step and `x0` the clean latent predicted in it, both [B, C, h, w] in latent units
    (for a decoder by scale: the accumulated latent). `level` is the noise level (a diffusion timestep, 0..999) or
    the scale's side. `index` runs from 0 to `total` - 1. During `predict`, `x0` is None: it is not known yet.
    `numbers` says what else is known by name: a fit that learns tells its `loss` there.
    """

    index: int
    total: int
    level: float
    x: Float[Tensor, "B C h w"] | None = None
    x0: Float[Tensor, "B C h w"] | None = None
    numbers: Mapping[str, float] = field(default_factory=dict[str, float], compare=False)


@dataclass(frozen=True)
class Ended:
    """A run is over, also when it was stopped or failed."""


Event = Started | Step | Ended
Tap = Callable[[Step], None]


def ignore(step: Step) -> None:
    """Watch nothing: the tap of a run that nobody looks at."""


@dataclass
class Tape:
    """Recorded tensors by key, in order, with a ceiling on their bytes.

    >>> tape = Tape(ceiling=64)
    >>> tape.add("maps", torch.zeros(4))
    >>> tape["maps"].shape
    torch.Size([1, 4])
    """

    ceiling: int = 2 << 30
    bytes: int = 0
    _values: dict[str, list[Tensor]] = field(default_factory=dict[str, list[Tensor]])

    def add(self, key: str, value: Tensor) -> None:
        """Keep a detached CPU copy of `value`. Raises `TapeFull` instead of passing the ceiling."""
        value = value.detach()
        size = value.numel() * value.element_size()
        if self.bytes + size > self.ceiling:
            shape = "x".join(map(str, value.shape))
            raise TapeFull(
                f"The tape holds {self.bytes / 2**20:.1f} MiB and {key} would add {size / 2**20:.1f} MiB ({shape} "
                f"{str(value.dtype).removeprefix('torch.')}); the ceiling is {self.ceiling / 2**20:.1f} MiB. "
                "Record fewer sites or steps, or reduce the maps first."
            )
        self._values.setdefault(key, []).append(value.to("cpu", copy=True))
        self.bytes += size

    def __getitem__(self, key: str) -> Tensor:
        """All values of a key stacked, [times, ...]."""
        return torch.stack(self._values[key])

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)
