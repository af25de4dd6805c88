"""The one recorder of all lenses: attention reduced on the fly, and what goes in and out of sites, onto a tape.

    recorder = Recorder(steps=lambda step: step.index % 5 == 0)
    recorder.attention(sites, "maps", token_maps)
    images = scene.run(record=recorder.attach)
    recorder.tape["maps/unet:mid_block.attentions.0.transformer_blocks.0.attn2"]    # [times, B, N, L]

It watches `predict` to know the step and which rows are conditional, and keeps those rows alone. It is attached after
the edits, so it sees the attention that is really computed: of a merged model the merged tokens, which it unmerges
where the merger says how (`unmerge`).
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# torch's norm, unique and from_numpy carry no types

from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.core.attend import Attention
from workbench.core.bundle import Condition, Site
from workbench.core.errors import PatchError
from workbench.core.patch import Patch
from workbench.core.tape import Step, Tape
from workbench.ops import attention as maps

CEILING = 256 << 20
CHUNK = 256  # queries whose weights are held at once


@runtime_checkable
class Unmerge(Protocol):
    """How a token reducer takes its merging back, for maps over merged places."""

    def queries(self, values: Tensor, axis: int) -> Tensor:
        """Copy the value of each merged place to the places it stands for."""
        ...

    def keys(self, values: Tensor, axis: int) -> Tensor:
        """Share the mass of each merged place among the places it stands for."""
        ...

    def rows(self, index: Sequence[int]) -> "Unmerge":
        """The same for some rows of the batch."""
        ...


#: A token reducer sets this around its merged `call.run()`, and resets it afterwards.
unmerge: ContextVar[Unmerge | None] = ContextVar("unmerge", default=None)


@dataclass
class Sums(Tape):
    """A tape that keeps one running sum a key, and of how many, so that a whole run costs what one step costs."""

    counts: Counter[str] = field(default_factory=Counter[str])

    def add(self, key: str, value: Tensor) -> None:
        """Add to the sum of a key, in float32 on the CPU. Raises `TapeFull` when a new key would pass the ceiling."""
        if key in self:
            self._values[key][0] += value.detach().float().cpu()
        else:
            super().add(key, value.detach().float())
        self.counts[key] += 1

    def mean(self, key: str) -> Tensor:
        """The mean of what was added to a key."""
        return self._values[key][0] / self.counts[key]


@dataclass(frozen=True, eq=False)
class Look:
    """What a reducer gets: the attention call of the conditional rows, where and when it was, the latent's size."""

    site: Site
    call: Attention
    step: Step | None
    size: tuple[int, int]
    unmerge: Unmerge | None = None  # how to take back a token merging that is in force in this call

    def weights(self) -> Iterator[Float[Tensor, "B A n L"]]:
        """The softmax weights, some queries at a time, in order."""
        for start in range(0, self.call.query.shape[-2], CHUNK):
            yield self.call.weights(slice(start, start + CHUNK))


def evenly(total: int, count: int) -> set[int]:
    """The middles of `count` equal stretches of a run of `total` steps.

    >>> sorted(evenly(20, 4))
    [2, 7, 12, 17]
    """
    count = min(count, total)
    return {int((i + 0.5) * total / count) for i in range(count)}


Reduce = Callable[[Look], Tensor]
When = Literal["before", "after"]


def keys(look: Look) -> Float[Tensor, "B N D"]:
    """The keys of every place, heads side by side, in float32; a merged place's key stands for all it was made of."""
    values = look.call.key.float().transpose(1, 2).flatten(2)
    return values if look.unmerge is None else look.unmerge.queries(values, 1)


def token_maps(look: Look) -> Float[Tensor, "B N L"]:
    """How much each place looks at each text token, mean over heads; every place's row sums to one."""
    values = _head_means(look)
    return values if look.unmerge is None else look.unmerge.queries(values, 1)


def entropies(look: Look) -> Float[Tensor, "B A N"]:
    """Evenness of each head's attention at each place: 0 looks at one place, 1 everywhere alike."""
    values = torch.cat([maps.evenness(part) for part in look.weights()], -1)
    return values if look.unmerge is None else look.unmerge.queries(values, -1)


def looks_from(pixel: tuple[int, int], picture: tuple[int, int]) -> Reduce:
    """Where the place under a pixel (x, y) of a picture (height, width) looks: head mean [B, N] that sums to one."""

    def reduce(look: Look) -> Tensor:
        merged = look.unmerge
        if merged is not None:
            whole = merged.keys(merged.queries(_head_means(look), 1), -1)
            return whole[:, maps.place(pixel, picture, maps.grid(whole.shape[1], look.size))]
        index = maps.place(pixel, picture, maps.grid(look.call.query.shape[-2], look.size))
        return maps.mean_heads(look.call.weights(slice(index, index + 1)))[:, 0]

    return reduce


def _head_means(look: Look) -> Float[Tensor, "B N L"]:
    return torch.cat([maps.mean_heads(part) for part in look.weights()], 1)


@dataclass(frozen=True, eq=False)
class _Now:
    roles: tuple[str, ...]
    step: Step | None
    size: tuple[int, int]

    def rows(self, batch: int, name: str) -> list[int]:
        """The conditional rows of a call of `batch` rows, which may lack the unconditional ones."""
        kept = [role for role in self.roles if role != "uncond"]
        for roles in (self.roles, kept):
            if len(roles) == batch:
                return [i for i, role in enumerate(roles) if role == "cond"]
        raise PatchError(
            f"{name} was called with {batch} rows of the {len(self.roles)} asked for, so it is not known which are "
            "conditional. Look without the edit that splits the batch."
        )


class Recorder:
    """Records at chosen steps; give `attach` to `scene.run(record=)`. `times` lists the steps that were seen.

    Raises `TapeFull` rather than pass the ceiling, and `PatchError` when a site's attention cannot be seen.
    """

    def __init__(
        self, steps: Callable[[Step], bool] | None = None, ceiling: int = CEILING, tape: Tape | None = None
    ) -> None:
        self.tape = Tape(ceiling=ceiling) if tape is None else tape
        self.times: list[int] = []
        self._steps = steps
        self._now: _Now | None = None
        self._jobs: list[Callable[[Patch], None]] = []

    def attention(self, sites: Sequence[Site], key: str, reduce: Reduce) -> None:
        """Record `reduce(look)` of every attention call of the sites under `key/site.name`."""

        def job(patch: Patch) -> None:
            for site in sites:
                patch.attend(site, self._watcher(site, key, reduce))

        self._jobs.append(job)

    def values(
        self, sites: Sequence[Site], key: str, when: When = "after", pick: Callable[[Tensor], Tensor] = torch.clone
    ) -> None:
        """Record `pick(value)` of what goes into (`before`) or comes out of (`after`) sites, conditional rows only."""

        def job(patch: Patch) -> None:
            for site in sites:
                self._observe(patch, site, f"{key}/{site.name}", when, pick)

        self._jobs.append(job)

    def changes(self, sites: Sequence[Site], key: str) -> None:
        """Record how far each place moves through sites: |out - in| over the channels [B, N], conditional rows only."""

        def job(patch: Patch) -> None:
            for site in sites:
                self._moves(patch, site, f"{key}/{site.name}")

        self._jobs.append(job)

    def attach(self, patch: Patch) -> None:
        """Put the observers into a patch; nothing of the model's results changes."""
        patch.wrap("predict", self._follow)
        for job in self._jobs:
            job(patch)

    def taken(self, key: str, site: Site) -> Tensor:
        """What was recorded under a key at a site: [times, ...], or the mean [...] where the tape keeps `Sums`.

        Raises `PatchError` when the site was never called.
        """
        name = f"{key}/{site.name}"
        if name not in self.tape:
            raise PatchError(
                f"No call of {site.name} was seen in {len(self.times)} steps. An edit that reuses earlier results may "
                "skip it at these steps, or the model ran elsewhere: look without that edit, or at other steps."
            )
        return self.tape.mean(name) if isinstance(self.tape, Sums) else self.tape[name]

    @contextmanager
    def during(self, count: int, size: tuple[int, int], step: Step | None = None) -> Generator[None, None, None]:
        """Record in the body a call of `count` rows outside of `predict`, as of a scorer; `size` is the grid's."""
        with self._during(_Now(("cond",) * count, step, size)):
            yield

    def _follow(self, inner: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def predict(x: Tensor, t: Tensor, cond: Condition) -> Tensor:
            step = cond.step
            if self._steps is not None and (step is None or not self._steps(step)):
                return inner(x, t, cond)
            with self._during(_Now(tuple(cond.roles), step, (x.shape[-2], x.shape[-1]))):
                return inner(x, t, cond)

        return predict

    @contextmanager
    def _during(self, now: _Now) -> Generator[None, None, None]:
        self._now = now
        self.times.append(-1 if now.step is None else now.step.index)
        try:
            yield
        finally:
            self._now = None

    def _watcher(self, site: Site, key: str, reduce: Reduce) -> Callable[[Attention], Tensor]:
        def watch(call: Attention) -> Tensor:
            now = self._now
            if now is not None:
                rows = now.rows(call.query.shape[0], site.name)
                with torch.no_grad():
                    merged = unmerge.get()
                    back = None if merged is None else merged.rows(rows)
                    look = Look(site, _pick(call, rows), now.step, now.size, back)
                    self.tape.add(f"{key}/{site.name}", reduce(look))
            return call.run()

        return watch

    def _observe(self, patch: Patch, site: Site, key: str, when: When, pick: Callable[[Tensor], Tensor]) -> None:
        def keep(value: Any) -> None:
            now = self._now
            if now is not None:
                tensor = cast(Tensor, value[0] if isinstance(value, tuple) else value)
                rows = now.rows(tensor.shape[0], site.name)
                self.tape.add(key, pick(tensor.detach()[rows]))

        def before(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            keep(args if args else next(iter(kwargs.values())))

        def after(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            keep(output)

        patch.hook(site.module, before if when == "before" else after, when)

    def _moves(self, patch: Patch, site: Site, key: str) -> None:
        came: list[Tensor] = []

        def first(value: Any) -> Tensor:
            return cast(Tensor, value[0] if isinstance(value, tuple) else value).detach()

        def before(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if self._now is not None:
                came[:] = [first(args if args else next(iter(kwargs.values())))]

        def after(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            if self._now is None or not came:
                return
            given, gone = came.pop(), first(output)
            if given.shape != gone.shape:
                raise PatchError(f"{site.name} changes the shape of what it is given, so its places have not moved.")
            rows = self._now.rows(len(gone), site.name)
            moved = (gone[rows].float() - given[rows].float()).norm(dim=1 if gone.ndim == 4 else -1)
            self.tape.add(key, moved.flatten(1))

        patch.hook(site.module, before, "before")
        patch.hook(site.module, after, "after")


def _pick(call: Attention, rows: list[int]) -> Attention:
    """The call of some rows alone."""
    mask = call.mask
    if mask is not None and mask.ndim == 4 and mask.shape[0] == call.query.shape[0]:
        mask = mask[rows]
    return call.but(query=call.query[rows], key=call.key[rows], value=call.value[rows], mask=mask)
