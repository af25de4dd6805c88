"""What a run keeps from one step to the next: by the rows it belongs to, empty at the start of every run.

    memory = Memory("deep-cache")
    memory.attach(patch)                    # listens to the run
    memory.memoise(patch, module, "stage")  # its output is kept while `fresh`, and given again otherwise

Outside of a run (no `Started`, or a call without a step) nothing is kept and everything is computed.

A call of the network is known by what it is: its rows' roles, seeds and text, and whether gradients are asked for. So
edits that ask the network themselves, in some steps only, keep their memories apart. Calls of one step that are alike
in all of this are told apart by their order.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from workbench.core.bundle import Bundle, Condition, Site, told
from workbench.core.errors import AskError
from workbench.core.patch import Patch
from workbench.core.tape import Ended, Event, Started

#: Whether this call of the network is to be computed in full, though there is something to reuse.
Due = Callable[[Condition], bool]


@dataclass(frozen=True)
class _Call:
    """What a call of the network is known by; `turn` counts those of a step that are alike in all else."""

    roles: tuple[str, ...]
    seeds: tuple[int, ...]
    texts: tuple[bytes, ...]  # of each row its tokens; nothing where the model shows none
    gradients: bool
    turn: int = 0

    @classmethod
    def of(cls, cond: Condition) -> "_Call":
        """The call that is told `cond`. Tokens stand for the text, since edits may change its states at every step."""
        ids = cond.text.ids
        texts = (b"",) * len(cond.roles) if ids is None else tuple(row.tobytes() for row in ids.cpu().numpy())
        return cls(tuple(cond.roles), tuple(cond.seeds), texts, torch.is_grad_enabled())

    def within(self, other: "_Call") -> list[int] | None:
        """Where these rows are among another call's, or None. A guidance cut-off leaves out one role's rows."""
        if (self.turn, self.gradients) != (other.turn, other.gradients):
            return None
        index = [i for i, role in enumerate(other.roles) if role in self.roles]
        same = all(getattr(self, name) == tuple(getattr(other, name)[i] for i in index) for name in _OF_ROWS)
        return index if same else None


_OF_ROWS = ("roles", "seeds", "texts")


class Memory:
    """Values by name for the rows of each call of the network, forgotten when a run starts and when it ends.

    `due` says which calls are full ones; a call whose rows are not remembered is full whatever it says. Raises
    `AskError` in a run of one step, where there is nothing to reuse.
    """

    def __init__(self, name: str, due: Due) -> None:
        self._name, self._due = name, due
        self._running, self._step = False, -1
        self._kept: dict[_Call, dict[str, Any]] = {}
        self._turns: Counter[_Call] = Counter()
        self._told: object = None
        self._call: _Call | None = None
        self._fresh = True

    @property
    def on(self) -> bool:
        """Whether a call of a run is under way."""
        self._look()
        return self._call is not None

    @property
    def cond(self) -> Condition | None:
        """What the network is told in the call under way of a run; None outside of one."""
        now = told.get() if self.on else None
        return None if now is None else now[0]

    @property
    def fresh(self) -> bool:
        """Whether the call under way computes everything; otherwise it reuses."""
        self._look()
        return self._fresh

    def attach(self, patch: Patch) -> None:
        """Listen to the run."""
        patch.each(self._hear)

    def memoise(self, patch: Patch, module: nn.Module, name: str) -> None:
        """Give a module's kept output again in calls that reuse, instead of running it."""
        forward = module.forward

        def memo(*args: Any, **kwargs: Any) -> Any:
            if not self.fresh:
                return self.recall(name)
            output = forward(*args, **kwargs)
            self.keep(name, output)
            return output

        memo.intercepts = getattr(forward, "intercepts", False)  # type: ignore[attr-defined]
        patch.put(module, "forward", memo)

    def keep(self, name: str, value: Any) -> None:
        """Remember a tensor, or a nest of tuples of them, for the rows of this call; nothing outside of a run."""
        if not self.on or self._call is None:
            return
        if self._call not in self._kept:  # fewer rows than before take along what was kept for them
            found = None if self._fresh else self._find()
            values, index = found or ({}, None)
            self._kept[self._call] = {key: _picked(old, index) for key, old in values.items()} if index else {}
        self._kept[self._call][name] = _detached(value)

    def recall(self, name: str) -> Any:
        """What was kept for the rows of this call, or None."""
        found = self._find() if self.on else None
        if found is None or name not in found[0]:
            return None
        values, index = found
        return values[name] if index is None else _picked(values[name], index)

    def _find(self) -> tuple[dict[str, Any], list[int] | None] | None:
        if self._call is None:
            return None
        if self._call in self._kept:
            return self._kept[self._call], None
        for other, values in self._kept.items():
            index = self._call.within(other)
            if index is not None:
                return values, index
        return None

    def _hear(self, event: Event) -> None:
        match event:
            case Started(total=total):
                if total == 1:
                    raise AskError(
                        f"{self._name} reuses what earlier steps computed; this run has 1 step. Take more steps, or "
                        "leave it out."
                    )
                self._forget(running=True)
            case Ended():
                self._forget(running=False)
            case _:
                pass

    def _forget(self, running: bool) -> None:
        self._running, self._step = running, -1
        self._kept.clear()
        self._told = self._call = None
        self._fresh = True

    def _look(self) -> None:
        """See whether another call of the network is under way than last time, and what it is to do."""
        now = told.get()
        if now is self._told and now is not None:
            return
        self._told, self._call, self._fresh = now, None, True
        if now is None or now[0].step is None or not self._running:
            return
        cond = now[0]
        if cond.step is not None and cond.step.index != self._step:
            self._step = cond.step.index
            self._turns.clear()
        call = _Call.of(cond)
        self._turns[call] += 1
        self._call = replace(call, turn=self._turns[call])
        self._fresh = self._find() is None or self._due(cond)


def _detached(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return tuple(_detached(each) for each in cast(Sequence[Any], value))
    return value.detach() if isinstance(value, Tensor) else value


def _picked(value: Any, index: list[int]) -> Any:
    if isinstance(value, tuple):
        return tuple(_picked(each, index) for each in cast(Sequence[Any], value))
    return value[torch.tensor(index, device=value.device)] if isinstance(value, Tensor) else value


@dataclass(frozen=True, eq=False)
class Stage:
    """A stage of a UNet: its site, and its layers in the order of the pass.

    A layer is a residual block with the attention after it; `last` are the modules that change the resolution.
    """

    site: Site
    layers: tuple[tuple[nn.Module, ...], ...]
    last: tuple[nn.Module, ...]


def stages(bundle: Bundle) -> tuple[Stage, ...]:
    """The stages of a UNet in the order of the pass; none for models of one stream of blocks."""
    return tuple(_stage(bundle, site) for site in bundle.sites("stage"))


def _stage(bundle: Bundle, stage: Site) -> Stage:
    layers: list[list[nn.Module]] = []
    for site in bundle.all_sites:
        if site.part != stage.part or not site.path.startswith(stage.path + ".") or site.kind not in _LAYERED:
            continue
        entry = stage.module.get_submodule(".".join(site.path.removeprefix(stage.path + ".").split(".")[:2]))
        if site.kind == "residual":
            layers.append([entry])
        elif layers and entry not in layers[-1]:  # the attention, named by the blocks in it
            layers[-1].append(entry)
    inside = {id(module) for layer in layers for module in layer}
    rest = [entry for group in stage.module.children() for entry in group.children() if id(entry) not in inside]
    return Stage(stage, tuple(map(tuple, layers)), tuple(rest))


_LAYERED = ("residual", "block")
