"""Where a model runs and in what numbers: the one place that decides device, dtype and memory format."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from workbench.core.errors import AskError

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_SHORT = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "half": "float16", "float": "float32"}
#: Models below this many parameters gain nothing worth the lost digits from half precision on a GPU.
SMALL = 200_000_000


@dataclass(frozen=True)
class Placement:
    """A device, a dtype and the memory format of convolutions."""

    device: torch.device
    dtype: torch.dtype
    memory_format: torch.memory_format

    def put(self, module: nn.Module, dtype: torch.dtype | None = None) -> None:
        """Move a module here; matrices of convolutions take the memory format."""
        module.to(device=self.device)
        if any(weight.dtype != (dtype or self.dtype) for weight in module.parameters() if weight.is_floating_point()):
            module.to(dtype=dtype or self.dtype)
        if any(isinstance(part, nn.Conv2d) for part in module.modules()):
            moved: Any = module
            moved.to(memory_format=self.memory_format)


def choose(device: str = "", dtype: str = "", parameters: int = 0) -> Placement:
    """The placement asked for, or the best there is for a model of this size.

    "" takes cuda, then mps, then cpu; float32 on a CPU and for small models, float16 otherwise. Convolutions are
    channels-last on CUDA in half precision and in bfloat16 on a CPU, where it is faster.
    Raises `AskError` for a device that is not there and for an unknown dtype.
    """
    where = _device(device)
    what = _dtype(dtype) or (torch.float16 if where.type in ("cuda", "mps") and parameters >= SMALL else torch.float32)
    if where.type == "cpu" and what == torch.float16:
        raise AskError("dtype float16 has no fast kernels on a CPU. Take float32 or bfloat16.")
    last = what != torch.float32 and where.type in ("cuda", "cpu")
    return Placement(where, what, torch.channels_last if last else torch.contiguous_format)


def available() -> tuple[str, ...]:
    """The devices of this machine, the preferred one first."""
    found = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    if torch.backends.mps.is_available():
        found.append("mps")
    return (*(["cuda"] if found and found[0].startswith("cuda") else []), *found, "cpu")


def _device(name: str) -> torch.device:
    there = available()
    if not name:
        return torch.device(there[0])
    if name not in there:
        raise AskError(f"The device is {name!r}; this machine has: {', '.join(there)}.")
    return torch.device(name)


def _dtype(name: str) -> torch.dtype | None:
    name = name.removeprefix("torch.")
    name = _SHORT.get(name, name)
    if name and name not in DTYPES:
        raise AskError(f"The dtype is {name!r}; there are: {', '.join(DTYPES)}.")
    return DTYPES.get(name)
