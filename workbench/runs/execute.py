"""From a plan to a folder: draw in batches, look, score, and write down how it went."""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from workbench.blocks.disk import write_json
from workbench.blocks.pictures import save_png
from workbench.core.ask import Ask
from workbench.core.bundle import Bundle
from workbench.core.catalog import method
from workbench.core.errors import AskError, ResourceError, Stopped, WorkbenchError
from workbench.core.method import Sampler
from workbench.core.plan import Plan
from workbench.core.report import Report
from workbench.core.scene import Scene, using
from workbench.core.tape import Tap, ignore
from workbench.models.load import load as load_model
from workbench.runs.environment import environment
from workbench.runs.history import ARRAYS, PLAN, REPORT, Run, Status, read_run
from workbench.runs.panels import pack, pictures, save_arrays, tame
from workbench.runs.store import with_store

OUTPUTS = Path("outputs")
Saved = Callable[[Path], None]


def run(plan: Plan, out: Path | str | None = None, tap: Tap = ignore, bundle: Bundle | None = None,
        *, saved: Saved | None = None, models: Path | str | None = None, drawing: bool = True) -> Run:  # fmt: skip
    """Execute a plan into a run folder; `saved` hears of each finished picture.

    Without `drawing`, only the lenses look; a lens draws for itself what it needs.

    The folder is `out`, or a new one inside it where it holds a run already, or a new one in `outputs/`. A `Stopped`
    from the tap ends in a run of status "stopped" with the pictures drawn so far. Raises what went wrong otherwise,
    after marking the run as failed.
    """
    bundle = bundle or open_bundle(plan, models)
    sampler = chosen(plan, bundle)
    plan = plan.but(sampler=sampler)
    for part in (sampler, *plan.edits, *plan.lenses):
        part.check(bundle)
    notes = _Notes(_new_folder(plan, out), plan, bundle)
    with notes.kept():
        if drawing or plan.metrics:
            images = _draw(plan, bundle, sampler, tap, lambda at, pixels: notes.picture(at, pixels, saved))
            for metric in plan.metrics:
                notes.reported(metric.card.name, metric.score(images, plan.ask, bundle))
        for lens in plan.lenses:
            notes.reported(lens.card.name, lens.look(Scene(bundle, sampler, plan.edits, plan.ask, tap)))
    return read_run(notes.folder)


def open_bundle(plan: Plan, models: Path | str | None = None) -> Bundle:
    """The model of a plan, with the store of fitted values."""
    return with_store(load_model(plan.model, models=models, device=plan.device, dtype=plan.dtype))


def chosen(plan: Plan, bundle: Bundle) -> Sampler:
    """The plan's sampler, or the model's own."""
    sampler = plan.sampler or method(bundle.sampler)
    if not isinstance(sampler, Sampler):
        raise AskError(f"{bundle.sampler} is not a sampler. Samplers: workbench list.")
    return sampler


def replay(folder: Path | str, out: Path | str | None = None, tap: Tap = ignore, bundle: Bundle | None = None,
           *, models: Path | str | None = None) -> Run:  # fmt: skip
    """Run a folder's plan again and compare the pixels; `differing` names the pictures that are not the same.

    Uses the plan's batch size and the recorded number of threads. The new run goes to `out`, or to `replay` inside
    the folder.
    """
    first = read_run(folder)
    if not first.pictures:
        raise AskError(f"{folder} holds no finished picture to compare with ({first.status}). Run its plan instead.")
    plan = first.plan.but(ask=_own_files(first), metrics=(), lenses=())
    threads = torch.get_num_threads()
    torch.set_num_threads(int(first.report.get("environment", {}).get("threads") or threads))
    try:
        second = run(plan, Path(out) if out else Path(folder) / "replay", tap, bundle, models=models)
    finally:
        torch.set_num_threads(threads)
    now = {entry["file"]: entry["pixels"] for entry in second.report["pictures"]}
    differing = tuple(e["file"] for e in first.report["pictures"] if now.get(e["file"]) != e["pixels"])
    return Run(second.folder, second.plan, second.status, second.report, differing)


def _own_files(first: Run) -> Ask:
    """The request with picture and mask as the run folder keeps them, in case the originals moved or changed."""
    kept = {name: next(first.folder.glob(f"input-{name}.*"), None) for name in ("image", "mask")}
    return first.plan.ask.but(**{name: path for name, path in kept.items() if path is not None})


def batches(plan: Plan) -> Iterator[tuple[int, Ask]]:
    """The request in pieces of `plan.batch`, with the index of each piece's first image."""
    ask = plan.ask
    for start in range(0, len(ask), plan.batch):
        at = slice(start, start + plan.batch)
        yield start, ask.but(prompts=ask.prompts[at], negatives=ask.negatives[at], seeds=ask.seeds[at])


def _draw(plan: Plan, bundle: Bundle, sampler: Sampler, tap: Tap,
          done: Callable[[int, UInt8[np.ndarray, "H W 3"]], None]) -> torch.Tensor:  # fmt: skip
    drawn: list[torch.Tensor] = []
    with using(bundle, *plan.edits, tap=tap) as edited:
        for start, part in batches(plan):
            images = sampler.sample(edited, part, tap).cpu()
            for row, image in enumerate(images):
                done(start + row, image.permute(1, 2, 0).numpy())
            drawn.append(images)
    return torch.cat(drawn)


def run_name(plan: Plan) -> str:
    """The name of a new run folder: the time, and a hash of the plan."""
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    return f"{stamp}-{hashlib.sha256(json.dumps(plan.to_json(), sort_keys=True).encode()).hexdigest()[:6]}"


def _new_folder(plan: Plan, out: Path | str | None) -> Path:
    name = run_name(plan)
    folder = Path(out) if out is not None else OUTPUTS / name
    if out is not None and (folder / PLAN).exists():
        folder = folder / name
    base, count = folder, 1
    while (folder / PLAN).exists():
        count += 1
        folder = base.with_name(f"{base.name}-{count}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise AskError(f"{folder} is a file, so no run can go there. Name a folder.") from None
    except PermissionError:
        raise AskError(f"{folder} may not be written to. Name another folder with --out.") from None
    return folder


class _Notes:
    """The report of a run, written after every picture so that a folder always says what is in it."""

    def __init__(self, folder: Path, plan: Plan, bundle: Bundle) -> None:
        self.folder = folder
        self.plan = plan
        self.arrays: dict[str, np.ndarray] = {}
        self.began = time.perf_counter()
        self.model = {"name": bundle.name, "family": bundle.family, "digest": bundle.digest, "source": bundle.source}
        self.report: dict[str, Any] = {
            "schema": 1, "status": "running", "pid": os.getpid(), "started": datetime.now(UTC).isoformat(),
            "seconds": 0.0, "error": None, "model": self.model, "environment": environment(bundle),
            "pictures": [], "numbers": {}, "reports": {}}  # fmt: skip

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Mark the run as running, then as what became of it."""
        try:
            write_json(self.folder / PLAN, self.plan.to_json())
            self._write()
            self._copy_inputs()
            yield
            if self.arrays:
                save_arrays(self.folder / ARRAYS, self.arrays)
            self._end("done")
        except Stopped:
            self._end("stopped")
        except KeyboardInterrupt:
            self._end("stopped")
            raise
        except torch.OutOfMemoryError as error:
            trouble = ResourceError(
                f"The device ran out of memory drawing {min(len(self.plan.ask), self.plan.batch)} pictures at a time. "
                "Use a smaller --batch or --size."
            )
            self._end("failed", str(trouble))
            raise trouble from error
        except Exception as error:
            text = str(error) if isinstance(error, WorkbenchError) else f"{type(error).__name__}: {error}"
            self._end("failed", text)
            raise

    def picture(self, index: int, pixels: UInt8[np.ndarray, "H W 3"], saved: Saved | None) -> None:
        """Save one picture and list it."""
        ask = self.plan.ask.row(index)
        path = self.folder / f"{index:04d}.png"
        height, width = pixels.shape[:2]
        meta = {"schema": 1, "version": self.report["environment"]["versions"]["workbench"], "model": self.model,
                "size": [width, height], "plan": self.plan.but(ask=ask).to_json()}  # fmt: skip
        save_png(path, pixels, meta)
        entry = {"file": path.name, "prompt": ask.prompts[0], "negative": ask.negatives[0], "seed": ask.seeds[0],
                 "size": [width, height], "pixels": digest(pixels)}  # fmt: skip
        self.report["pictures"].append(entry)
        self._write()
        if saved is not None:
            saved(path)

    def reported(self, name: str, report: Report) -> None:
        """Keep what a lens or metric found."""
        label, count = name, 1
        while label in self.report["reports"]:
            count += 1
            label = f"{name}#{count}"
        plain, arrays = pack(report, label)
        self.arrays |= arrays
        for file, pixels in pictures(report, label):
            save_png(self.folder / file, pixels, {"schema": 1, "panel": label})
        self.report["reports"][label] = plain
        self.report["numbers"][label] = plain["numbers"]

    def _copy_inputs(self) -> None:
        files: Mapping[str, Path | None] = {"image": self.plan.ask.image, "mask": self.plan.ask.mask}
        for name, path in files.items():
            if path is not None and path.is_file():
                shutil.copyfile(path, self.folder / f"input-{name}{path.suffix}")

    def _end(self, status: Status, error: str | None = None) -> None:
        self.report |= {"status": status, "error": error}
        try:
            self._write()
        except (OSError, ResourceError):
            # a full disk may not even take the report: the one on disk says "running", and is listed as failed
            # once this process is gone; a smaller one is tried now
            self.report |= {"reports": {}, "numbers": {}}
            try:
                self._write()
            except (OSError, ResourceError):
                (self.folder / REPORT).unlink(missing_ok=True)

    def _write(self) -> None:
        self.report["seconds"] = round(time.perf_counter() - self.began, 3)
        write_json(self.folder / REPORT, tame(self.report))


def digest(pixels: UInt8[np.ndarray, "H W 3"]) -> str:
    """A hash of a picture's size and pixels."""
    head = "x".join(map(str, pixels.shape)).encode()
    return hashlib.sha256(head + np.ascontiguousarray(pixels).tobytes()).hexdigest()
