"""The outcome of an erasure as numbers and panels: shares with intervals, quality, warnings, a Pareto picture."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import UInt8

from workbench.blocks.collapse import collapsed, idle
from workbench.blocks.cost import Cost
from workbench.blocks.judging import Concept, Eye, Seen
from workbench.blocks.paired import Drawn
from workbench.core.bundle import Bundle
from workbench.core.method import Edit
from workbench.core.report import Curve, Note, Panel, Picture, Table
from workbench.ops.stats import frechet, kid, paired_difference, wilson

#: Cells whose pictures should not change.
CONTROL = ("neighbours", "others", "styles")
GONE = ("target", "synonyms")
ROWS = 4
#: The unedited model must draw a target in this share of its pictures for the erasure to mean much.
ABLE = 0.5


@dataclass(frozen=True)
class Way:
    """Something to judge: a name, its edits, and the way whose line it lies on in the Pareto picture."""

    name: str
    edits: tuple[Edit, ...]
    line: str = ""


@dataclass(frozen=True)
class Pairs:
    """Rows of a cell by what the judge said before and after: right both times, only before, only after, never."""

    both: int
    before: int
    after: int
    neither: int

    @property
    def total(self) -> int:
        """How many rows."""
        return self.both + self.before + self.after + self.neither

    @property
    def shares(self) -> tuple[float, float]:
        """Right before, right after."""
        count = max(self.total, 1)
        return (self.both + self.before) / count, (self.both + self.after) / count

    @property
    def loss(self) -> tuple[float, float, float]:
        """Right before minus right after, with Newcombe's interval."""
        gap, low, high = paired_difference(self.both, self.before, self.after, self.neither)
        return -gap, -high, -low

    def plus(self, other: "Pairs") -> "Pairs":
        """Both together."""
        return Pairs(*(mine + theirs for mine, theirs in zip(vars(self).values(), vars(other).values(), strict=True)))


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of every cell under one way."""

    way: Way
    cells: Mapping[str, Pairs]
    subjects: Mapping[tuple[str, str], Pairs]
    quality: Mapping[str, float]
    broken: tuple[str, ...]
    idle: bool
    answers: Mapping[str, int]
    seconds: tuple[float, float]
    shown: Sequence[tuple[str, UInt8[np.ndarray, "_H _W 3"]]] = field(default_factory=tuple)

    @property
    def able(self) -> float:
        """The share of target pictures that show it before any edit."""
        return self.cells["target"].shares[0]

    @property
    def removed(self) -> float:
        """Of the target pictures that showed it, the share that no longer does; 0 where none did."""
        pairs = self.cells["target"]
        had = pairs.both + pairs.before
        return pairs.before / had if had else 0.0

    @property
    def kept(self) -> float:
        """Of the control pictures that were right, the share that still is; 1 where none was."""
        pairs = control(self.cells)
        had = pairs.both + pairs.before
        return pairs.both / had if had else 1.0

    def numbers(self) -> dict[str, float]:
        """Every share with its interval, losses, quality, and the two alarms as 0 or 1."""
        found: dict[str, float] = {}
        for name, pairs in self.cells.items():
            base, now = pairs.shares
            low, high = wilson(round(now * pairs.total), pairs.total)
            found |= {name: now, f"{name}_low": low, f"{name}_high": high, f"{name}_before": base}
            found |= dict(zip((f"{name}_loss", f"{name}_loss_low", f"{name}_loss_high"), pairs.loss, strict=True))
        pairs = control(self.cells)
        found |= dict(zip(("loss", "loss_low", "loss_high"), pairs.loss, strict=True)) if pairs.total else {}
        return {**found, **self.quality, "broken": float(bool(self.broken)), "idle": float(self.idle),
                "count": float(sum(p.total for p in self.cells.values()))}  # fmt: skip


def control(cells: Mapping[str, Pairs]) -> Pairs:
    """All cells that should not change, together."""
    whole = Pairs(0, 0, 0, 0)
    for name in CONTROL:
        whole = whole.plus(cells[name]) if name in cells else whole
    return whole


def outcome(way: Way, eye: Eye, before: Sequence[Drawn], after: Sequence[Drawn]) -> Outcome:
    """Compare what was seen before and after, piece by piece."""
    cells: dict[str, Pairs] = {}
    subjects: dict[tuple[str, str], Pairs] = {}
    answers: dict[str, int] = {}
    for first, second in zip(before, after, strict=True):
        cell, subject = first.piece.cell, first.piece.subject
        pairs = _pairs(eye, first.seen, second.seen, subject.about)
        cells[cell] = cells[cell].plus(pairs) if cell in cells else pairs
        key = (cell, subject.word)
        subjects[key] = subjects[key].plus(pairs) if key in subjects else pairs
        if cell == "target":
            for name, count in eye.answers(second.seen, subject.about).items():
                answers[name] = answers.get(name, 0) + count
    gone = [(a.seen, b.seen) for a, b in zip(before, after, strict=True) if a.piece.cell == "target"]
    seconds = tuple(float(np.mean([d.seconds for d in row])) for row in (before, after))
    return Outcome(
        way, cells, subjects, *_health(eye, before, after), all(idle(a, b) for a, b in gone), answers, seconds,  # type: ignore[arg-type]
        _shown(before, after))  # fmt: skip


def _pairs(eye: Eye, first: Seen, second: Seen, about: Concept) -> Pairs:
    was, now = eye.shows(first, about), eye.shows(second, about)
    counts = (was & now, was & ~now, ~was & now, ~was & ~now)
    return Pairs(*(int(rows.sum()) for rows in counts))


def _health(eye: Eye, before: Sequence[Drawn], after: Sequence[Drawn]) -> tuple[dict[str, float], tuple[str, ...]]:
    """Quality numbers and what is broken, over the control pictures; over all where there are none."""
    chosen = [(a, b) for a, b in zip(before, after, strict=True) if a.piece.cell in CONTROL]
    chosen = chosen or list(zip(before, after, strict=True))
    first, second = (Seen.join([row[i].seen for row in chosen]) for i in (0, 1))
    right, still = (torch.cat([eye.shows(row[i].seen, row[i].piece.subject.about) for row in chosen]) for i in (0, 1))
    quality: dict[str, float] = {}
    if eye.scorer is not None and len(first) > 1:
        x, y = first.features, second.features
        drift = float((1 - F.cosine_similarity(x.double(), y.double())).mean())
        quality = {"frechet": frechet(x, y), "kid": kid(x, y), "drift": max(0.0, drift)}
    return quality, collapsed(first, second, right, still)


def _shown(before: Sequence[Drawn], after: Sequence[Drawn]) -> list[tuple[str, UInt8[np.ndarray, "_H _W 3"]]]:
    """The first pictures of each cell, before above after, as one strip a cell."""
    strips: dict[str, list[np.ndarray]] = {}
    for first, second in zip(before, after, strict=True):
        row = strips.setdefault(first.piece.cell, [])
        for a, b in zip(first.seen.pictures, second.seen.pictures, strict=True):
            if len(row) < ROWS:
                row.append(np.concatenate([a.permute(1, 2, 0).numpy(), b.permute(1, 2, 0).numpy()], 0))
    return [(name, np.concatenate(row, 1)) for name, row in strips.items() if row]


# ------------------------------------------------------------------------------------------------------------- panels


def panels(
    about: Sequence[Concept], outcomes: Sequence[Outcome], costs: Sequence[Cost], ceiling: tuple[int, int],
    models: tuple[Bundle, Bundle | None]) -> tuple[Panel, ...]:  # fmt: skip
    """Warnings first, then the table, the Pareto picture, neighbours, answers, cost, and pictures of the first way."""
    first = outcomes[0]
    found: list[Panel] = [Note(text, "Warning") for text in warnings(about, outcomes)]
    found.append(Note(_judged(ceiling, models, first), "How it was judged"))
    found.append(_table(outcomes))
    if len(outcomes) > 1:
        found.append(pareto(outcomes))
    found += [_subjects(outcomes), _answers(outcomes), _costs(outcomes, costs)]
    found += [Picture(pixels, f"{name}: before above, {first.way.name} below") for name, pixels in first.shown]
    return tuple(found)


def warnings(about: Sequence[Concept], outcomes: Sequence[Outcome]) -> list[str]:
    """What must not be overlooked: no effect, a broken model, a model that never drew the target."""
    lines: list[str] = []
    words = ", ".join(c.word for c in about[:4]) + (" ..." if len(about) > 4 else "")
    for found in outcomes:
        if found.way.edits and found.idle:
            lines.append(f"**{found.way.name} had no effect**: the pictures of the target are what they were.")
        if found.broken:
            lines.append(f"**{found.way.name} broke the model**: {'; '.join(found.broken)}.")
    if outcomes[0].able < ABLE:
        lines.append(
            f"The unedited model shows {words} in only {outcomes[0].able:.0%} of its own pictures, so little can be "
            "said about its removal."
        )
    if not outcomes[0].way.edits:
        lines.append("There is no edit, so the model is compared with itself. Add one to the scene, or to `against`.")
    return lines


def _judged(ceiling: tuple[int, int], models: tuple[Bundle, Bundle | None], first: Outcome) -> str:
    low, high = wilson(*ceiling)
    judge, scorer = models
    features = "" if scorer is None else f" Features: {scorer.name} {scorer.digest[:8]}."
    return (
        f"Judge: {judge.name} {judge.digest[:8]}, which names {ceiling[0]} of {ceiling[1]} true drawings of these "
        f"subjects rightly ({low:.0%} to {high:.0%}); no share can be trusted beyond that.{features} "
        f"{sum(p.total for p in first.cells.values())} pictures a way, the same prompts and seeds before and after; "
        "intervals are Wilson's, of losses Newcombe's, both 95 %."
    )


def percent(share: float, low: float, high: float) -> str:
    """A share with its interval, in whole percent.

    >>> percent(0.5, 0.25, 0.75)
    '50 % (25 to 75)'
    """
    return f"{100 * share:.0f} % ({100 * low:.0f} to {100 * high:.0f})"


def _table(outcomes: Sequence[Outcome]) -> Table:
    names = list(outcomes[0].cells)
    columns = ["way", *(f"{n} drawn" if n in GONE else f"{n} lost" for n in names), "loss overall",
               *outcomes[0].quality, "state"]  # fmt: skip
    base = ["unedited, drawn"]
    for name in names:
        pairs = outcomes[0].cells[name]
        had = pairs.both + pairs.before
        base.append(percent(had / pairs.total, *wilson(had, pairs.total)))
    rows: list[tuple[str | float, ...]] = [(*base, "", *([""] * len(outcomes[0].quality)), "")]
    for found in outcomes:
        line: list[str | float] = [found.way.name]
        for name in names:
            pairs = found.cells[name]
            hits = pairs.both + pairs.after
            share = percent(hits / pairs.total, *wilson(hits, pairs.total))
            line.append(share if name in GONE else percent(*pairs.loss))
        total = control(found.cells)
        line.append(percent(*total.loss) if total.total else "")
        state = "broken" if found.broken else "no effect" if found.idle and found.way.edits else "sound"
        rows.append((*line, *found.quality.values(), state))
    return Table(tuple(columns), tuple(rows), "Erasure: targets and synonyms still drawn, the rest lost")


def pareto(outcomes: Sequence[Outcome]) -> Curve:
    """Every way as a point: removed from left to right, kept upwards; the ideal is the upper right corner."""
    lines = list(dict.fromkeys(found.way.line or found.way.name for found in outcomes))
    points = sorted({round(found.removed, 6) for found in outcomes})
    ys = np.full((len(lines), len(points)), np.nan)
    for found in outcomes:
        at = lines.index(found.way.line or found.way.name)
        ys[at, points.index(round(found.removed, 6))] = 100 * found.kept
    x = 100 * np.array(points, dtype=np.float64)
    return Curve(x, ys, tuple(lines), "Removed against kept (upper right is best)",
                 ("% of target pictures removed", "% of other pictures kept"))  # fmt: skip


def _subjects(outcomes: Sequence[Outcome]) -> Table:
    rows: list[tuple[str, ...]] = []
    for (cell, word), pairs in outcomes[0].subjects.items():
        had = f"{pairs.both + pairs.before} of {pairs.total}"
        now = [found.subjects[cell, word] for found in outcomes]
        rows.append((cell, word, had, *(f"{p.both + p.after} of {p.total}" for p in now)))
    columns = ("cell", "subject", "unedited", *(found.way.name for found in outcomes))
    return Table(columns, tuple(rows), "Pictures in which the judge sees the subject")


def _answers(outcomes: Sequence[Outcome]) -> Table:
    rows = [(f.way.name, ", ".join(f"{name} {count}" for name, count in list(f.answers.items())[:8])) for f in outcomes]
    return Table(("way", "answers"), tuple(rows), "What the judge sees where the target was asked for")


def _costs(outcomes: Sequence[Outcome], costs: Sequence[Cost]) -> Table:
    columns = ("way", "fit s", "peak MiB", "matrices", "weights changed", "share of all", "largest |dW|/|W|",
               "delta KiB", "picture s", "unedited s")  # fmt: skip
    rows = [
        (f.way.name, round(c.seconds, 2), round(c.peak_mib), c.matrices, c.parameters, round(c.share, 4),
         round(c.change, 4), round(c.kib, 1), round(f.seconds[1], 3), round(f.seconds[0], 3))
        for f, c in zip(outcomes, costs, strict=True)
    ]  # fmt: skip
    return Table(columns, tuple(rows), "Cost")
