"""Benchmarks: several ways to do one thing, taken in turns in one process, medians after a warm-up.

A topic is a file `workbench/runs/benches/<topic>.py` with `bench(options) -> (bundle, {name: Way})`; the others are
compared with the first way. A topic that is no race has `survey(options, keep)` instead, which makes the whole result
and lets `keep` have what there is as it goes.
"""

import contextlib
import importlib
import pkgutil
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch

from workbench.blocks.cost import peak, settle
from workbench.core.bundle import Bundle
from workbench.core.errors import AskError
from workbench.core.patch import Patch
from workbench.runs import benches
from workbench.runs.environment import environment
from workbench.runs.requests import nearest

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Tier = Literal["cpu", "gpu"]
LEAST = 5
Keep = Callable[[dict[str, Any]], None]
W = TypeVar("W", bound="DataclassInstance")


def _nowhere(result: dict[str, Any]) -> None:
    """Keep nothing."""


@dataclass(frozen=True)
class Options:
    """What a benchmark is asked for: where the model is, how large a load, how often."""

    tier: Tier = "cpu"
    repeats: int = LEAST
    model: str = ""
    models: Path | None = None
    dtype: str = ""
    steps: int = 20
    more: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class Way:
    """One way to do the thing: `once()` does it and returns numbers of its own, e.g. shares of the time."""

    once: Callable[[], Mapping[str, float]]
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    method: str = ""


def read_wishes(kind: type[W], topic: str, given: Mapping[str, str]) -> W:
    """The settings of a topic from `key=value` words. Raises `AskError` for an unknown one or no number above 0."""
    known = {field.name: type(field.default) for field in fields(kind)}
    values: dict[str, Any] = {}
    for name, text in given.items():
        if name not in known:
            raise AskError(f"bench has no setting {name!r} for {topic}. It has: {', '.join(known)}.")
        try:
            values[name] = known[name](text)
        except ValueError:
            raise AskError(f"bench: {name} is {text!r}; it should be a number.") from None
        if not values[name] > 0:
            raise AskError(f"bench: {name} is {text}; it must be above 0.")
    return kind(**values)


def topics() -> tuple[str, ...]:
    """The topics that have a benchmark."""
    return tuple(info.name for info in pkgutil.iter_modules(benches.__path__))


def run_bench(topic: str, options: Options, keep: Keep = _nowhere) -> dict[str, Any]:
    """Measure a topic: plain data with one row a way. Raises `AskError` for an unknown topic or tier.

    `keep` gets the unfinished results of a long one.
    """
    if topic not in topics():
        raise nearest(topic, topics(), "benchmark")
    if options.repeats < LEAST:
        raise AskError(f"repeats is {options.repeats}; a median needs at least {LEAST}.")
    if options.tier == "gpu" and not torch.cuda.is_available():
        raise AskError("There is no CUDA device here for --tier gpu. Use --tier cpu.")
    module = importlib.import_module(f"{benches.__name__}.{topic}")
    if hasattr(module, "survey"):
        return module.survey(options, keep)
    if options.more:
        raise AskError(f"The benchmark of {topic} takes no settings; {next(iter(options.more))!r} was given.")
    bundle, ways = module.bench(options)
    rows = measure(ways, options.repeats, bundle.device)
    return {
        "schema": 1, "topic": topic, "tier": options.tier, "made": datetime.now(UTC).date().isoformat(),
        "model": {"name": bundle.name, "digest": bundle.digest}, "environment": environment(bundle),
        "repeats": options.repeats, "against": next(iter(ways)), "rows": rows}  # fmt: skip


def measure(ways: Mapping[str, Way], repeats: int, device: torch.device) -> list[dict[str, Any]]:
    """Do every way once unmeasured, then all of them in turns; medians, spread, peak memory, ratio to the first way."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    numbers: dict[str, list[Mapping[str, float]]] = {name: [] for name in ways}
    peaks: dict[str, int] = dict.fromkeys(ways, 0)
    for turn in range(repeats + 1):
        order = list(ways) if turn % 2 else list(ways)[::-1]  # neither always goes first
        for name in order:
            with peak(device) as most:
                began = time.perf_counter()
                found = ways[name].once()
                settle(device)
                spent = time.perf_counter() - began
            if turn:
                seconds[name].append(spent)
                numbers[name].append(found)
                peaks[name] = max(peaks[name], most[0])
    first = seconds[next(iter(ways))]
    return [_row(name, way, seconds[name], first, numbers[name], peaks[name]) for name, way in ways.items()]


def _row(name: str, way: Way, seconds: list[float], first: list[float], numbers: list[Mapping[str, float]],
         peak_bytes: int) -> dict[str, Any]:  # fmt: skip
    pairs = [mine / other for mine, other in zip(seconds, first, strict=True)]
    kept = {key: statistics.median(found[key] for found in numbers) for key in numbers[0]}
    values = {
        "seconds": statistics.median(seconds), "least": min(seconds), "most": max(seconds),
        "ratio": statistics.median(pairs), "peak_mib": peak_bytes / 2**20, **kept}  # fmt: skip
    return {"name": name, "method": way.method, "settings": dict(way.settings),
            "numbers": {key: round(value, 4) for key, value in values.items()}}  # fmt: skip


@contextlib.contextmanager
def timed_seams(bundle: Bundle) -> Iterator[dict[str, float]]:
    """Seconds spent in `predict` and `decode` of a bundle during the body."""
    spent = {"predict": 0.0, "decode": 0.0}

    def timer(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        def wrap(inner: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                settle(bundle.device)
                began = time.perf_counter()
                result = inner(*args, **kwargs)
                settle(bundle.device)
                spent[name] += time.perf_counter() - began
                return result

            return call

        return wrap

    with Patch(bundle) as patch:
        patch.wrap("predict", timer("predict"))
        patch.wrap("decode", timer("decode"))
        yield spent


def as_text(result: Mapping[str, Any]) -> str:
    """A result as a table for people."""
    keys = list(dict.fromkeys(key for row in result["rows"] for key in row["numbers"]))
    head = f"{'':24}" + "".join(f"{key:>12}" for key in keys)
    lines = [f"{row['name']:24}" + "".join(f"{row['numbers'].get(key, float('nan')):12.4g}" for key in keys)
             for row in result["rows"]]  # fmt: skip
    about = f"{result['topic']} on {result['model']['name']}, {result['environment'].get('device_name')}, "
    states = [f"{row['name']}: {row['state']}" for row in result["rows"] if row.get("state", "done") != "done"]
    notes = [result["note"]] if "note" in result else []
    return "\n".join([about + result.get("how", f"medians of {result['repeats']}"), head, *lines, *states, *notes])
