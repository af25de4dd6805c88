"""Every eraser on the default model, on targets of a fixed order, within a hard budget of minutes.

    workbench bench --topic erase minutes=25 pictures=64 --out assets/benchmarks
    workbench bench --topic erase --tier gpu objects=8 styles=2 trained=8 pictures=400     the full grid

Objects and styles are taken in the order of the split file, the first that the unedited model draws in 80 % of its
pictures, or else the best. Closed forms come first, on every target; then trained methods on two; then many concepts at
once; then what acts while drawing. A style is erased towards another one: where none is named the model draws any, the
erased one in its turn. What was drawn and fitted is kept, so a second call goes on where the budget ended; cells that
were not reached are rows without numbers that say so.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any, cast

from workbench.blocks.cost import fit_cost
from workbench.blocks.judging import Eye, concept, world_of
from workbench.blocks.paired import Cell, Gallery, Subject, pieces
from workbench.blocks.world import World
from workbench.core.ask import Ask
from workbench.core.bundle import Bundle
from workbench.core.catalog import catalog, method
from workbench.core.errors import AskError, Stopped, WorkbenchError
from workbench.core.method import Edit, Lens, Sampler
from workbench.core.scene import Scene
from workbench.core.tape import Step, Tap
from workbench.runs.bench import Options
from workbench.runs.environment import environment
from workbench.runs.verbs import load

Result = dict[str, Any]
#: What is promised: share of target pictures left, mean loss of the others, seconds of fitting, by what the edit costs.
PROMISE = {"closed": (0.10, 0.05, 2.0), "trained": (0.10, 0.10, 300.0), "many": (0.15, 0.10, 300.0),
           "free": (1.0, 1.0, 0.0)}  # fmt: skip
SHOWN = ("target_before", "target", "target_low", "target_high", "synonyms", "neighbours_loss", "others_loss",
         "styles_loss", "loss", "loss_low", "loss_high", "kid", "drift", "broken", "idle", "count")  # fmt: skip
MANY = 50


@dataclass(frozen=True)
class Wishes:
    """What can be asked for: a hard budget, pictures a cell and to choose targets by, steps, targets, fit limit."""

    minutes: float = 60.0
    pictures: int = 64
    screen: int = 16
    steps: int = 10
    objects: int = 4
    styles: int = 1
    trained: int = 2
    able: float = 0.8
    fit: float = 6.0

    @classmethod
    def read(cls, given: Mapping[str, str]) -> "Wishes":
        """Wishes from `key=value` words. Raises `AskError`."""
        kinds = {field.name: type(field.default) for field in fields(cls)}
        values: dict[str, Any] = {}
        for name, text in given.items():
            if name not in kinds:
                raise AskError(f"bench has no setting {name!r} for erase. It has: {', '.join(kinds)}.")
            try:
                values[name] = kinds[name](text)
            except ValueError:
                raise AskError(f"bench: {name} is {text!r}; it should be a number.") from None
            if not values[name] >= 0 or (name in ("minutes", "pictures", "screen", "steps") and not values[name] > 0):
                raise AskError(f"bench: {name} is {text}; it must be above 0.")
        return cls(**values)


@dataclass(frozen=True)
class Job:
    """One cell of the benchmark: an eraser on some words, towards an anchor where one is needed."""

    group: str
    name: str
    words: tuple[str, ...]
    anchor: str = ""

    @property
    def title(self) -> str:
        """What the row is called."""
        what = self.words[0] if len(self.words) == 1 else f"{len(self.words)} concepts"
        return f"{self.name}: {what}{self.anchor and f' towards {self.anchor}'}"


class Budget:
    """A clock that stops whatever draws or fits once its time is over."""

    def __init__(self, minutes: float) -> None:
        self.began = time.monotonic()
        self.end = self.began + 60 * minutes

    @property
    def over(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() >= self.end

    def tap(self, until: float = float("inf")) -> Tap:
        """A tap that raises `Stopped` when the budget, or an earlier moment, is over."""

        def tap(step: Step) -> None:
            if time.monotonic() >= min(self.end, until):
                raise Stopped

        return tap


def survey(options: Options, keep: Callable[[Result], None]) -> Result:
    """The whole table; `keep` gets it after every cell, so that a part is never lost."""
    wishes = Wishes.read(options.more)
    device = "cuda" if options.tier == "gpu" else "cpu"
    bundle = load(options.model, models=options.models, device=device, dtype=options.dtype)
    return run(bundle, wishes, options.tier, keep)


def run(bundle: Bundle, wishes: Wishes, tier: str, keep: Callable[[Result], None]) -> Result:
    """The table of a loaded model."""
    budget = Budget(wishes.minutes)
    sampler = cast(Sampler, method(bundle.sampler, steps=wishes.steps))
    result: Result = {
        "schema": 1, "topic": "erase", "tier": tier, "made": datetime.now(UTC).date().isoformat(),
        "model": {"name": bundle.name, "digest": bundle.digest}, "environment": environment(bundle), "repeats": 1,
        "against": "", "settings": vars(wishes), "rows": [], "how": f"{wishes.pictures} pictures a cell, "
        f"{wishes.steps} steps, 95 % intervals, losses against the unedited model at the same seeds"}  # fmt: skip
    try:
        objects, styles, shares = chosen(bundle, sampler, wishes, budget)
    except Stopped:
        result["note"] = "The budget ended while targets were being chosen. Run it again to go on."
        keep(result)
        return result
    result |= {"screened": shares, "note": _note(objects + styles, shares, wishes)}
    jobs = list(plan(world_of(bundle), objects, styles, wishes))
    result["rows"] = [_empty(job) for job in jobs]
    keep(result)
    for at, job in enumerate(jobs):
        if budget.over:
            break
        result["rows"][at] = measured(bundle, sampler, job, wishes, budget)
        result["minutes"] = round((time.monotonic() - budget.began) / 60, 2)
        keep(result)
    return result


def chosen(
    bundle: Bundle, sampler: Sampler, wishes: Wishes, budget: Budget
) -> tuple[list[str], list[str], dict[str, float]]:
    """Objects and styles to erase, and the share of pictures in which the unedited model shows each that was tried."""
    world = world_of(bundle)
    scene = Scene(bundle, sampler, (), Ask(prompts=["a"], seeds=[0]), budget.tap())
    eye = Eye(bundle, scorer="emoji-scorer")
    gallery = Gallery(bundle, sampler, eye, budget.tap())
    shares: dict[str, float] = {}
    found: list[list[str]] = []
    for kind, count in (("objects", wishes.objects), ("styles", wishes.styles)):
        able: list[str] = []
        tried: list[str] = []
        for word in world.split["erase"][kind]:
            if len(able) >= count:
                break
            cell = Cell("target", (Subject(word, concept(world, word)),), wishes.screen)
            drawn = gallery.drawn((), pieces(scene, bundle.world, [cell]))
            hits = sum(int(eye.shows(d.seen, d.piece.subject.about).sum()) for d in drawn)
            shares[word] = hits / sum(len(d.seen) for d in drawn)
            tried.append(word)
            able += [word] if shares[word] >= wishes.able else []
        best = sorted(tried, key=lambda word: -shares[word])  # a stable sort: of equals the earlier
        found.append(able if len(able) >= count else best[:count])
    return found[0], found[1], shares


def plan(world: World, objects: Sequence[str], styles: Sequence[str], wishes: Wishes) -> Iterator[Job]:
    """The cells in the order in which they are measured."""
    edits = [cls for cls in catalog(topic="erase", kind="edit") if issubclass(cls, Edit)]
    names = {cls.card.name: cls for cls in edits if "concepts" in cls.model_fields}
    closed = [name for name, cls in names.items() if cls.fits() and cls.card.cost != "minutes"]
    trained = [name for name, cls in names.items() if cls.fits() and cls.card.cost == "minutes"]
    for word in objects:
        yield from (Job("closed", name, (word,)) for name in closed)
    for word in styles:
        other = next(style for style in (*world.split["erase"]["styles"][::-1], *world.styles) if style != word)
        yield from (Job("closed", name, (word,), other) for name in closed)
    for word in objects[: wishes.trained]:
        yield from (Job("trained", name, (word,)) for name in trained)
    kept = set(world.split["erase"]["objects"][:8])
    crowd = tuple(word for word in world.tier if word not in kept)[:MANY]
    if len(crowd) == MANY:
        yield from (Job("many", name, crowd) for name in ("speed", "mace") if name in names)
    for word in objects[: wishes.trained]:
        yield from (Job("free", name, (word,)) for name, cls in names.items() if not cls.fits())


def measured(bundle: Bundle, sampler: Sampler, job: Job, wishes: Wishes, budget: Budget) -> Result:
    """One cell: fitted, drawn and judged, or a row that says why not."""
    row = _empty(job)
    try:
        towards = {"anchor": job.anchor} if job.anchor else {}
        edit = cast(Edit, method(job.name, concepts=list(job.words), **towards))
        row["settings"] = {name: value for name, value in edit.to_json().items() if name not in ("method", "concepts")}
        began = time.monotonic()
        try:
            cost = fit_cost(bundle, (edit,), budget.tap(began + 60 * wishes.fit))
        except Stopped:
            late = f"not fitted within {wishes.fit:g} minutes" if not budget.over else "the budget ended while fitting"
            return {**row, "state": late}
        lens = cast(Lens, method("erase-report", concepts=list(job.words), pictures=wishes.pictures))
        ask = Ask(prompts=[f"a {job.words[0]}"], seeds=[0])
        report = lens.look(Scene(bundle, sampler, (edit,), ask, budget.tap()))
    except Stopped:
        return {**row, "state": "the budget ended while drawing"}
    except WorkbenchError as error:
        return {**row, "state": f"failed: {error}"}
    numbers = {name: report.numbers[name] for name in SHOWN if name in report.numbers}
    numbers |= {"fit_seconds": cost.seconds, "peak_mib": cost.peak_mib, "weights_share": cost.share}
    return {**row, "state": "done", "missed": missed(job.group, numbers),
            "numbers": {name: round(float(value), 4) for name, value in numbers.items()}}  # fmt: skip


def missed(group: str, numbers: Mapping[str, float]) -> list[str]:
    """What a cell promised and did not hold, one line each."""
    target, loss, seconds = PROMISE[group]
    lines: list[str] = []
    if numbers["target_before"] < 0.5:
        lines.append(f"the unedited model shows the target in {numbers['target_before']:.0%} of its pictures alone")
    if numbers["target"] > target:
        lines.append(f"target left in {numbers['target']:.0%} of pictures, more than {target:.0%}")
    if numbers.get("loss", 0.0) > loss:
        lines.append(f"others lost {100 * numbers['loss']:.1f} points, more than {100 * loss:.0f}")
    if seconds and numbers["fit_seconds"] > seconds:
        lines.append(f"fitting took {numbers['fit_seconds']:.1f} s, more than {seconds:g}")
    return lines + (["the collapse detector rang"] if numbers.get("broken") else [])


def _empty(job: Job) -> Result:
    return {"name": job.title, "method": job.name, "group": job.group, "concepts": list(job.words), "settings": {},
            "state": "not reached", "missed": [], "numbers": {}}  # fmt: skip


def _note(words: Sequence[str], shares: Mapping[str, float], wishes: Wishes) -> str:
    weak = [f"{word} {shares[word]:.0%}" for word in words if shares[word] < wishes.able]
    if not weak:
        return f"Every target is drawn in {wishes.able:.0%} of the unedited model's pictures or more."
    return f"Fewer targets than wished reach {wishes.able:.0%}, so the best were taken: {', '.join(weak)}."
