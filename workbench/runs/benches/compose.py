"""Ways of composing the shipped adapters on the default model, on the same prompts and seeds, within a hard budget.

    workbench bench --topic compose minutes=65 --out assets/benchmarks

Tasks: `T5` each adapter alone (what any composition can reach at most, and what it does to prompts that call nobody),
then `T1` a subject in the held-out style, the subject that shows best alone first (ties by name). Two pairs of T1
come before and the rest after the first `cat` row of T5: the same subject fitted anew with the settings of its own
`training.json` and the term of contrastive adapter training, on the same prompts and seeds as the shipped one alone;
it raises prior preservation at equal identity where more plain prompts come out right and no fewer pictures of the
subject do, each by its interval. Last come `T2` two subjects of different classes and `T3` two of one class, where the
unedited model shows both objects in at least `able` of its pictures of two objects that it knows; else a line says that
the task is not measurable. Plain addition gets the best of three weights; a way wins only where the interval of its
paired gain over that excludes 0: of subject x style in T1 (bootstrap over rows), of both shown in T2 and T3 (Newcombe).

On one thread T1 of 4 pairs and T5 with two fits took 22 minutes. What was drawn and fitted is kept, so a second call
goes on where the budget ended; cells that were not reached are rows without numbers that say so.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import combinations
from typing import Any, cast

import torch

from workbench.blocks import composition
from workbench.blocks.adapter_files import shipped
from workbench.blocks.adapters import read_adapter
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
from workbench.ops.stats import bootstrap
from workbench.runs.bench import Options, read_wishes
from workbench.runs.benches.erase import Budget
from workbench.runs.environment import environment
from workbench.runs.verbs import load

Result = dict[str, Any]
SUMS = {f"sum {weight}": {"rule": "sum", "weights": weight} for weight in (0.5, 0.7, 1.0)}
ABLE = 0.9  # an adapter alone should show its subject or style in this share of its pictures
#: Six ways a task, plain addition counting as one; each a method at its defaults.
STYLED = ("stf", "k-lora", "least-squares", "lora-composite", "lora-switch")
UNMADE = {"T2": "two subjects of different classes", "T3": "two subjects of one class"}
PAIRED = ("stf", "least-squares", "lora-composite", "masked-lora", "clora")


@dataclass(frozen=True)
class Wishes:
    """What can be asked for: a hard budget, pictures a question and of plain prompts, steps, pairs of T1 and T2, of T3
    and fits with the contrastive term, how able."""

    minutes: float = 65.0
    pictures: int = 32
    prior: int = 32
    steps: int = 10
    pairs: int = 4
    few: int = 2
    able: float = 0.5


@dataclass(frozen=True)
class Job:
    """One cell: a way of composing some players, for a task; `fit` is the edit of the way `cat`."""

    task: str
    way: str
    players: tuple[Player, ...]
    fit: Edit | None = None

    @property
    def title(self) -> str:
        """What the row is called."""
        return f"{self.task} {self.way}: {' + '.join(player.source for player in self.players)}"

    @property
    def edit(self) -> Edit:
        """The method with its settings."""
        if self.fit is not None:
            return self.fit
        given = SUMS.get(self.way, {})
        name = "merge" if given else "lora" if self.way == "lora" else self.way
        settings: dict[str, Any] = {**given, "adapters": [player.source for player in self.players]}
        if given:
            settings["weights"] = [given["weights"]] * len(self.players)
        if name in ("masked-lora", "clora"):
            settings["triggers"] = [player.word for player in self.players]
        if name == "least-squares":
            settings["prompts"] = [
                f"an emoji, {p.word}" if p.about.style else with_article(p.word) for p in self.players
            ]
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
    done: dict[Job, Composed] = {}
    states: dict[Job, str] = {}
    jobs = alone(players)
    able = True

    def told() -> None:
        result["rows"] = rows(jobs, done, states, result.get("two_objects"), wishes.able)
        result["note"] = note(done)
        result["minutes"] = round((time.monotonic() - budget.began) / 60, 2)
        keep(result)

    def measure(wanted: Sequence[Job]) -> None:
        for job in wanted:
            if budget.over:
                return
            found = field.measured(job)
            if isinstance(found, str):
                states[job] = found
            else:
                states[job], done[job] = "done", found
            told()

    measure(jobs)
    styled, fitted, paired = plan(bundle, ordered(players, done), wishes)
    jobs = [*jobs, *styled, *fitted, *paired]
    early = 2 * len((*SUMS, *STYLED))
    measure([*styled[:early], *fitted[:1], *styled[early:]])
    try:
        if not budget.over and paired:
            result["two_objects"] = round(field.two_objects(), 4)
            able = result["two_objects"] >= wishes.able
    except Stopped:
        able = False
    measure(fitted[1:])
    measure(paired if able else [])
    told()
    return result


def alone(players: Sequence[Player]) -> list[Job]:
    """Each adapter by itself."""
    return [Job("T5", "lora", (player,)) for player in players]


def ordered(players: Sequence[Player], done: Mapping[Job, Composed]) -> list[Player]:
    """The players, those first that show best alone, then by name."""
    shares = {job.players[0]: float(one.marks[one.leading].float().mean()) for job, one in done.items()}
    return sorted(players, key=lambda player: (-shares.get(player, 0.0), player.source))


def plan(bundle: Bundle, players: Sequence[Player], wishes: Wishes) -> tuple[list[Job], list[Job], list[Job]]:
    """The cells of T1, those of T5 with the contrastive term, and those of T2 and T3, for players in their order."""
    world = world_of(bundle)
    styles = [player for player in players if player.about.style]
    subjects = [player for player in players if not player.about.style]
    together = [(subject, style) for style in styles for subject in subjects][: wishes.pairs]
    styled = [Job("T1", way, pair) for pair in together for way in (*SUMS, *STYLED)]
    twins = [(player, twin(bundle, player)) for player in subjects]
    fitted = [Job("T5", "cat", (player,), fit) for player, fit in twins if fit is not None][: wishes.few]
    pairs = list(combinations(subjects, 2))
    apart = [pair for pair in pairs if len({_group(world, player) for player in pair}) == 2][: wishes.pairs]
    alike = [pair for pair in pairs if len({_group(world, player) for player in pair}) == 1][: wishes.few]
    paired = [Job(task, way, pair) for task, cast_ in (("T2", apart), ("T3", alike)) for pair in cast_
              for way in (*SUMS, *PAIRED)]  # fmt: skip
    return styled, fitted, paired


def twin(bundle: Bundle, player: Player) -> Edit | None:
    """The fit that made an adapter, with the contrastive term; None for a file that does not say how it was made."""
    given = read_adapter(bundle, player.source).training.get("settings")
    if not isinstance(given, Mapping) or given.get("method") != "fit-lora" or given.get("contrast"):
        return None
    settings = {name: value for name, value in cast(Mapping[str, Any], given).items() if name != "method"}
    return cast(Edit, method("fit-lora", **{**settings, "contrast": 1.0}))


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
            before = self.gallery(self.eyes[1]).drawn((), self.calm) if job.task == "T5" else []
            asked = composition.requests(self.world, job.players, self.wishes.pictures, 0)
            drawn = self.gallery(self.eyes[0]).drawn((job.edit,), asked)
            after = self.gallery(self.eyes[1]).drawn((job.edit,), self.calm) if job.task == "T5" else []
        except Stopped:
            return "the budget ended while fitting or drawing"
        except WorkbenchError as error:
            return f"failed: {error}"
        return replace(composition.composed(job.title, self.eyes, job.players, drawn, (before, after)), pictures=())


def rows(
    jobs: Sequence[Job], done: Mapping[Job, Composed], states: Mapping[Job, str], two: float | None, able: float
) -> list[Result]:
    """A row a cell, then one for every way of a task over its pairs, with its gain over the best sum; one line for a
    task of two subjects that was not reached or cannot be measured."""
    unmade = {job.task for job in jobs if job.task in UNMADE} - {job.task for job in states}
    made: list[Result] = [
        {"name": job.title, "method": job.edit.card.name, "group": job.task, "way": job.way,
         "adapters": [player.source for player in job.players], "state": states.get(job, "not reached"),
         "numbers": _rounded(composition.numbers(done[job])) if job in done else {}}
        for job in jobs if job.task not in unmade
    ]  # fmt: skip
    for task, what in UNMADE.items():
        if task in unmade:
            state = "not reached" if two is None or two >= able else (
                f"not measurable on this tier: the unedited model draws two known objects in {two:.0%} of its "
                f"pictures, {able:.0%} are needed")  # fmt: skip
            made.append({"name": f"{task} {what}", "method": "", "group": task, "way": "", "adapters": [],
                         "state": state, "numbers": {}})  # fmt: skip
    for task in dict.fromkeys(job.task for job in jobs if job.task != "T5"):
        whole = pooled([job for job in jobs if job.task == task], done)
        sums = [found for way, found in whole.items() if way in SUMS]
        best = max(sums, key=leading, default=None)
        for way, found in whole.items():
            numbers = composition.numbers(found, best if best is not found else None)
            told = "product_gain" if "product_gain" in numbers else "gain"
            gain = numbers.get(f"{told}_low", 0.0), numbers.get(f"{told}_high", 0.0)
            verdict = "wins" if gain[0] > 0 else "loses" if gain[1] < 0 else "no difference shown"
            made.append({"name": f"{task} {way}: {found.name}", "method": "", "group": task, "way": way, "adapters": [],
                         "state": "best sum" if found is best else verdict, "numbers": _rounded(numbers)})  # fmt: skip
    return made + contrasted(jobs, done)


def leading(found: Composed) -> float:
    """What ways are compared by: the share of pairs, or subject times style."""
    numbers = composition.numbers(found)
    return numbers.get("product", numbers[found.leading])


def contrasted(jobs: Sequence[Job], done: Mapping[Job, Composed]) -> list[Result]:
    """One row on contrastive adapter training: over all subjects fitted with it, what it gained over those without."""
    pairs = [(done[Job("T5", "lora", job.players)], done[job]) for job in jobs if job.way == "cat" and job in done]
    if not pairs:
        return []
    plain, cat = (_joined([pair[side] for pair in pairs]) for side in (0, 1))
    numbers = composition.numbers(cat, plain)
    kept, low, high = composition.difference(plain.after, cat.after)
    numbers |= {"prior_gain": kept, "prior_gain_low": low, "prior_gain_high": high}
    moved = bootstrap(cat.drift - plain.drift)
    numbers |= {"drift_gain": float((cat.drift - plain.drift).mean()), "drift_gain_low": moved[0],
                "drift_gain_high": moved[1]}  # fmt: skip
    prior = "raises" if low > 0 else "lowers" if high < 0 else "no difference shown in"
    same = "higher" if numbers["gain_low"] > 0 else "lower" if numbers["gain_high"] < 0 else "equal"
    return [{"name": f"T5 cat against without: {len(pairs)} subjects", "method": "fit-lora", "group": "T5",
             "way": "cat", "adapters": [], "state": f"{prior} prior preservation, identity {same} within its interval",
             "numbers": _rounded(numbers)}]  # fmt: skip


def note(done: Mapping[Job, Composed]) -> str:
    """Which adapters hardly show alone, so that no way of composing them can show much."""
    weak: list[str] = []
    for job, found in done.items():
        share = float(found.marks[found.leading].float().mean())
        if job.way == "lora" and share < ABLE:
            weak.append(f"{job.players[0].source} {share:.0%}")
    if not weak:
        return f"Every adapter alone shows what it stands for in {ABLE:.0%} of its pictures or more."
    return f"Alone, these show what they stand for in fewer than {ABLE:.0%} of their pictures: {', '.join(weak)}."


def pooled(jobs: Sequence[Job], done: Mapping[Job, Composed]) -> dict[str, Composed]:
    """Each way over those pairs that were measured in every way, so that all are about the same rows."""
    whole = [pair for pair in dict.fromkeys(job.players for job in jobs)
             if all(job in done for job in jobs if job.players == pair)]  # fmt: skip
    found: dict[str, Composed] = {}
    for way in dict.fromkeys(job.way for job in jobs) if whole else ():
        mine = [done[job] for job in jobs if job.way == way and job.players in whole]
        found[way] = replace(_joined(mine), name=f"{len(whole)} of {len({job.players for job in jobs})} pairs")
    return found


def _joined(parts: Sequence[Composed]) -> Composed:
    """Several outcomes of one way as one."""
    marks = {mark: torch.cat([one.marks[mark] for one in parts]) for mark in parts[0].marks}
    before, after, drift = (torch.cat([getattr(one, n) for one in parts]) for n in ("before", "after", "drift"))
    return Composed("", marks, before, after, drift, sum(one.seconds for one in parts) / len(parts))


def _rounded(numbers: Mapping[str, float]) -> dict[str, float]:
    return {name: round(float(value), 4) for name, value in numbers.items()}
