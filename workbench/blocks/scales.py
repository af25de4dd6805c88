"""The one loop of scale-by-scale decoding over the seams of a bundle, and what a run remembers.

State `x` is the accumulated latent [B, C, h, w] (residual prediction) or the codes of the last scale [B, C, p, p]
(ground-truth prediction). `predict(x, t, cond)` gives the logits [R, V, p, p] of scale t; `guide` mixes them;
`advance(x, logits, t, cond, choice, generators)` draws tokens and adds what they say. Row i draws from generator i.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.blocks.denoise import condition, picture_size, to_images
from workbench.core.ask import Ask
from workbench.core.bundle import Bundle, Condition, Images
from workbench.core.errors import AskError, CheckpointMismatch, MissingPart
from workbench.core.tape import Ended, Started, Step, Tap
from workbench.ops import sampling
from workbench.ops.residual_scales import Grid

Predict = Callable[[Tensor, Tensor, Condition], Tensor]


@dataclass(frozen=True)
class Pass:
    """A pass under way: over scales `first` to `last`, for these rows of the run."""

    first: int
    last: int
    rows: tuple[int, ...]


@dataclass(eq=False)
class Kept:
    """How many layers computed each token of a scale [R, h, w], of how many `layers` [R] that left some out."""

    counts: Float[Tensor, "R h w"]
    layers: Float[Tensor, " R"]

    def share(self, rows: Sequence[int]) -> Float[Tensor, "n h w"]:
        """The share of the layers that computed each token, for some rows; 1 where none left any out."""
        at = list(rows)
        layers = self.layers[at][:, None, None]
        return torch.where(layers > 0, self.counts[at] / layers.clamp_min(1), 1.0)


@dataclass(eq=False)
class Memory:
    """What one run knows of its earlier scales, shared by all views of some of its rows.

    `grids` is the schedule. `seen[k]` is the state that scale k started from, for all rows, and `tokens[k]` what was
    drawn. From `seen` a network can work out keys and values that it lacks, so another one may take over at any scale.
    `keep` belongs to the network: its keys, values and modulations. `kept[k]` tells which tokens of scale k an edit let
    the layers compute, where it left some out. `by` answers instead of the bundle's own network. `at` names the rows of
    a view.
    """

    grids: tuple[Grid, ...]
    count: int
    seen: dict[int, Tensor] = field(default_factory=dict[int, Tensor])
    tokens: dict[int, Tensor] = field(default_factory=dict[int, Tensor])
    keep: dict[str, Any] = field(default_factory=dict[str, Any])
    kept: dict[int, Kept] = field(default_factory=dict[int, Kept])
    by: Predict | None = None
    at: tuple[int, ...] | None = None

    def rows(self, index: Sequence[int]) -> "Memory":
        """The same memory seen by some rows; they write into the whole."""
        mine = range(self.count) if self.at is None else self.at
        return replace(self, at=tuple(mine[i] for i in index))

    @property
    def passing(self) -> Pass | None:
        """The pass that the network is making, as it says itself; whoever sits in its layers may ask."""
        return self.keep.get("pass")

    @property
    def held(self) -> int:
        """Bytes of keys and values that the network keeps of the scales so far, as its `cache` says itself."""
        cache = self.keep.get("cache")
        return 0 if cache is None else cache.held

    def note(self, scale: int, rows: Sequence[int], at: Int[Tensor, "n m"]) -> None:
        """A layer computed the tokens `at` of a scale for some rows of the run, and no others."""
        h, w = self.grids[scale]
        if scale not in self.kept:
            blank = torch.zeros(self.count, h, w, device=at.device)
            self.kept[scale] = Kept(blank, blank.new_zeros(self.count))
        mine, index = self.kept[scale], slice(None) if len(rows) == self.count else list(rows)
        mine.counts[index] += torch.zeros(len(rows), h * w, device=at.device).scatter(1, at, 1.0).view(-1, h, w)
        mine.layers[index] += 1

    def handed(self, by: Predict | None, count: int) -> "Memory":
        """A memory for another network that takes over: the same past, nothing kept."""
        return replace(self, by=by, count=count, keep={}, kept={}, at=None)


@dataclass(frozen=True, eq=False)
class Choice:
    """How tokens are drawn at each scale, and who may interfere.

    `temperature` and the cuts are one for all scales or one a scale. `smooth` mixes codes by a Gumbel softmax after
    drawing (its own temperature falls with the scale). `noise(k, like)` gives the race's draws [B, n, V] instead of
    the generators; `force` tokens [B, n] instead of drawn ones; `change(k, codes, x)` gives other codes [B, C, p, p].
    """

    top_k: int | tuple[int, ...] = 0
    top_p: float = 1.0
    temperature: float | tuple[float, ...] = 1.0
    smooth: bool = False
    noise: Callable[[int, Tensor], Tensor] | None = None
    force: Mapping[int, Tensor] = field(default_factory=dict[int, Tensor])
    change: Callable[[int, Tensor, Tensor], Tensor] | None = None

    def draw(
        self, logits: Float[Tensor, "B n V"], step: Step, generators: Sequence[torch.Generator]
    ) -> tuple[Int[Tensor, "B n"], Float[Tensor, "B n V"] | None]:
        """Tokens of a scale, and with `smooth` the weights of all codes; generators are consumed either way."""
        k = step.index
        cut = sampling.truncate(logits, _at(self.top_k, k), self.top_p) / _at(self.temperature, k)
        noise = sampling.exponential(cut.shape, generators, cut) if self.noise is None else self.noise(k, cut)
        tokens = self.force[k] if k in self.force else sampling.race(cut, noise)
        if not self.smooth or k in self.force:
            return tokens, None
        share = k / max(step.total - 1, 1)
        more = sampling.exponential(cut.shape, generators, cut) if self.noise is None else noise
        return tokens, sampling.smooth(cut * (1 + share), more, sampling.smoothness(share))


@dataclass(frozen=True, eq=False)
class Turn:
    """A stretch of scales from `start` on, predicted under one condition (with its memory)."""

    start: int
    cond: Condition


@dataclass(frozen=True, eq=False)
class Descent:
    """One run: turns that follow each other, guidance for each scale (a number, or one an image [B, 1, 1, 1]).

    `alone` computes every image on its own, so that its bits do not depend on the batch; slower.
    """

    bundle: Bundle
    turns: tuple[Turn, ...]
    guidance: Sequence[float | Tensor]
    choice: Choice
    generators: tuple[torch.Generator, ...]
    tap: Tap
    alone: bool = False

    @property
    def memory(self) -> Memory:
        """What the first turn remembers."""
        return self.turns[0].cond.memory


def ramp(guidance: float, total: int) -> tuple[float, ...]:
    """Guidance that grows with the scale: 1 + guidance k / (total - 1).

    >>> ramp(1.5, 4)
    (1.0, 1.5, 2.0, 2.5)
    """
    return tuple(1 + guidance * k / max(total - 1, 1) for k in range(total))


def blank(bundle: Bundle, count: int, latent: Grid) -> Float[Tensor, "B C h w"]:
    """The state before the first scale."""
    return torch.zeros(count, bundle.shapes.latent[0], *latent, device=bundle.device, dtype=bundle.dtype)


def own_grids(bundle: Bundle) -> tuple[Grid, ...]:
    """The model's own schedule. Raises `MissingPart` for a model that does not decode by scale."""
    grids = bundle.about.get("grids")
    if not grids:
        raise MissingPart(f"{bundle.name} has no scales to decode one after the other.")
    return tuple((int(h), int(w)) for h, w in grids)


def turn(bundle: Bundle, ask: Ask, memory: Memory, guided: bool, start: int = 0) -> Turn:
    """A turn of a model: its own reading of the prompts, with a memory."""
    _, height, width = bundle.shapes.image
    return Turn(start, replace(condition(bundle, ask, guided, (width, height)), memory=memory))


def generators(bundle: Bundle, ask: Ask) -> tuple[torch.Generator, ...]:
    """One generator an image, on the model's device so that drawing never waits for a copy."""
    return tuple(torch.Generator(bundle.device).manual_seed(seed) for seed in ask.seeds)


def refuse_picture(ask: Ask, name: str) -> None:
    """Raise `AskError` when a request has a picture that a sampler would not look at."""
    if ask.image is not None:
        raise AskError(f"{name} draws without a picture; {ask.image} was given. Take a sampler that redraws, or none.")


def own_size(bundle: Bundle, ask: Ask) -> None:
    """Raise `AskError` when a request is of another size than the only one a model draws."""
    _, height, width = bundle.shapes.image
    if picture_size(bundle, ask) != (width, height):
        raise AskError(f"The size is {'x'.join(map(str, ask.size or ()))}; {bundle.name} draws {width}x{height} alone.")


@torch.no_grad()
def descend(run: Descent, x: Tensor, stop: int | None = None) -> Float[Tensor, "B C h w"]:
    """Walk the scales from the first turn's start, or up to `stop`: the state after the last one."""
    bundle, grids, first = run.bundle, run.memory.grids, run.turns[0]
    last = len(grids) if stop is None else stop
    runs = _singles(run, len(x)) if run.alone else (run,)
    states = [x[i : i + 1].clone() for i in range(len(x))] if run.alone else [x]
    bundle.tell(Started(last - first.start, first.cond.seeds[: len(x)]))
    try:
        for k in range(first.start, last):
            found = [_scale(each, state, k) for each, state in zip(runs, states, strict=True)]
            states = [state for state, _ in found]
            x, clean = (torch.cat(parts) if run.alone else parts[0] for parts in zip(*found, strict=True))
            step = Step(k, len(grids), float(max(grids[k])), x, clean)
            bundle.tell(step)
            run.tap(step)
    finally:
        bundle.tell(Ended())
    if not torch.isfinite(x).all():
        raise CheckpointMismatch(
            f"{bundle.name} drew values that are not finite (dtype {str(x.dtype).removeprefix('torch.')}). "
            "Its weights may be damaged, or the dtype too narrow: try --dtype float32."
        )
    return x


def pictures(bundle: Bundle, x: Tensor, *, alone: bool = False) -> Images:
    """What a state shows: uint8 [B, 3, H, W]; with `alone` one image at a time."""
    with torch.no_grad():
        rows = [x[i : i + 1].clone() for i in range(len(x))] if alone else [x]
        return torch.cat([to_images(bundle.decode(row)) for row in rows])


def _scale(run: Descent, x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """One scale: predict, guide, draw and add; the next state and what it shows."""
    bundle, grids = run.bundle, run.memory.grids
    current = max((turn for turn in run.turns if turn.start <= k), key=lambda turn: turn.start)
    _forget_others(run, current)
    cond, memory = current.cond, current.cond.memory
    guided = len(cond.roles) > len(x)
    now = replace(cond, step=Step(k, len(grids), float(max(grids[k])), x))
    rows = torch.cat([x, x]) if guided else x
    memory.seen[k] = rows
    logits = bundle.predict(rows, torch.full((len(rows),), k), now)
    if guided:
        negative, positive = logits.chunk(2)
        logits = bundle.seams.guide(positive, negative, run.guidance[k], now)
    return bundle.seams.advance(x, logits, torch.tensor(k), now, run.choice, list(run.generators))


def _singles(run: Descent, images: int) -> tuple[Descent, ...]:
    """One run an image, each with a memory of its own: not even the rounding of sums depends on who else is there."""

    def single(i: int) -> Descent:
        index = range(i, len(run.turns[0].cond.roles), images)
        first = Memory(run.memory.grids, len(index))
        turns = [
            Turn(each.start, replace(replace(each.cond, memory=None).rows(index), memory=memory))
            for each in run.turns
            for memory in [first if each is run.turns[0] else first.handed(each.cond.memory.by, len(index))]
        ]
        guidance = [scale[i : i + 1] if isinstance(scale, Tensor) else scale for scale in run.guidance]
        return replace(run, turns=tuple(turns), guidance=guidance, generators=(run.generators[i],))

    return tuple(single(i) for i in range(images))


def _forget_others(run: Descent, current: Turn) -> None:
    """Let go of what networks kept whose turn is over."""
    for turn in run.turns:
        if turn.start < current.start:
            turn.cond.memory.keep.clear()


def _at(value: Any, k: int) -> Any:
    """A setting that is one for all scales, or its value at scale k; the last one serves all that follow."""
    values = cast(tuple[Any, ...], value) if isinstance(value, tuple) else (value,)
    return values[min(k, len(values) - 1)]
