"""What an edit costs: seconds and memory of its fit, and how much of the model it changes."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# torch's norm carries no types

import contextlib
import hashlib
import json
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from workbench.core.bundle import Bundle, Store
from workbench.core.delta import Delta
from workbench.core.method import Edit
from workbench.core.patch import Patch
from workbench.core.scene import fitted, using
from workbench.core.tape import Tap, ignore


@dataclass(frozen=True)
class Cost:
    """Seconds and peak memory (MiB) of fitting, and what of the model changed at full strength.

    `parameters` counts the numbers that differ and `share` is that of the parts they lie in; `change` is the largest
    |W' - W| / |W| of a matrix; `kib` the size of the deltas.
    """

    seconds: float
    peak_mib: float
    matrices: int
    parameters: int
    share: float
    change: float
    kib: float


def fit_cost(bundle: Bundle, edits: Sequence[Edit], tap: Tap = ignore) -> Cost:
    """Fit edits one after the other and say what it took; kept beside the deltas, so that it is measured once.

    An edit that was fitted before its cost was noted is fitted once more: the time is that of a real fit.
    """
    address = json.dumps([bundle.digest, list(bundle.seams.edits), [edit.fit_key for edit in edits]])
    key = "cost/" + hashlib.sha256(address.encode()).hexdigest()[:32]
    kept = bundle.store.json(key) if bundle.store is not None else None
    if kept is not None:
        return Cost(**kept)
    seconds, most = 0.0, 0
    totals: list[tuple[int, int, float, int]] = []
    for i, edit in enumerate(edits):
        with using(bundle, *edits[:i], tap=tap):
            with peak(bundle.device) as held:
                began = time.perf_counter()
                fresh = replace(bundle, store=None if bundle.store is None else _Unread(bundle.store))
                delta = fitted(edit, fresh, bundle.seams.edits, tap)
                settle(bundle.device)
                seconds += (time.perf_counter() - began) if edit.fits() else 0.0
            most = max(most, held[0] if edit.fits() else 0)
            totals.append(_extent(bundle, delta))
    whole = sum(p.numel() for part in bundle.parts.values() for p in part.parameters())
    numbers = sum(total[1] for total in totals)
    cost = Cost(
        seconds, most / 2**20, sum(total[0] for total in totals), numbers, numbers / max(whole, 1),
        max((total[2] for total in totals), default=0.0), sum(total[3] for total in totals) / 1024)  # fmt: skip
    if bundle.store is not None:
        bundle.store.keep_json(key, asdict(cost))
    return cost


def _extent(bundle: Bundle, delta: Delta) -> tuple[int, int, float, int]:
    """Matrices and numbers changed, the largest relative change, and bytes, of one delta."""
    size = sum(value.numel() * value.element_size() for value in delta.tensors.values())
    matrices = numbers = 0
    most = 0.0
    with Patch(bundle) as patch:  # looks parameters up; nothing is put
        for key in delta.keys():  # noqa: SIM118  (not a mapping)
            owner, name = patch.find(key)
            old: Tensor = getattr(owner, name).detach()
            if delta.kind == "rows":
                matrices, numbers = matrices + 1, numbers + delta.tensors[key].numel()
                continue
            gap = delta.changed(key, old).float() - old.float()
            moved = int(gap.ne(0).sum())
            matrices, numbers = matrices + bool(moved), numbers + moved
            most = max(most, float(gap.norm() / old.float().norm().clamp_min(1e-12)))
    return matrices, numbers, most, size


@dataclass(frozen=True)
class _Unread:
    """A store that remembers but never answers for tensors, so that a fit is a real one."""

    store: Store

    def tensors(self, key: str) -> tuple[dict[str, Tensor], dict[str, str]] | None:
        return None

    def keep_tensors(self, key: str, tensors: Mapping[str, Tensor], text: Mapping[str, str]) -> None:
        self.store.keep_tensors(key, tensors, text)

    def json(self, key: str) -> Any | None:
        return self.store.json(key)

    def keep_json(self, key: str, value: Any) -> None:
        self.store.keep_json(key, value)


def settle(device: torch.device) -> None:
    """Wait until the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextlib.contextmanager
def peak(device: torch.device) -> Generator[list[int], None, None]:
    """The most bytes held during the body, in the list's only entry: of the device, or of the process on a CPU.

    On a CPU this is the resident peak, weights and libraries included; where the system cannot restart it, the peak
    since the process began.
    """
    most = [0]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
    yield most
    most[0] = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _resident()


def _resident() -> int:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource  # not on Windows
    except ImportError:
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
