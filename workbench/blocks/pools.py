"""Where a fit learns: prompts by role, and noisy states on the model's own way or on pictures that it drew.

A lesson says for each of its roles ("concept", "anchor", "empty", "kept" ...) the prompt that the network is told; None
is what sampling tells it where there is no prompt. States are reused for many steps of the optimiser, and what the
untrained network said on the way is kept with them, so it is not asked twice.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# Tensor.tolist carries no types

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.blocks.denoise import Course, Walk, condition, denoise, first_noise, loop
from workbench.blocks.groups import Trainee
from workbench.core.ask import Ask
from workbench.core.bundle import Bundle, Condition, TextStates
from workbench.core.patch import Patch
from workbench.core.tape import Step, Tap
from workbench.ops.noise import row_generator

Lesson = Mapping[str, str | None]
Space = Literal["prediction", "epsilon", "x0"]
#: How likely each timestep is: from t / T in 0..1 (1 is pure noise) to weights of at least 0.
Times = Callable[[Float[Tensor, " n"]], Float[Tensor, " n"]]


@runtime_checkable
class Tick(Protocol):
    """Shows one more step of a fit: the noise level it was about, and what else is known of it by number."""

    def __call__(self, level: float, numbers: Mapping[str, float] | None = None) -> None:
        """Show it. May raise `Stopped`."""
        ...


def unseen(level: float, numbers: Mapping[str, float] | None = None) -> None:
    """Show nobody."""


CHUNK = 8  # walks that go on together
LARGE = 5_000_000  # parameters from which bfloat16 pays on a CPU that has it


def uniform(when: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Every timestep is as likely as any other."""
    return torch.ones_like(when)


@dataclass(frozen=True, eq=False)
class Kernel:
    """How a model's noisy states are made, x_t = a x0 + s n with a^2 + s^2 = 1, and what its network predicts."""

    bars: Float[Tensor, " T"]
    kind: str

    @classmethod
    def of(cls, bundle: Bundle) -> "Kernel":
        """The kernel of a bundle's own schedule."""
        scheduler = bundle.scheduler("ddpm", 2)
        return cls(scheduler.alphas_cumprod.float(), str(scheduler.config.prediction_type))

    def scales(self, t: Int[Tensor, " n"], like: Tensor) -> tuple[Tensor, Tensor]:
        """a and s of timesteps, [n, 1, 1, 1]."""
        bars = self.bars.to(like.device, like.dtype)[t.to(like.device)].reshape(-1, *[1] * (like.ndim - 1))
        return bars.sqrt(), (1 - bars).sqrt()

    def noised(self, clean: Tensor, noise: Tensor, t: Int[Tensor, " n"]) -> tuple[Tensor, Tensor]:
        """x_t, and what a perfect network would predict there: n, the velocity a n - s x0, or x0."""
        a, s = self.scales(t, clean)
        truth = {"epsilon": noise, "v_prediction": a * noise - s * clean}.get(self.kind, clean)
        return a * clean + s * noise, truth

    def factor(self, space: Space, t: Int[Tensor, " n"], like: Tensor) -> Tensor:
        """What a difference of two predictions at one x_t is multiplied by to be one of noises, or of clean latents."""
        a, s = self.scales(t, like)
        if space == "prediction" or (space, self.kind) in (("epsilon", "epsilon"), ("x0", "sample")):
            return torch.ones_like(a)
        if self.kind == "v_prediction":
            return a if space == "epsilon" else s
        return s / a if space == "x0" else a / s


@dataclass(frozen=True, eq=False)
class States:
    """Noisy latents x_t to learn at, their timesteps and lessons, and the truth where it is known.

    `said` holds what the untrained network said there: pairs of which text each row was told and the prediction.
    """

    x: Float[Tensor, "N C h w"]
    t: Int[Tensor, " N"]
    lesson: Int[Tensor, " N"]
    truth: Tensor | None = None
    said: tuple[tuple[Tensor, Tensor], ...] = ()

    def rows(self, index: Tensor) -> "States":
        """Some of them, in this order."""
        truth = None if self.truth is None else self.truth[index]
        said = tuple((told[index], made[index]) for told, made in self.said)
        return States(self.x[index], self.t[index], self.lesson[index], truth, said)


class Room:
    """What a fit works in: the bundle, the trainee in its place, the lessons' texts, how precisely it computes."""

    def __init__(
        self, bundle: Bundle, lessons: Sequence[Lesson], trainee: Trainee | None = None, *, seed: int = 0,
        tick: Tick = unseen) -> None:  # fmt: skip
        self.bundle, self.lessons, self.trainee, self.seed, self.tick = bundle, tuple(lessons), trainee, seed, tick
        self.kernel, self.dtype = Kernel.of(bundle), precision(bundle)
        height, width = bundle.shapes.image[1:]
        self.size = (width, height)
        prompts = list(dict.fromkeys(p for lesson in self.lessons for p in lesson.values() if p is not None))
        with torch.no_grad():
            empty = condition(bundle, Ask(prompts=[""]), True, self.size).rows([0])
            texts = [condition(bundle, Ask(prompts=prompts), False, self.size)] if prompts else []
        self.texts = joined([empty, *texts])
        self._row: dict[str | None, int] = {None: 0, **{prompt: i + 1 for i, prompt in enumerate(prompts)}}

    def row(self, prompt: str | None) -> int:
        """The row of `texts` of a lesson's prompt, 0 for none."""
        return self._row[prompt]

    def told(self, lessons: Int[Tensor, " N"], role: str) -> Int[Tensor, " N"]:
        """Which text each lesson tells in a role: a row of `texts`, 0 for no prompt, -1 where it has no such role."""
        rows = [self._row[lesson[role]] if role in lesson else -1 for lesson in self.lessons]
        return torch.tensor(rows)[lessons]

    def cond(self, told: Int[Tensor, " N"]) -> Condition:
        """The condition of texts by row; that of no prompt has the role `uncond`."""
        rows: list[int] = told.tolist()
        return replace(self.texts.rows(rows), roles=tuple("cond" if row else "uncond" for row in rows))

    def predict(self, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        """The network's words in float32 (or wider), at the room's precision."""
        with self.fast():
            made = self.bundle.predict(x, t.to(x.device), cond)
        return made.to(torch.promote_types(made.dtype, torch.float32))

    @contextmanager
    def fast(self) -> Generator[None]:
        """The room's precision, for a while."""
        with torch.autocast(self.bundle.device.type, self.dtype) if self.dtype is not None else nullcontext():
            yield

    @torch.no_grad()
    def base(self, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        """What the network would say without the training."""
        with self.resting():
            return self.predict(x, t, cond)

    @contextmanager
    def resting(self) -> Generator[None]:
        """The model without the training, for a while."""
        with self.trainee.resting() if self.trainee is not None else nullcontext():
            yield

    def tap(self, step: Step) -> None:
        """Hand a walk's step on as progress."""
        self.tick(step.level)


def precision(bundle: Bundle) -> torch.dtype | None:
    """bfloat16 for half-precision models (float16 gradients vanish) and for large ones where the CPU has units for it.

    None computes in the model's own numbers.
    """
    if bundle.dtype in (torch.float16, torch.bfloat16):
        return torch.bfloat16
    size = sum(p.numel() for part in dict.fromkeys(s.part for s in bundle.all_sites)
               for p in bundle.parts[part].parameters())  # fmt: skip
    if bundle.device.type != "cpu" or bundle.dtype != torch.float32 or size < LARGE:
        return None
    able: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict[str, Any])()
    return torch.bfloat16 if able.get("avx512_bf16") or able.get("amx_bf16") else None


def joined(conds: Sequence[Condition]) -> Condition:
    """Conditions one after another; what one of them lacks, all lack."""

    def cat(rows: Sequence[Tensor | None]) -> Tensor | None:
        there = [row for row in rows if row is not None]
        return torch.cat(there) if len(there) == len(rows) else None

    first = cat([cond.text.states for cond in conds])
    rest = [cat([getattr(cond.text, name) for cond in conds]) for name in ("pooled", "mask", "ids")]
    extra = {name: torch.cat([cond.extra[name] for cond in conds]) for name in conds[0].extra}
    seeds = tuple(seed for cond in conds for seed in cond.seeds)
    roles = tuple(role for cond in conds for role in cond.roles)
    return Condition(TextStates(first, *rest), seeds, roles, conds[0].step, extra)  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True)
class Walks:
    """States on the way from noise to pictures: `count` walks of `steps` DDIM steps under guidance.

    A lesson's walk follows its prompt in the first of `roles` that it has. The base walks once; the student walks anew
    every `refresh` steps of the optimiser, as it is by then.
    """

    count: int = 16
    steps: int = 20
    guidance: float = 3.0
    roles: tuple[str, ...] = ("concept", "kept")
    by: Literal["base", "student"] = "base"
    refresh: int = 0

    def ticks(self, iterations: int) -> int:
        """Steps of walking in a fit, for its progress."""
        rounds = -(-iterations // self.refresh) if self.refresh else 1
        return rounds * -(-self.count // CHUNK) * self.steps

    @torch.no_grad()
    def fill(self, room: Room, turn: int) -> "Visited":
        """Walk; lessons take turns."""
        order = torch.arange(self.count) % len(room.lessons)
        parts: list[States] = []
        with room.resting() if self.by == "base" else nullcontext():
            for start in range(0, self.count, CHUNK):
                lessons = order[start : start + CHUNK]
                draws = [row_generator(room.seed, "walk", turn, start + k) for k in range(len(lessons))]
                parts.append(self._walk(room, lessons, draws))
        said = [(torch.cat([part.said[i][0] for part in parts]), torch.cat([part.said[i][1] for part in parts]))
                for i in range(len(parts[0].said))]  # fmt: skip
        x, t, lesson = (torch.cat([getattr(part, name) for part in parts]) for name in ("x", "t", "lesson"))
        return Visited(States(x, t, lesson, None, tuple(said)))

    def _walk(self, room: Room, lessons: Tensor, draws: list[torch.Generator]) -> States:
        count, seen = len(lessons), list[tuple[Tensor, Tensor, Tensor]]()
        told = torch.stack([room.told(lessons, role) for role in self.roles])
        told = told.gather(0, (told >= 0).int().argmax(0, keepdim=True))[0]
        seeds = tuple(range(count))
        cond = replace(room.cond(told), seeds=seeds, roles=("cond",) * count)
        guided = self.guidance > 1
        if guided:
            cond = joined([replace(room.cond(torch.zeros_like(told)), seeds=seeds), cond])

        def spy(inner: Callable[..., Tensor]) -> Callable[..., Tensor]:
            def predict(x: Tensor, t: Tensor, now: Condition) -> Tensor:
                with room.fast():
                    made = inner(x, t, now).to(x.dtype)
                seen.append((x[:count], t[:count].cpu(), made))
                return made

            return predict

        start = first_noise(room.bundle, draws, room.size)
        start = start.to(torch.promote_types(start.dtype, torch.float32))
        scheduler = room.bundle.scheduler("ddim", self.steps)
        with Patch(room.bundle) as patch:
            patch.wrap("predict", spy)
            loop(Walk(room.bundle, cond, scheduler, self.guidance, tuple(draws), room.tap), start)
        said: list[tuple[Tensor, Tensor]] = []
        if self.by == "base":
            said.append((told.repeat(len(seen)), torch.cat([made[-count:] for _, _, made in seen])))
        if self.by == "base" and guided:
            said.append((torch.zeros_like(said[0][0]), torch.cat([made[:count] for _, _, made in seen])))
        x, t = torch.cat([x for x, _, _ in seen]), torch.cat([t for _, t, _ in seen]).round().long()
        return States(x, t, lessons.repeat(len(seen)), None, tuple(said))


@dataclass(frozen=True, eq=False)
class Visited:
    """States as they were met on walks."""

    states: States

    def draw(self, room: Room, times: Times, count: int, generator: torch.Generator) -> States:
        """Some of them, with repetition."""
        weights = times(self.states.t / len(room.kernel.bars))
        return self.states.rows(torch.multinomial(weights, count, True, generator=generator))


@dataclass(frozen=True)
class Pictures:
    """Pictures that the base model draws (`count`, by `steps` of DPM++), noised anew at every draw.

    A lesson's pictures show its prompt in the first of `roles` that it has.
    """

    count: int = 32
    steps: int = 15
    guidance: float = 5.0
    roles: tuple[str, ...] = ("anchor", "kept")
    refresh: int = 0

    def ticks(self, iterations: int) -> int:
        """Steps of drawing in a fit, for its progress."""
        return -(-self.count // CHUNK) * self.steps

    @torch.no_grad()
    def fill(self, room: Room, turn: int) -> "Clean":
        """Draw; lessons take turns."""
        order = torch.arange(self.count) % len(room.lessons)
        course = Course("dpm++", self.steps, self.guidance)
        said = [room.lessons[lesson] for lesson in order.tolist()]
        prompts = [next(lesson[role] for role in self.roles if role in lesson) or "" for lesson in said]
        seeds = [int(torch.randint(2**62, (), generator=row_generator(room.seed, "picture", turn, k)))
                 for k in range(self.count)]  # fmt: skip
        parts: list[Tensor] = []
        with (
            room.resting(),
            torch.autocast(room.bundle.device.type, room.dtype or torch.bfloat16, room.dtype is not None),
        ):
            for start in range(0, self.count, CHUNK):
                ask = Ask(prompts=prompts[start : start + CHUNK], seeds=seeds[start : start + CHUNK])
                parts.append(denoise(room.bundle, ask, room.tap, course, room.size))
        clean = torch.cat(parts)
        return Clean(clean.to(torch.promote_types(clean.dtype, torch.float32)), order)


@dataclass(frozen=True, eq=False)
class Clean:
    """Clean latents, to be noised to any timestep."""

    latents: Float[Tensor, "N C h w"]
    lesson: Int[Tensor, " N"]

    def draw(self, room: Room, times: Times, count: int, generator: torch.Generator) -> States:
        """Some of them under fresh noise, with what a perfect network would say."""
        total = len(room.kernel.bars)
        index = torch.randint(len(self.latents), (count,), generator=generator)
        t = torch.multinomial(times(torch.arange(total) / total), count, True, generator=generator)
        clean = self.latents[index]
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        x, truth = room.kernel.noised(clean, noise, t)
        return States(x, t, self.lesson[index], truth)


@runtime_checkable
class Stock(Protocol):
    """States to learn at."""

    def draw(self, room: Room, times: Times, count: int, generator: torch.Generator) -> States:
        """Some of them, with repetition."""
        ...


@runtime_checkable
class Source(Protocol):
    """What makes a stock of states before learning, and for a student's walks now and then meanwhile."""

    @property
    def refresh(self) -> int:
        """Steps of the optimiser after which the stock is made anew; 0 never."""
        ...

    def ticks(self, iterations: int) -> int:
        """Steps of making stocks in a fit, for its progress."""
        ...

    def fill(self, room: Room, turn: int) -> Stock:
        """Make a stock, for the turn-th time."""
        ...


def progress(tap: Tap, total: int) -> Tick:
    """A counter that shows every call to a tap as one step of `total`; the tap may raise `Stopped` to end the work."""
    count = 0

    def tick(level: float, numbers: Mapping[str, float] | None = None) -> None:
        nonlocal count
        count += 1
        tap(Step(min(count, total) - 1, total, level, numbers=numbers or {}))

    return tick
