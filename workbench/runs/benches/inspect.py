"""What looking costs at the default steps, and how well maps of words agree with true masks of made scenes.

    workbench bench --topic inspect [scenes=32 pairs=16] --out assets/benchmarks

Cost is taken in turns with plain drawing; agreement needs a model with a world, and others get the cost alone.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, cast

from workbench.core.bundle import Bundle
from workbench.core.catalog import method
from workbench.core.errors import AskError
from workbench.core.method import Lens, Method, Sampler
from workbench.core.report import Curve, Report, Table
from workbench.runs.bench import Options, Way, measure
from workbench.runs.environment import environment
from workbench.runs.verbs import load, look, sample

PROMPT = "a flat emoji of a cat on a white background"
#: What is promised of token maps: share of the way from the best floor to 1, pointing, binding, gap, cost.
WAY, POINTING, BINDING, GAP, COST = 0.4, 0.7, 0.7, 0.1, 1.3
CHANCE = 0.25  # that a pair is bound by maps of nothing
NAMES = {"AP": "ap", "AP low": "ap_low", "AP high": "ap_high", "pointing": "pointing", "energy": "energy",
         "IoU at 0.4": "iou_40", "IoU at best": "iou_best", "bound": "bound", "bound low": "bound_low",
         "bound high": "bound_high", "energy in own object": "own_energy", "worst leak": "worst_leak"}  # fmt: skip


@dataclass(frozen=True)
class Wishes:
    """How many made scenes of one object and of two."""

    scenes: int = 32
    pairs: int = 16

    @classmethod
    def read(cls, given: Mapping[str, str]) -> "Wishes":
        """Wishes from `key=value` words. Raises `AskError`."""
        known = asdict(cls())
        for name, text in given.items():
            if name not in known:
                raise AskError(f"The benchmark of inspect has no setting {name!r}. It has: {', '.join(known)}.")
            if not text.isdigit():
                raise AskError(f"The benchmark of inspect: {name} is {text!r}; it must be a whole number.")
            known[name] = int(text)
        return cls(**known)


def survey(options: Options, keep: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Rows of cost, then rows of agreement with the truth; `keep` gets the first before the second are there."""
    wishes = Wishes.read(options.more)
    bundle = load(
        options.model, models=options.models, device="cuda" if options.tier == "gpu" else "cpu", dtype=options.dtype
    )
    ways = _ways(bundle, options.steps)
    result: dict[str, Any] = {
        "schema": 1, "topic": "inspect", "tier": options.tier, "made": datetime.now(UTC).date().isoformat(),
        "model": {"name": bundle.name, "digest": bundle.digest}, "environment": environment(bundle),
        "repeats": options.repeats, "against": next(iter(ways)),
        "how": f"cost: medians of {options.repeats} in turns, ratio to plain drawing; maps: means over "
               f"{wishes.scenes} scenes of one object and {wishes.pairs} of two, 95 % intervals",
        "rows": measure(ways, options.repeats, bundle.device)}  # fmt: skip
    if bundle.world is None:
        return result
    keep(result)
    lens = method("inspect-report", scenes=wishes.scenes, pairs=wishes.pairs)
    report = look(cast(Lens, lens), bundle, [PROMPT])
    ratio = next(row["numbers"]["ratio"] for row in result["rows"] if row["method"] == "token-maps")
    settings = lens.model_dump(mode="json")
    rows = [{"name": name, "method": name if name in Method.known else "inspect-report", "settings": settings,
             "numbers": numbers} for name, numbers in agreement(report).items()]  # fmt: skip
    return {**result, "rows": [*result["rows"], *rows], "note": verdict(report.numbers, ratio)}


def agreement(report: Report) -> dict[str, dict[str, float]]:
    """The numbers of each kind of map, from the report's tables and its curve over noise levels."""
    found: dict[str, dict[str, float]] = {}
    for table in (panel for panel in report.panels if isinstance(panel, Table)):
        for name, *values in table.rows:
            numbers = {NAMES[column]: float(value) for column, value in zip(table.columns[1:], values, strict=True)}
            found.setdefault(str(name), {}).update(numbers)
    for curve in (panel for panel in report.panels if isinstance(panel, Curve)):
        for name, ys in zip(curve.names, curve.ys, strict=True):
            levels = {f"ap_at_{x:g}": round(float(y), 4) for x, y in zip(curve.x, ys, strict=True)}
            found.setdefault(name, {}).update(levels)
    return found


def verdict(numbers: Mapping[str, float], ratio: float) -> str:
    """What was promised of token maps beside what was measured, in a line."""
    least = numbers["best_floor"] + WAY * (1 - numbers["best_floor"])
    promises = [
        (f"AP {numbers['ap']:.3f} of {least:.3f}", numbers["ap"] >= least),
        (f"pointing {numbers['pointing']:.2f} of {POINTING}", numbers["pointing"] >= POINTING),
        (f"cost {ratio:.2f} of at most {COST}", ratio <= COST),
    ]
    known = numbers.get("binding_low", 0.0) > CHANCE
    if known:
        promises.append((f"bound pairs {numbers['binding']:.2f} of {BINDING}", numbers["binding"] >= BINDING))
    if "unsaid_gap" in numbers:
        gap = numbers["unsaid_gap"]
        promises.append((f"left-out words behind by {gap:.3f} of at most {GAP}", gap <= GAP))
    words = [f"{text} ({'reached' if kept else 'missed'})" for text, kept in promises]
    if "binding" in numbers and not known:
        words.append(
            f"bound pairs {numbers['binding']:.2f}: two objects are not told apart on this tier, not measurable"
        )
    return f"token-maps: {'; '.join(words)}."


def _ways(bundle: Bundle, steps: int) -> dict[str, Way]:
    sampler = cast(Sampler, method("diffuse", steps=steps))
    settings = {"steps": steps, "guidance": 5.0, "pictures": 1}

    def draw() -> Mapping[str, float]:
        sample(bundle, [PROMPT], seeds=[0], sampler=sampler)
        return {}

    def looking(name: str) -> Callable[[], Mapping[str, float]]:
        def once() -> Mapping[str, float]:
            look(cast(Lens, method(name)), bundle, [PROMPT], seeds=[0], sampler=sampler)
            return {}

        return once

    return {
        "draw": Way(draw, settings, "diffuse"),
        "draw, token maps": Way(looking("token-maps"), settings, "token-maps"),
        "draw, open word maps": Way(looking("open-word-maps"), settings, "open-word-maps"),
    }
