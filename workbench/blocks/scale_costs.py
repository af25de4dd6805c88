"""What every scale of a decoding takes: operations, seconds, tokens, bytes of keys and values, and which tokens.

    cost = Cost()
    for counted in (True, False, False):
        scene.run(record=Watch(cost, bundle.device, counted).attach)
    cost.work[3], cost.milliseconds(3), cost.held[3]

A run is either counted (operations, tokens, bytes, masks) or timed: counting slows it down.
"""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from workbench.blocks.cost import settle
from workbench.blocks.ledger import Ledger
from workbench.blocks.scales import Memory, Pass
from workbench.core.bundle import Condition
from workbench.core.patch import Patch
from workbench.core.tape import Ended, Event, Started
from workbench.ops.residual_scales import Grid

#: The entry of the picture decoder, which comes after the scales.
PICTURE = -1
Counts = defaultdict[int, int]
Seconds = defaultdict[int, float]


@dataclass(eq=False)
class Cost:
    """What runs of a request took at each scale k.

    `work[k]` operations, `tokens[k]` tokens that the network was given (over all rows), `held[k]` bytes of keys and
    values after it, `kept[k]` [B, h, w] the share of layers that computed each token of the conditional rows, where
    some left any out; `seconds` has one entry a timed run. `work` and `seconds` have the picture decoder, too.
    """

    grids: tuple[Grid, ...] = ()
    work: Counts = field(default_factory=lambda: Counts(int))
    tokens: Counts = field(default_factory=lambda: Counts(int))
    held: Counts = field(default_factory=lambda: Counts(int))
    kept: dict[int, Tensor] = field(default_factory=dict[int, Tensor])
    seconds: list[Seconds] = field(default_factory=list[Seconds])

    @property
    def total(self) -> int:
        """Operations of all scales, without the picture decoder."""
        return sum(work for k, work in self.work.items() if k != PICTURE)

    @property
    def most(self) -> int:
        """The most bytes of keys and values."""
        return max(self.held.values(), default=0)

    def milliseconds(self, k: int) -> float:
        """The median over timed runs."""
        return 1000 * statistics.median(each[k] for each in self.seconds)


class Watch:
    """The observers of one run; `attach` goes to `scene.run(record=)`, or `attached` around a run of one's own."""

    def __init__(self, cost: Cost, device: torch.device, counted: bool) -> None:
        self.cost, self.device, self.ledger = cost, device, Ledger() if counted else None
        self._over = False
        self._mark = 0.0
        self._views: dict[int, dict[int, tuple[Memory, list[int]]]] = {}

    @contextmanager
    def counting(self) -> Generator["Watch", None, None]:
        """Around the run: operations are counted in here, and masks taken over when it is done."""
        if self.ledger is None:
            self.cost.seconds.append(Seconds(float))
            yield self
            return
        with self.ledger:
            yield self
        for k, views in self._views.items():
            maps = [memory.kept[k].share(rows) for memory, rows in views.values() if k in memory.kept]
            if maps:
                self.cost.kept[k] = torch.cat(maps).float().cpu()

    def attach(self, patch: Patch) -> None:
        """Put the observers into a patch; nothing of the run changes."""
        patch.each(self._hear)
        patch.wrap("predict", self._predict)
        patch.wrap("advance", self._advance)
        patch.wrap("decode", self._decode)

    def _hear(self, event: Event) -> None:
        if isinstance(event, Started):
            self._over = False
            self._views.clear()
            if self.ledger is not None:
                self.cost.held.clear()
        elif isinstance(event, Ended):
            self._over = True

    def _predict(self, inner: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """A scale begins; what the network made of it stands in its memory."""

        def predict(x: Tensor, t: Tensor, cond: Condition) -> Tensor:
            self._start()
            logits = inner(x, t, cond)
            memory = cond.memory
            if self.ledger is not None and isinstance(memory, Memory) and memory.passing is not None:
                self._note(int(t[0]), cond, memory, memory.passing)
            return logits

        return predict

    def _note(self, k: int, cond: Condition, memory: Memory, made: Pass) -> None:
        views, mine = self._views.setdefault(k, {}), range(memory.count) if memory.at is None else memory.at
        views[id(memory.keep)] = memory, [mine[row] for row in cond.where("cond")]
        self.cost.grids = memory.grids
        self.cost.tokens[k] += len(made.rows) * sum(h * w for h, w in memory.grids[made.first : made.last + 1])
        self.cost.held[k] = sum(memory.held for memory, _ in views.values())

    def _advance(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        """A scale ends."""

        def advance(x: Tensor, logits: Tensor, t: Tensor, *more: Any) -> Any:
            result = inner(x, logits, t, *more)
            self._stop(int(t))
            return result

        return advance

    def _decode(self, inner: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """The picture decoder, once the scales are over: whoever watches the run may decode before."""

        def decode(latents: Tensor) -> Tensor:
            if not self._over:
                return inner(latents)
            self._start()
            result = inner(latents)
            self._stop(PICTURE)
            return result

        return decode

    def _start(self) -> None:
        settle(self.device)
        self._mark = time.perf_counter() if self.ledger is None else self.ledger.total

    def _stop(self, k: int) -> None:
        settle(self.device)
        if self.ledger is None:
            self.cost.seconds[-1][k] += time.perf_counter() - self._mark
        else:
            self.cost.work[k] += self.ledger.total - int(self._mark)
