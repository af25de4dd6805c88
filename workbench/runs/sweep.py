"""A grid of plans: one base plan, values for some dotted settings, one run folder a cell.

{"plan": {"ask": {"prompts": ["a cat"]}, "sampler": {"method": "diffuse"}},
 "axes": {"sampler.steps": [5, 10, 20], "ask.seeds": [[0], [1]]}}
"""

import copy
import functools
import hashlib
import itertools
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from workbench.blocks.disk import read_json, write_json
from workbench.core.bundle import Bundle
from workbench.core.errors import AskError, ResourceError, WorkbenchError
from workbench.core.plan import Plan
from workbench.core.tape import Tap, ignore
from workbench.runs.execute import run
from workbench.runs.history import PLAN, REPORT, read_run
from workbench.runs.verbs import load

MOST_CELLS = 10_000


@dataclass(frozen=True)
class Cell:
    """One point of the grid: its settings, its plan and its folder."""

    settings: Mapping[str, Any]
    plan: Plan
    folder: Path


def read_sweep(path: Path, out: Path | None = None) -> tuple[tuple[Cell, ...], int]:
    """The cells of a sweep file, all checked, and the workers it asks for. Folders go to `out` or beside the file."""
    data = read_json(path)
    if not isinstance(data, dict) or not isinstance(data.get("plan"), dict) or not isinstance(data.get("axes"), dict):
        raise AskError(
            f'{path} is not a sweep. It should be JSON like {{"plan": {{"ask": {{"prompts": ["a cat"]}}}}, '
            '"axes": {"sampler.steps": [5, 10]}}.'
        )
    unknown = sorted(set(data) - {"plan", "axes", "workers"})
    if unknown:
        raise AskError(f"{path.name}: {unknown[0]!r} means nothing in a sweep. It has: plan, axes, workers.")
    for name, values in data["axes"].items():
        if not isinstance(values, list) or not values:
            raise AskError(f"{path.name}: the axis {name} is {values!r}; it should be a list of values.")
    root = out or path.with_name(f"{path.stem}-runs")
    return tuple(_cells(data["plan"], data["axes"], root)), int(data.get("workers", 1))


def _cells(base: dict[str, Any], axes: dict[str, list[Any]], root: Path) -> Iterator[Cell]:
    count = 1
    for values in axes.values():
        count *= len(values)
    if count > MOST_CELLS:
        raise AskError(f"The sweep has {count:,} cells; at most {MOST_CELLS:,} are taken. Use fewer values.")
    for values in itertools.product(*axes.values()):
        settings = dict(zip(axes, values, strict=True))
        plain = copy.deepcopy(base)
        for place, value in settings.items():
            _put(plain, place, value)
        plan = Plan.from_json(json.dumps(plain))
        key = hashlib.sha256(json.dumps(plan.to_json(), sort_keys=True).encode()).hexdigest()[:12]
        yield Cell(settings, plan, root / key)


def _put(plain: Any, place: str, value: Any) -> None:
    """Set `a.b.0.c` in nested dicts and lists; a missing dict is made, a missing list entry is an error."""
    *way, last = place.split(".")
    for index, name in enumerate(way):
        following = plain.setdefault(name, {}) if isinstance(plain, dict) else _entry(plain, name, place)
        if not isinstance(following, (dict, list)):
            raise AskError(f"The axis {place} goes through {'.'.join(way[: index + 1])}, which is {following!r}.")
        plain = following
    if isinstance(plain, dict):
        plain[last] = value
    else:
        _entry(plain, last, place)
        plain[int(last)] = value


def _entry(row: list[Any], name: str, place: str) -> Any:
    if not name.isdigit() or int(name) >= len(row):
        raise AskError(f"The axis {place} asks for entry {name} of a list of {len(row)}. Entries count from 0.")
    return row[int(name)]


def run_sweep(path: Path, workers: int | None = None, out: Path | str | None = None, tap: Tap = ignore,
              *, models: Path | str | None = None) -> list[dict[str, Any]]:  # fmt: skip
    """Run every cell that is not done yet; a failing cell stops nothing. Writes `sweep.json` with a row a cell."""
    cells, wanted = read_sweep(path, Path(out) if out else None)
    workers = workers or wanted
    if not 1 <= workers <= 256:
        raise AskError(f"workers is {workers}; it should be from 1 to 256.")
    todo = [cell for cell in cells if not _done(cell)]
    try:
        if workers > 1 and len(todo) > 1:
            _spread(todo, min(workers, len(todo)), models)
        else:
            _run_cells(todo, tap, models)
    finally:
        _opened.cache_clear()
    rows = [_row(cell) for cell in cells]
    if cells:
        write_json(cells[0].folder.parent / "sweep.json", {"schema": 1, "cells": rows})
    return rows


def _done(cell: Cell) -> bool:
    try:
        return read_run(cell.folder).status == "done"
    except WorkbenchError:
        return False


@functools.lru_cache(maxsize=1)
def _opened(model: str, device: str, dtype: str, models: Path | str | None) -> Bundle:
    """The model of the cell before, or of this one; a process holds one at a time."""
    return load(model, models=models, device=device, dtype=dtype)


def _run_cells(cells: list[Cell], tap: Tap, models: Path | str | None) -> None:
    for cell in cells:
        if (cell.folder / PLAN).exists():  # an earlier attempt that did not end well
            shutil.rmtree(cell.folder)
        try:
            bundle = _opened(cell.plan.model, cell.plan.device, cell.plan.dtype, models)
            if run(cell.plan, cell.folder, tap, bundle).status == "stopped":
                return
        except ResourceError:
            raise
        except Exception as error:  # this cell's row says why; the others are still wanted
            _note(cell, error)


def _note(cell: Cell, error: Exception) -> None:
    if not (cell.folder / PLAN).exists():
        text = str(error) if isinstance(error, WorkbenchError) else f"{type(error).__name__}: {error}"
        write_json(cell.folder / PLAN, cell.plan.to_json())
        write_json(cell.folder / REPORT, {"schema": 1, "status": "failed", "error": text, "pictures": []})


def _spread(cells: list[Cell], workers: int, models: Path | str | None) -> None:
    """Fresh processes, each with its share of the processors; cells are dealt out one at a time."""
    threads = max(1, (os.cpu_count() or 1) // workers)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_settle, initargs=(threads,)) as pool:
        one: Callable[[Cell], None] = _One(models)
        list(pool.map(one, cells))


def _settle(threads: int) -> None:
    torch.set_num_threads(threads)


@dataclass(frozen=True)
class _One:
    models: Path | str | None

    def __call__(self, cell: Cell) -> None:
        _run_cells([cell], ignore, self.models)


def _row(cell: Cell) -> dict[str, Any]:
    row: dict[str, Any] = {"settings": dict(cell.settings), "folder": str(cell.folder), "status": "failed",
                           "seconds": None, "numbers": {}, "error": "not run"}  # fmt: skip
    try:
        found = read_run(cell.folder)
    except WorkbenchError:
        return row
    return row | {
        "status": found.status,
        "seconds": found.seconds,
        "numbers": dict(found.numbers),
        "error": found.error,
    }
