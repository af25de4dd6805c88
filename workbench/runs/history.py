"""Run folders as values: read one, list all."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8

from workbench.blocks.disk import read_json
from workbench.blocks.pictures import open_picture
from workbench.core.errors import AskError, WorkbenchError
from workbench.core.plan import Plan
from workbench.core.report import Report
from workbench.runs.panels import load_arrays, unpack

Status = Literal["running", "done", "stopped", "failed"]
PLAN, REPORT, ARRAYS = "plan.json", "report.json", "panels.npz"


@dataclass(frozen=True, eq=False)
class Run:
    """A run folder: its plan, how it went, and what its report says.

    `differing` is set by a replay: the pictures whose pixels are not those of the first run.
    """

    folder: Path
    plan: Plan
    status: Status
    report: Mapping[str, Any]
    differing: tuple[str, ...] = ()

    @property
    def pictures(self) -> tuple[Path, ...]:
        """The finished pictures, in the order of the request."""
        return tuple(self.folder / entry["file"] for entry in self.report.get("pictures", ()))

    @property
    def images(self) -> list[UInt8[np.ndarray, "H W 3"]]:
        """The pixels of the pictures."""
        return [open_picture(path) for path in self.pictures]

    @property
    def numbers(self) -> Mapping[str, Mapping[str, float | None]]:
        """The numbers of metrics and lenses, by method."""
        return self.report.get("numbers", {})

    @property
    def seconds(self) -> float:
        """Wall-clock seconds from start to end."""
        return float(self.report.get("seconds") or 0.0)

    @property
    def error(self) -> str:
        """Why a run failed, one line; "" where it did not."""
        return str(self.report.get("error") or "")

    def reports(self) -> dict[str, Report]:
        """What lenses and metrics reported, by method, panels included."""
        arrays = load_arrays(self.folder / ARRAYS)
        return {name: unpack(entry, arrays) for name, entry in self.report.get("reports", {}).items()}


def read_run(folder: Path | str) -> Run:
    """The run in a folder. Raises `AskError` where there is none."""
    folder = Path(folder)
    report = read_json(folder / REPORT)
    if not isinstance(report, dict) or not (folder / PLAN).is_file():
        raise AskError(f"{folder} is not a run: it holds no {PLAN} with a {REPORT}. Runs are listed in outputs/.")
    plan = Plan.from_json((folder / PLAN).read_bytes())
    status = report.get("status", "failed")
    if status == "running" and not _alive(report.get("pid")):
        status = "failed"
        report = {**report, "status": status, "error": "The program ended before the run did."}
    pictures = [entry for entry in report.get("pictures", ()) if (folder / entry["file"]).is_file()]
    return Run(folder, plan, status, {**report, "pictures": pictures})


def list_runs(folder: Path | str) -> tuple[Run, ...]:
    """The runs in a folder and in its folders, newest first; whatever is not a readable run is passed over."""
    found: list[Run] = []
    for path in Path(folder).rglob(REPORT):
        try:
            found.append(read_run(path.parent))
        except WorkbenchError:
            continue
    return tuple(sorted(found, key=lambda run: str(run.report.get("started", "")), reverse=True))


def _alive(pid: object) -> bool:
    if not isinstance(pid, int) or pid < 1:
        return False
    if os.name == "nt":  # signal 0 means Ctrl-C there
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
