"""What the recipes share: a wall-clock schedule, a log, checkpoints that resume, and the folders they use."""

from __future__ import annotations

import json
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from workbench.core.places import ASSETS, CACHE

# diffusers exports its classes in a way that type checkers do not follow
diffusers: Any = import_module("diffusers")

MODELS = ASSETS / "models"
B = TypeVar("B")


def scratch() -> Path:
    """Return the folder where recipes keep checkpoints and pools between runs."""
    folder = CACHE / "train"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@dataclass
class Clock:
    """Minutes as the measure of training: `part` runs from 0 to 1 over the minutes planned, resumed time included."""

    minutes: float
    spent: float = 0.0
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Seconds trained so far, earlier runs included."""
        return self.spent + time.monotonic() - self.started

    @property
    def part(self) -> float:
        """Fraction of the plan that is over."""
        return min(self.seconds / (60 * self.minutes), 1.0)

    def rate(self, step: int, warm: int = 100, tail: float = 1.0) -> float:
        """Return the learning-rate factor: linear warm-up, then a fall to 0 over the last `tail` of the time."""
        return min((step + 1) / warm, 1.0) * min((1 - self.part) / tail, 1.0)


@dataclass
class Log:
    """The record that ships beside the weights as training.json."""

    facts: dict[str, Any]
    curve: list[dict[str, float]] = field(default_factory=list)

    def add(self, **numbers: float) -> None:
        """Note one point of the curve, and print it."""
        point = {key: round(float(value), 5) for key, value in numbers.items()}
        self.curve.append(point)
        print(json.dumps(point), flush=True)

    def write(self, folder: Path, **final: Any) -> None:
        """Write facts, curve and final numbers to folder/training.json."""
        facts = {**self.facts, "device": f"{torch.get_num_threads()} threads {platform.machine()}"}
        facts |= {"torch": torch.__version__.split("+")[0], "final": final, "curve": self.curve}
        (folder / "training.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def keep(name: str, model: nn.Module, optimiser: torch.optim.Optimizer, **numbers: Any) -> None:
    """Write a checkpoint: weights as safetensors, the optimiser's state and the numbers beside it."""
    path = scratch() / f"{name}.safetensors"
    state = {key: value.detach().clone().contiguous() for key, value in model.state_dict().items()}
    save_file(state, path.with_suffix(".part"))
    torch.save({"optimiser": optimiser.state_dict(), "numbers": numbers}, path.with_suffix(".pt"))
    path.with_suffix(".part").replace(path)


def resume(name: str, model: nn.Module, optimiser: torch.optim.Optimizer | None = None) -> dict[str, Any]:
    """Load the checkpoint of that name where there is one; return its numbers and optimiser state, or nothing."""
    path = scratch() / f"{name}.safetensors"
    if not path.exists():
        return {}
    model.load_state_dict(load_file(path))
    extra = torch.load(path.with_suffix(".pt"), weights_only=True)
    if optimiser is not None:
        optimiser.load_state_dict(extra["optimiser"])
    return {**extra["numbers"], "optimiser": extra["optimiser"]}


def signed(pictures: Sequence[NDArray[np.uint8]] | NDArray[np.uint8]) -> Tensor:
    """Turn uint8 pictures [B, H, W, 3] into channels-last floats [B, 3, H, W] in -1..1."""
    rows = torch.from_numpy(np.ascontiguousarray(np.stack(list(pictures)))).permute(0, 3, 1, 2)
    return (rows.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def by_number(batches: Dataset[B], start: int, workers: int = 0, pin: bool = False) -> Iterator[B]:
    """Batches `start`, `start` + 1 and so on without end, made by worker processes ahead of their use."""
    order = cast("Any", range(start, start + 10**9))
    ahead = 4 if workers else None
    loader = DataLoader(batches, None, sampler=order, num_workers=workers, prefetch_factor=ahead, pin_memory=pin,
                        generator=torch.Generator())  # fmt: skip
    return iter(loader)


def every(seconds: float) -> Callable[[], bool]:
    """Return a question that answers yes once every so many seconds."""
    last = time.monotonic()

    def due() -> bool:
        nonlocal last
        if time.monotonic() - last < seconds:
            return False
        last = time.monotonic()
        return True

    return due


def together(work: Callable[..., None], workers: int, threads: int, settings: dict[str, Any]) -> None:
    """Run work(rank, workers, settings) in several processes that `agree` now and then (local SGD); one runs here.

    Processes of one thread each keep their pace on a shared machine, where threads of one process wait for each
    other at every operation.
    """
    if workers == 1:
        torch.set_num_threads(threads)
        work(0, 1, settings)
        return
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(_join, (work, workers, threads, f"file://{folder}/meet", settings), workers,
                           start_method="spawn")  # fmt: skip


def _join(rank: int, work: Callable[..., None], workers: int, threads: int, meet: str, settings: Any) -> None:
    torch.set_num_threads(threads)
    dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=workers)
    work(rank, workers, settings)


@torch.no_grad()
def agree(model: nn.Module, numbers: list[float]) -> list[float]:
    """Average the weights over all workers in place; return the sum of each number over them."""
    if not dist.is_initialized():
        return numbers
    parameters = list(model.parameters())
    flat = torch.cat([p.detach().contiguous().view(-1) for p in parameters] + [torch.tensor(numbers)])
    dist.all_reduce(flat)
    start = 0
    for parameter in parameters:
        part = flat[start : start + parameter.numel()] / dist.get_world_size()
        # the copy keeps the layout (channels last) that the parameter has
        parameter.copy_(part.view(parameter.shape))
        start += parameter.numel()
    return flat[start:].tolist()
