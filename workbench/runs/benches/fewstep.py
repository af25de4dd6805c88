"""The student in one, two and four steps against the base in twenty: the judge, seconds, diversity, control transfer.

    workbench bench --topic fewstep [pictures=96 varied=4 seeds=8 moved=16 student=emoji-student] --out FOLDER

Pictures are of the fixed prompts of single, seen objects with their seeds, the same for every way. Diversity is that of
`varied` plain prompts with `seeds` pictures each, and of two ways at guidance 7.5. Seconds are of one picture with its
decoding, medians in turns. Control transfer is that of two erasures of one object and of the shipped adapters, fitted
on the base, to the student in four steps, on `moved` pictures each.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any, cast

import torch

from workbench.blocks.adapter_files import shipped
from workbench.blocks.composition import cast as cast_players
from workbench.blocks.composition import requests
from workbench.blocks.paired import with_article
from workbench.core.ask import Ask
from workbench.core.bundle import Bundle, Images
from workbench.core.catalog import method
from workbench.core.errors import AskError, WorkbenchError
from workbench.core.method import Edit, Lens, Sampler
from workbench.core.places import ASSETS
from workbench.core.report import Report, Table
from workbench.ops.stats import paired_difference
from workbench.runs.bench import Options, Way, measure
from workbench.runs.environment import environment
from workbench.runs.verbs import load, look, sample, score

Result = dict[str, Any]
#: How far behind the base the judge may find so many steps of the student, and seconds of one step with decoding.
GOALS, SECONDS, PROMPT = {1: 0.10, 4: 0.03}, 0.5, "a flat emoji of a cat on a white background"
HIGH = 7.5
BATCH = 8
PLAIN, TRANSFER = "plain prompts: ", "control transfer: "
ERASERS = ("uce", "rece")


@dataclass(frozen=True)
class Wishes:
    """How many pictures to judge, how many prompts and seeds to vary, pictures an edit, and which student."""

    pictures: int = 96
    varied: int = 4
    seeds: int = 8
    moved: int = 16
    student: str = "emoji-student"

    @classmethod
    def read(cls, given: Mapping[str, str]) -> "Wishes":
        """Wishes from `key=value` words. Raises `AskError`."""
        known = {field.name: field.default for field in fields(cls)}
        values: dict[str, Any] = {}
        for name, text in given.items():
            if name not in known:
                raise AskError(f"The benchmark of fewstep has no setting {name!r}. It has: {', '.join(known)}.")
            if name != "student" and (not text.isdigit() or int(text) < 1):
                raise AskError(f"The benchmark of fewstep: {name} is {text!r}; it must be a whole number above 0.")
            values[name] = text if name == "student" else int(text)
        return cls(**values)


@dataclass(frozen=True)
class Course:
    """One way to draw: a sampler and edits."""

    name: str
    method: str
    settings: Mapping[str, Any]
    edits: tuple[str, ...] = ()

    def sampler(self) -> Sampler:
        """The sampler with its settings."""
        return cast(Sampler, method(self.method, **self.settings))

    def draw(self, bundle: Bundle, ask: Ask) -> Images:
        """The pictures of a request, a few at a time."""
        edits = tuple(cast(Edit, method(name)) for name in self.edits)
        parts: list[Images] = []
        for first in range(0, len(ask), BATCH):
            prompts, seeds = ask.prompts[first : first + BATCH], ask.seeds[first : first + BATCH]
            parts.append(sample(bundle, prompts, seeds=seeds, sampler=self.sampler(), edits=edits))
        return torch.cat(parts)


def _student(steps: int) -> str:
    return f"student, {steps} step{'s' * (steps > 1)}"


def survey(options: Options, keep: Callable[[Result], None]) -> Result:
    """Rows of seconds, then of what the judge sees, then of diversity; `keep` gets what there is as it goes."""
    wishes = Wishes.read(options.more)
    device = "cuda" if options.tier == "gpu" else "cpu"
    bundle = load(options.model, models=options.models, device=device, dtype=options.dtype)
    if bundle.world is None:
        raise AskError(
            f"The benchmark of fewstep needs a model of the emoji world and its judge; {bundle.name} is none."
        )
    base = Course(f"base, {options.steps} steps", "diffuse", {"steps": options.steps, "guidance": 5.0})
    students = [Course(_student(n), "lcm", {"student": wishes.student, "steps": n}) for n in (1, 2, 4)]
    ways = {course.name: _timed(bundle, course) for course in (base, *students)}
    result: Result = {
        "schema": 1, "topic": "fewstep", "tier": options.tier, "made": datetime.now(UTC).date().isoformat(),
        "model": {"name": bundle.name, "digest": bundle.digest}, "environment": environment(bundle),
        "repeats": options.repeats, "against": base.name, "how": "", "rows": measure(ways, options.repeats, bundle.device)}  # fmt: skip  # noqa: E501
    keep(result)
    _judge(bundle, wishes, base, students, result["rows"])
    keep(result)
    result["rows"] += _vary(bundle, wishes, options.steps, base, students)
    keep(result)
    result["rows"] += _transfers(bundle, wishes, base, students[-1])
    return {**result, "how": how(wishes, options.repeats, result["rows"])}


def _timed(bundle: Bundle, course: Course) -> Way:
    def once() -> Mapping[str, float]:
        course.draw(bundle, Ask(prompts=[PROMPT], seeds=[0]))
        return {}

    return Way(once, {**course.settings, "pictures": 1}, course.method)


def fixed(count: int) -> Ask:
    """The first of the fixed prompts that show one object in a seen style, with their seeds."""
    rows = json.loads((ASSETS / "world" / "prompts.json").read_text("utf-8"))
    seen = [row for row in rows if row["kind"] == "seen"][:count]
    return Ask(prompts=[row["prompt"] for row in seen], seeds=[row["seed"] for row in seen])


def _judge(bundle: Bundle, wishes: Wishes, base: Course, students: Sequence[Course], rows: list[Result]) -> None:
    """Add to each row what the judge says of the same prompts and seeds."""
    ask = fixed(wishes.pictures)
    first: list[bool] = []
    for course, row in zip((base, *students), rows, strict=True):
        report = score("judge-accuracy", course.draw(bundle, ask), ask, bundle)
        right = verdicts(report)
        first = first or right
        row["numbers"] |= judged(report, first, right, GOALS.get(int(course.settings["steps"])))


def verdicts(report: Report) -> list[bool]:
    """Which pictures the judge found right."""
    table = next(panel for panel in report.panels if isinstance(panel, Table))
    return [row[-1] == "right" for row in table.rows]


def judged(report: Report, first: Sequence[bool], right: Sequence[bool], goal: float | None) -> dict[str, float]:
    """The judge's shares, how far behind the first way on the same pictures, and by how much a goal is missed."""
    pairs = [sum((a, b) == kind for a, b in zip(first, right, strict=True))
             for kind in ((True, True), (True, False), (False, True), (False, False))]  # fmt: skip
    gap, low, high = paired_difference(*pairs)
    kept = {"judge": "value", "judge_low": "low", "judge_high": "high", "style": "style", "count": "count"}
    numbers = {ours: report.numbers[theirs] for ours, theirs in kept.items() if theirs in report.numbers}
    if right is not first:
        numbers |= {"behind": -gap, "behind_low": -high, "behind_high": -low}
        numbers |= {} if goal is None else {"goal": goal, "missed_by": max(0.0, -gap - goal)}
    return {name: round(value, 4) for name, value in numbers.items()}


def _vary(bundle: Bundle, wishes: Wishes, steps: int, base: Course, students: Sequence[Course]) -> list[Result]:
    """Diversity of plain prompts by way: the student's own, with the base's first step, and CADS at high guidance."""
    plain = [f"a {label}" for label in bundle.world.tier[: wishes.varied]]
    count = wishes.seeds
    ask = Ask(prompts=[text for text in plain for _ in range(count)], seeds=list(range(count)) * len(plain))
    high = {"steps": steps, "guidance": HIGH}
    courses = (
        base, *students,
        Course("diversity distillation, 4 steps", "diversity-distillation", {"student": wishes.student, "steps": 4}),
        Course("diversity distillation, guided", "diversity-distillation",
               {"student": wishes.student, "steps": 4, "guidance": 5.0}),
        Course(f"base at guidance {HIGH:g}", "diffuse", high),
        Course(f"base at guidance {HIGH:g} with CADS", "diffuse", high, ("cads",)))  # fmt: skip
    rows: list[Result] = []
    for course in courses:
        images = course.draw(bundle, ask)
        found = score("diversity", images, ask, bundle).numbers
        numbers = {"diversity": found["value"], "diversity_low": found["low"], "diversity_high": found["high"]}
        numbers["judge"] = score("judge-accuracy", images, ask, bundle).numbers["value"]
        rows.append({"name": PLAIN + course.name, "method": (*course.edits, course.method)[0],
                     "settings": {**course.settings, "edits": list(course.edits), "prompts": plain, "seeds": count},
                     "numbers": {name: round(value, 4) for name, value in numbers.items()}})  # fmt: skip
    return rows


def _transfers(bundle: Bundle, wishes: Wishes, base: Course, student: Course) -> list[Result]:
    """How far edits that were fitted on the base move base and student, and whether to the same side."""
    lens = cast(Lens, method("control-transfer", student=student.sampler()))
    rows: list[Result] = []
    for name in (*ERASERS, *shipped()):
        row: Result = {"name": TRANSFER + name, "method": "control-transfer", "settings": {}, "numbers": {}}
        rows.append(row)
        try:
            edit, prompts = _control(bundle, name, wishes.moved)
            row["settings"] = {"edits": [edit.to_json()], "sampler": base.sampler().to_json(),
                               "student": student.sampler().to_json(), "prompts": list(dict.fromkeys(prompts))}  # fmt: skip  # noqa: E501
            found = look(lens, bundle, prompts, seeds=list(range(len(prompts))), sampler=base.sampler(), edits=[edit])
            row["numbers"] = {key: round(value, 4) for key, value in found.numbers.items()}
        except WorkbenchError as error:  # such as an adapter of another base
            row["state"] = f"not measured: {str(error).splitlines()[0][:160]}"
    return rows


def _control(bundle: Bundle, name: str, count: int) -> tuple[Edit, list[str]]:
    """An erasure of the first known object, or a shipped adapter, with prompts that it is about."""
    objects = bundle.world.tier
    if name in ERASERS:
        return cast(Edit, method(name, concepts=[objects[0]])), [with_article(objects[0])] * count
    asked = requests(bundle.world, cast_players(bundle, [name]), count, 0)
    return cast(Edit, method("lora", adapters=[name])), [line for piece in asked for line in piece.ask.prompts]


def how(wishes: Wishes, repeats: int, rows: Sequence[Result]) -> str:
    """How it was measured, and what was promised beside what was reached."""
    found = {row["name"]: row["numbers"] for row in rows}
    said: list[str] = []
    for name, goal in ((_student(steps), goal) for steps, goal in GOALS.items()):
        behind, missed = found[name]["behind"], found[name]["missed_by"]
        reached = f"missed by {100 * missed:.1f}" if missed else "reached"
        said.append(f"{name} {100 * behind:.1f} points behind, at most {100 * goal:.0f} ({reached})")
    seconds = found[_student(1)]["seconds"]
    said.append(f"one step {seconds:.2f} s of at most {SECONDS} ({'reached' if seconds <= SECONDS else 'missed'})")
    varied = {name.removeprefix(PLAIN): n["diversity"] for name, n in found.items() if "diversity" in n}
    base = next(value for name, value in varied.items() if name.startswith("base, "))
    mixed = varied["diversity distillation, 4 steps"]
    words = "reached" if mixed >= base else f"missed by {base - mixed:.3f}"
    said.append(f"diversity distillation {mixed:.3f} of the base's {base:.3f} ({words})")
    guided, cads = varied[f"base at guidance {HIGH:g}"], varied[f"base at guidance {HIGH:g} with CADS"]
    words = "lifted" if cads > guided else f"not lifted, {guided - cads:.3f} less"
    said.append(f"CADS {cads:.3f} over {guided:.3f} ({words})")
    return (
        f"judge on {wishes.pictures} fixed prompts, 95 % intervals, pairs of the same seeds; seconds of one picture, "
        f"medians of {repeats} in turns; diversity on {wishes.varied} x {wishes.seeds} pictures; "
        f"control transfer on {wishes.moved} pictures an edit, 1 where it does the same to both. "
        f"Promises: {'; '.join(said)}"
    )
