"""The one loop of score distillation: a model learns to say at some prompts what the untrained one says at others.

A recipe is a source of noisy states x a policy of timesteps x terms of the loss (made score, goal score, space) x a
parameter group x hooks. Scores are written as in the papers:

    empty, concept = teacher("empty"), teacher("concept")
    Pull(student("concept"), empty - 1.0 * (concept - empty))

Every iteration asks the network once with gradient, for all roles at a time; what the untrained network said on its
walks is not asked again. The bundle is bit for bit what it was; the change comes back as a Delta.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# Tensor.tolist, Tensor.split and the optimisers carry no types

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.blocks.groups import Group, Trainee, select
from workbench.blocks.pools import Lesson, Room, Source, Space, States, Times, joined, progress, uniform
from workbench.core.bundle import Bundle, Condition
from workbench.core.delta import Delta
from workbench.core.errors import CheckpointMismatch, MethodError, Stopped
from workbench.core.patch import Patch
from workbench.core.tape import Tap, ignore
from workbench.ops.noise import row_generator

Who = Literal["teacher", "student", "truth"]
Gradients = dict[str, Tensor]

KEEP = 100  # iterations between what is kept for a restart


@dataclass(frozen=True)
class Score:
    """A linear combination of predictions at one x_t: coefficients by who speaks and in which role."""

    parts: tuple[tuple[Who, str, float], ...]

    def __add__(self, other: "Score") -> "Score":
        total: dict[tuple[Who, str], float] = {}
        for who, role, factor in (*self.parts, *other.parts):
            total[who, role] = total.get((who, role), 0.0) + factor
        return Score(tuple((*key, factor) for key, factor in total.items() if factor))

    def __mul__(self, factor: float) -> "Score":
        return Score(tuple((who, role, factor * mine) for who, role, mine in self.parts))

    def __rmul__(self, factor: float) -> "Score":
        return self * factor

    def __sub__(self, other: "Score") -> "Score":
        return self + other * -1.0

    @property
    def total(self) -> float:
        """The sum of coefficients."""
        return sum(factor for _, _, factor in self.parts)

    def roles(self, who: Who) -> tuple[str, ...]:
        """The roles in which someone speaks."""
        return tuple(role for speaker, role, _ in self.parts if speaker == who)

    def value(self, said: Callable[[Who, str], Tensor]) -> Tensor:
        """The combination of what was said."""
        first, *rest = (factor * said(who, role) for who, role, factor in self.parts)
        return sum(rest, first)


def teacher(role: str) -> Score:
    """The untrained network's prediction."""
    return Score((("teacher", role, 1.0),))


def student(role: str) -> Score:
    """The network's prediction as it is by now; held constant where it stands in a goal."""
    return Score((("student", role, 1.0),))


TRUTH = Score((("truth", "", 1.0),))


@dataclass(eq=False)
class Batch:
    """What an iteration learns at. A companion may set the condition of all rows in a role through `conds`.

    Predictions are [N, C, h, w], zeros in rows whose lesson lacks the role.
    """

    room: Room
    states: States
    conds: dict[str, Condition] = field(default_factory=dict[str, Condition])
    live: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    still: dict[tuple[Who, str], Tensor] = field(default_factory=dict[tuple[Who, str], Tensor])

    def told(self, role: str) -> Int[Tensor, " N"]:
        """Which text each row is told in a role, -1 where its lesson has no such role."""
        return self.room.told(self.states.lesson, role)

    def made(self, who: Who, role: str) -> Tensor:
        """The student's word, with gradient."""
        return self.live[role]

    def goal(self, who: Who, role: str) -> Tensor:
        """A constant: the truth, the untrained network's word, or the student's own."""
        return self.still[who, role]


@runtime_checkable
class Term(Protocol):
    """One summand of the loss; `made` and `goal` say whose words it needs."""

    @property
    def made(self) -> Score:
        """The student's words, asked for with gradient."""
        ...

    @property
    def goal(self) -> Score:
        """Words held constant."""
        ...

    def __call__(self, batch: Batch) -> Float[Tensor, ""]:
        """The summand's value."""
        ...


@dataclass(frozen=True)
class Pull:
    """weight x mean over rows of |f (made - goal)|^2; rows without the roles, or with t / T outside `span`, count as 0.

    f turns differences of predictions into differences of noises or of clean latents, so the coefficients of both
    scores must have one sum. Raises `MethodError` where they do not.
    """

    made: Score
    goal: Score
    weight: float = 1.0
    space: Space = "prediction"
    span: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        if abs(self.made.total - self.goal.total) > 1e-9:
            raise MethodError(
                f"A score of total {self.made.total:g} is pulled to one of {self.goal.total:g}; make them equal."
            )
        if len(self.made.roles("student")) != len(self.made.parts):
            raise MethodError("Only what the student says can be pulled.")

    def __call__(self, batch: Batch) -> Float[Tensor, ""]:
        """The summand's value; the lower end of the span is inside."""
        states, kernel = batch.states, batch.room.kernel
        gap = self.made.value(batch.made) - self.goal.value(batch.goal)
        gap = kernel.factor(self.space, states.t, gap) * gap
        when = states.t / len(kernel.bars)
        inside = (when >= self.span[0]) & (when < self.span[1])
        for who, role, _ in (*self.made.parts, *self.goal.parts):
            inside = inside & (batch.told(role) >= 0) if who != "truth" else inside
        return self.weight * (gap.square().flatten(1).mean(1) * inside.to(gap)).mean()


@runtime_checkable
class Companion(Protocol):
    """Something that learns beside the student: an adversary, a critic."""

    def before(self, batch: Batch) -> None:
        """Called at every iteration before anyone is asked; may set conditions of the batch."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """What it needs to go on after a restart."""
        ...

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from there."""
        ...


@dataclass(frozen=True, eq=False)
class Recipe:
    """What is learned, where, when, in which space, by which parameters, and how fast.

    `combine` gets the gradients of every term apart and returns those to follow; without it their sum is followed.
    `attach` may observe the student's network through the patch.
    """

    lessons: Sequence[Lesson]
    terms: Sequence[Term]
    source: Source
    group: Group = "xattn"
    rank: int = 0
    alpha: float = 0.0
    masks: Mapping[str, Tensor] | None = None
    iterations: int = 200
    batch: int = 4
    rate: float = 1e-4
    decay: float = 0.0
    times: Times = uniform
    combine: Callable[[Sequence[Gradients]], Gradients] | None = None
    companion: Companion | None = None
    attach: Callable[[Patch], None] | None = None
    seed: int = 0


def distill(bundle: Bundle, recipe: Recipe, tap: Tap = ignore, name: str = "") -> Delta:
    """Train by a recipe; the change as a Delta of kind `weights`.

    With a `name` (the method's `fit_key`) and a store, a run that was stopped goes on where it was, to the same bits.
    Every walk's step and every iteration is shown to `tap`. Raises `CheckpointMismatch` when the loss is not finite.
    """
    tick = progress(tap, recipe.source.ticks(recipe.iterations) + recipe.iterations)
    with torch.inference_mode(False), torch.enable_grad(), Patch(bundle) as patch:
        trainee = Trainee(
            patch, select(bundle, recipe.group), rank=recipe.rank, alpha=recipe.alpha, seed=recipe.seed,
            masks=recipe.masks)  # fmt: skip
        if recipe.attach is not None:
            recipe.attach(patch)
        room = Room(bundle, recipe.lessons, trainee, seed=recipe.seed, tick=tick)
        return _Fit(room, recipe, trainee, name).run()


class _Fit:
    def __init__(self, room: Room, recipe: Recipe, trainee: Trainee, name: str) -> None:
        self.room, self.recipe, self.trainee = room, recipe, trainee
        self.optimiser = torch.optim.AdamW(trainee.values, lr=recipe.rate, weight_decay=recipe.decay)
        address = json.dumps([room.bundle.digest, list(room.bundle.seams.edits), name])
        self.key = "distill/" + hashlib.sha256(address.encode()).hexdigest()[:32] if name else ""

    def run(self) -> Delta:
        recipe, refresh = self.recipe, self.recipe.source.refresh
        start, pool = self._restore(), None
        for index in range(start, recipe.iterations):
            done = index
            try:
                if pool is None or (refresh and index % refresh == 0):
                    pool = recipe.source.fill(self.room, index // refresh if refresh else 0)
                states = pool.draw(self.room, recipe.times, recipe.batch, self._generator(index))
                loss = self._learn(states, index)
                done = index + 1
                self.room.tick(float(states.t.float().mean()), {"loss": loss})
            except Stopped:
                self._keep(done)
                raise
            if done % KEEP == 0 and done < recipe.iterations:
                self._keep(done)
        self._forget()
        text = {"group": recipe.group, "iterations": str(recipe.iterations), "rank": str(recipe.rank)}
        return self.trainee.delta(text)

    def _generator(self, index: int) -> torch.Generator:
        return row_generator(self.recipe.seed, "iteration", index)

    def _learn(self, states: States, index: int) -> float:
        """One step of the optimiser; the loss before it."""
        recipe, trainee = self.recipe, self.trainee
        batch = Batch(self.room, states)
        if recipe.companion is not None:
            recipe.companion.before(batch)
        answer(batch, recipe.terms)
        losses = [term(batch) for term in recipe.terms]
        total = sum(losses[1:], losses[0])
        if not torch.isfinite(total):
            raise CheckpointMismatch(
                f"The loss is {float(total.detach())} after {index} iterations at rate {recipe.rate:g}, so the fit was "
                "given up. Lower the rate, or load the model in a wider dtype."
            )
        if recipe.combine is None:
            gradients = self._gradients(total, False)
        else:
            gradients = recipe.combine([self._gradients(loss, True) for loss in losses])
        trainee.take(gradients)
        self.optimiser.step()
        trainee.settle()
        return float(total.detach())

    def _gradients(self, loss: Tensor, again: bool) -> Gradients:
        if not loss.requires_grad:
            return {}
        live = self.trainee.live
        every = torch.autograd.grad(loss, live, retain_graph=again, allow_unused=True)
        found = cast(Sequence[Tensor | None], every)  # torch's types forget that an unused one has none
        return {key: grad for key, grad in zip(self.trainee.keys, found, strict=True) if grad is not None}

    def _keep(self, index: int) -> None:
        """Keep what a restart needs; within a student's walks only its state at their beginning would do."""
        store, refresh = self.room.bundle.store, self.recipe.source.refresh
        if store is None or not self.key or not index or (refresh and index % refresh):
            return
        tensors = {f"value.{i}": value for i, value in enumerate(self.trainee.values)}
        for i, value in enumerate(self.trainee.values):
            state: dict[str, Any] = self.optimiser.state[value]
            tensors |= {f"state.{i}.{name}": part for name, part in state.items()}
        if self.recipe.companion is not None:
            tensors |= {f"companion.{name}": value for name, value in self.recipe.companion.tensors().items()}
        store.keep_tensors(self.key, tensors, {"iteration": str(index)})

    def _forget(self) -> None:
        """A finished fit needs no restart."""
        store = self.room.bundle.store
        if store is not None and self.key and store.tensors(self.key) is not None:
            store.keep_tensors(self.key, {}, {"iteration": "0"})

    def _restore(self) -> int:
        """Go on from what was kept: the iteration to do next."""
        store = self.room.bundle.store
        kept = store.tensors(self.key) if store is not None and self.key else None
        index = int(kept[1].get("iteration", "0")) if kept else 0
        if not kept or not 0 < index <= self.recipe.iterations:
            return 0
        tensors = kept[0]
        with torch.no_grad():
            for i, value in enumerate(self.trainee.values):
                value.copy_(tensors[f"value.{i}"])
                head = f"state.{i}."
                state = {name.removeprefix(head): part for name, part in tensors.items() if name.startswith(head)}
                self.optimiser.state[value] = {k: v if k == "step" else v.to(value) for k, v in state.items()}
        self.trainee.settle()
        if self.recipe.companion is not None:
            mine = {k.removeprefix("companion."): v for k, v in tensors.items() if k.startswith("companion.")}
            self.recipe.companion.restore(mine)
        return index


def answer(batch: Batch, terms: Sequence[Term]) -> None:
    """Ask everyone whom the terms need: the untrained network where it has not said it, then the student, once."""
    room = batch.room
    goals = list(dict.fromkeys(part[:2] for term in terms for part in term.goal.parts))
    live = list(dict.fromkeys(role for term in terms for role in term.made.roles("student")))
    if batch.states.truth is not None:
        batch.still["truth", ""] = batch.states.truth
    told = [role for who, role in goals if who == "teacher"]
    batch.still |= {("teacher", role): said for role, said in _ask(batch, told, room.base, batch.states.said).items()}
    constant = [role for who, role in goals if who == "student"]
    with torch.no_grad():
        alone = _ask(batch, [role for role in constant if role not in live], room.predict)
    batch.live |= _ask(batch, live, room.predict)
    batch.still |= {("student", role): alone[role] if role in alone else batch.live[role].detach() for role in constant}


def _ask(
    batch: Batch, roles: Sequence[str], ask: Callable[..., Tensor], said: Sequence[tuple[Tensor, Tensor]] = ()
) -> dict[str, Tensor]:
    """What is said in some roles: of what is not known yet, in one call."""
    states, room = batch.states, batch.room
    answers = {role: torch.zeros_like(states.x) for role in roles}
    open_rows: list[Tensor] = []
    conds: list[Condition] = []
    for role in roles:
        told = batch.told(role)
        wanted = told >= 0
        for known, made in said if role not in batch.conds else ():
            hit = wanted & (known == told)
            answers[role][hit] = made[hit].to(answers[role])
            wanted &= ~hit
        rows = wanted.nonzero()[:, 0]
        open_rows.append(rows)
        if len(rows):
            conds.append(batch.conds[role].rows(rows.tolist()) if role in batch.conds else room.cond(told[rows]))
    if conds:
        index = torch.cat(open_rows)
        made = ask(states.x[index], states.t[index], joined(conds)).to(states.x.dtype)
        parts = made.split([len(rows) for rows in open_rows])
        for role, rows, part in zip(roles, open_rows, parts, strict=True):
            answers[role] = answers[role].index_copy(0, rows.to(part.device), part)
    return answers
