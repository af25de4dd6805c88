"""Ways of composing the shipped adapters on the default model, on the same prompts and seeds, within a hard budget.

    workbench bench --topic compose minutes=90 --out assets/benchmarks

Tasks: `T5` each adapter alone (what any composition can reach at most, and what it does to other prompts), `T1` a
subject in the held-out style, `T2` two subjects of different classes, `T3` two of one class. T2 and T3 need a model
that draws two objects at all: where the unedited model shows both in fewer than `able` of its pictures of two objects
it knows, their rows say that they are not measurable on this tier. Plain addition gets the best of three weights; a
way wins a task only where the interval of its paired gain over that excludes 0. What was drawn and fitted is kept, so
a second call goes on where the budget ended; cells that were not reached are rows without numbers that say so.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import combinations
from typing import Any, cast

import torch

from workbench.blocks import composition
from workbench.blocks.adapter_files import shipped
from workbench.blocks.composition import Composed, Halves, Player
from workbench.blocks.judging import Eye, concept, world_of
from workbench.blocks.paired import Gallery, pieces, with_article
from workbench.blocks.world import World
from workbench.core.ask import Ask
from workbench.core.bundle import Bundle
from workbench.core.catalog import method
from workbench.core.errors import AskError, Stopped, WorkbenchError
from workbench.core.method import Edit, Sampler
from workbench.core.scene import Scene
from workbench.runs.bench import Options, read_wishes
from workbench.runs.benches.erase import Budget
from workbench.runs.environment import environment
from workbench.runs.verbs import load

Result = dict[str, Any]
SUMS = {f"sum {weight}": {"rule": "sum", "weights": weight} for weight in (0.5, 0.7, 1.0)}
ABLE = 0.9  # an adapter alone should show its subject or style in this share of its pictures
#: Six ways a task, plain addition counting as one; each a method at its defaults.
STYLED = ("stf", "k-lora", "least-squares", "lora-composite", "lora-switch")
PAIRED = ("stf", "least-squares", "lora-composite", "masked-lora", "clora")


@dataclass(frozen=True)
class Wishes:
    """What can be asked for: a hard budget, pictures a question and of plain prompts, steps, pairs, how able."""

    minutes: float = 90.0
    pictures: int = 32
    prior: int = 32
    steps: int = 10
    pairs: int = 4
    few: int = 2
    able: float = 0.5


@dataclass(frozen=True)
class Job:
    """One cell: a way of composing some players, for a task."""

    task: str
    way: str
    players: tuple[Player, ...]

    @property
    def title(self) -> str:
        """What the row is called."""
        return f"{self.task} {self.way}: {' + '.join(player.source for player in self.players)}"

    @property
    def edit(self) -> Edit:
        """The method with its settings."""
        given = SUMS.get(self.way, {})
        name = "merge" if given else "lora" if self.way == "lora" else self.way
        settings: dict[str, Any] = {**given, "adapters": [player.source for player in self.players]}
        if given:
            settings["weights"] = [given["weights"]] * len(self.players)
        if name in ("masked-lora", "clora"):
            settings["triggers"] = [player.word for player in self.players]
        if name == "least-squares":
            settings["prompts"] = [with_article(p.word) + (" emoji" if p.about.style else "") for p in self.players]
        return cast(Edit, method(name, **settings))


def survey(options: Options, keep: Callable[[Result], None]) -> Result:
    """The whole table; `keep` gets it after every cell, so that a part is never lost."""
    wishes = read_wishes(Wishes, "compose", options.more)
    device = "cuda" if options.tier == "gpu" else "cpu"
    bundle = load(options.model, models=options.models, device=device, dtype=options.dtype)
    return run(bundle, [player for name in shipped() for player in composition.cast(bundle, [name])], wishes,
               options.tier, keep)  # fmt: skip


def run(bundle: Bundle, players: Sequence[Player], wishes: Wishes, tier: str, keep: Callable[[Result], None]) -> Result:
    """The table of a loaded model and some adapters. Raises `AskError` where there are none."""
    if not players:
        raise AskError(
            "bench compose composes the shipped adapters, and there are none. Fit some: workbench train adapters"
        )
    budget = Budget(wishes.minutes)
    field = _Field(bundle, wishes, budget)
    result: Result = {
        "schema": 1, "topic": "compose", "tier": tier, "made": datetime.now(UTC).date().isoformat(),
        "model": {"name": bundle.name, "digest": bundle.digest}, "environment": environment(bundle), "repeats": 1,
        "against": "", "settings": vars(wishes), "rows": [], "how": f"{wishes.pictures} pictures a question and "
        f"{wishes.prior} of plain prompts, {wishes.steps} steps, the same seeds for every way, 95 % intervals; gain is "
        "over the best plain sum of the task"}  # fmt: skip
    jobs = list(plan(world_of(bundle), players, wishes))
    done: dict[Job, Composed] = {}
    states: dict[Job, str] = {}
    try:
        result["two_objects"] = round(field.two_objects(), 4)
    except Stopped:
        result["note"] = "The budget ended while two objects were being drawn. Run it again to go on."
    unable = "two_objects" in result and result["two_objects"] < wishes.able
    for job in jobs:
        if unable and job.task in ("T2", "T3"):
            states[job] = (
                f"not measurable on this tier: the unedited model draws both of two known objects in "
                f"{result['two_objects']:.0%} of its pictures, and {wishes.able:.0%} are needed"
            )
    for job in jobs:
        if budget.over:
            break
        if job not in states:
            found = field.measured(job)
            states[job] = found if isinstance(found, str) else "done"
            done |= {} if isinstance(found, str) else {job: found}
        result["rows"] = rows(jobs, done, states)
        result["note"] = note(done)
        result["minutes"] = round((time.monotonic() - budget.began) / 60, 2)
        keep(result)
    result["rows"] = rows(jobs, done, states)
    keep(result)
    return result


def plan(world: World, players: Sequence[Player], wishes: Wishes) -> Iterator[Job]:
    """The cells in the order in which they are measured."""
    styles = [player for player in players if player.about.style]
    subjects = [player for player in players if not player.about.style]
    for player in players:
        yield Job("T5", "lora", (player,))
    together = [(subject, style) for style in styles for subject in subjects][: wishes.pairs]
    pairs = list(combinations(subjects, 2))
    apart = [pair for pair in pairs if len({_group(world, player) for player in pair}) == 2][: wishes.pairs]
    alike = [pair for pair in pairs if len({_group(world, player) for player in pair}) == 1][: wishes.few]
    for task, ways, cast_ in (("T1", STYLED, together), ("T2", PAIRED, apart), ("T3", PAIRED, alike)):
        for pair in cast_:
            yield from (Job(task, way, pair) for way in (*SUMS, *ways))


def _group(world: World, player: Player) -> str:
    return world.thing(sorted(player.about.labels)[0]).group


class _Field:
    """A model with its judges, and what plain prompts come to without adapters."""

    def __init__(self, bundle: Bundle, wishes: Wishes, budget: Budget) -> None:
        self.bundle, self.wishes, self.tap = bundle, wishes, budget.tap()
        self.sampler = cast(Sampler, method(bundle.sampler, steps=wishes.steps))
        self.world = world_of(bundle)
        self.eyes = Halves(bundle), Eye(bundle, scorer="emoji-scorer")
        scene = Scene(bundle, self.sampler, (), Ask(prompts=["a"], seeds=[0]), self.tap)
        self.calm = pieces(scene, bundle.world, [composition.prior(self.world, (), wishes.prior)])

    def gallery(self, eye: Eye) -> Gallery:
        """Where pictures are drawn or found."""
        return Gallery(self.bundle, self.sampler, eye, self.tap)

    def two_objects(self) -> float:
        """The share of the unedited model's pictures of two objects that it knows which show both, one in each half."""
        words, hits, total = self.world.tier, 0, 0
        for start in range(0, self.wishes.pictures, 8):
            pair = [words[(start * 7 + offset) % len(words)] for offset in (0, len(words) // 2)]
            players = [Player("", word, concept(self.world, word)) for word in pair]
            count = min(8, self.wishes.pictures - start)
            drawn = self.gallery(self.eyes[0]).drawn((), composition.requests(self.world, players, count, start))
            marks = composition.marks(self.eyes[0], players, drawn)
            hits, total = hits + int(marks["pair"].sum()), total + count
        return hits / total

    def measured(self, job: Job) -> Composed | str:
        """One cell: fitted, drawn and judged, or why not."""
        try:
            before = self.gallery(self.eyes[1]).drawn((), self.calm)
            asked = composition.requests(self.world, job.players, self.wishes.pictures, 0)
            drawn = self.gallery(self.eyes[0]).drawn((job.edit,), asked)
            after = self.gallery(self.eyes[1]).drawn((job.edit,), self.calm)
        except Stopped:
            return "the budget ended while fitting or drawing"
        except WorkbenchError as error:
            return f"failed: {error}"
        return replace(composition.composed(job.title, self.eyes, job.players, drawn, (before, after)), pictures=())


def rows(jobs: Sequence[Job], done: Mapping[Job, Composed], states: Mapping[Job, str]) -> list[Result]:
    """A row a cell, and then one for every way of a task over all its pairs, with its gain over the best sum."""
    made = [
        {"name": job.title, "method": job.edit.card.name, "group": job.task, "way": job.way,
         "adapters": [player.source for player in job.players], "state": states.get(job, "not reached"),
         "numbers": _rounded(composition.numbers(done[job])) if job in done else {}} for job in jobs
    ]  # fmt: skip
    for task in dict.fromkeys(job.task for job in jobs if job.task != "T5"):
        whole = pooled([job for job in jobs if job.task == task], done)
        sums = [found for way, found in whole.items() if way in SUMS]
        best = max(sums, key=lambda found: float(found.marks[found.leading].float().mean()), default=None)
        for way, found in whole.items():
            other = best if best is not None and best is not found else None
            comparable = other is not None and len(other.after) == len(found.after)
            numbers = composition.numbers(found, other if comparable else None)
            gain = numbers.get("gain_low", 0.0), numbers.get("gain_high", 0.0)
            verdict = "wins" if gain[0] > 0 else "loses" if gain[1] < 0 else "no difference shown"
            made.append({"name": f"{task} {way}: all pairs", "method": "", "group": task, "way": way, "adapters": [],
                         "state": "best sum" if found is best else verdict if comparable else "done",
                         "numbers": _rounded(numbers)})  # fmt: skip
    return made


def note(done: Mapping[Job, Composed]) -> str:
    """Which adapters hardly show alone, so that no way of composing them can show much."""
    weak: list[str] = []
    for job, found in done.items():
        share = float(found.marks[found.leading].float().mean())
        if job.task == "T5" and share < ABLE:
            weak.append(f"{job.players[0].source} {share:.0%}")
    if not weak:
        return f"Every adapter alone shows what it stands for in {ABLE:.0%} of its pictures or more."
    return f"Alone, these show what they stand for in fewer than {ABLE:.0%} of their pictures: {', '.join(weak)}."


def pooled(jobs: Sequence[Job], done: Mapping[Job, Composed]) -> dict[str, Composed]:
    """All pairs of a task as one outcome for each way that has been measured on all of them."""
    found: dict[str, Composed] = {}
    for way in dict.fromkeys(job.way for job in jobs):
        mine = [done[job] for job in jobs if job.way == way and job in done]
        if mine and len(mine) == sum(job.way == way for job in jobs):
            marks = {mark: torch.cat([one.marks[mark] for one in mine]) for mark in mine[0].marks}
            before, after, drift = (torch.cat([getattr(one, n) for one in mine]) for n in ("before", "after", "drift"))
            found[way] = Composed(way, marks, before, after, drift, sum(one.seconds for one in mine) / len(mine))
    return found


def _rounded(numbers: Mapping[str, float]) -> dict[str, float]:
    return {name: round(float(value), 4) for name, value in numbers.items()}
