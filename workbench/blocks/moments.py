"""Sums that a closed-form edit needs, and nothing else: they add up, merge in any order, scale and go into a file."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.core.errors import AskError, CheckpointMismatch

KIND = "moments"


@dataclass(frozen=True, eq=False)
class Moments:
    """a = sum w v* k^T [o, d] and b = sum w k k^T [d, d] in float64 over n inputs k and wanted outputs v*.

    Where every wanted output is what the matrix itself makes of another input (v* = W k*), keep k* in place of v*:
    then o = d, one `Moments` serves all matrices, and A - W B = W (a - b).
    """

    a: Float[Tensor, "o d"]
    b: Float[Tensor, "d d"]
    n: float = 0.0

    @classmethod
    def empty(cls, inputs: int, outputs: int | None = None, device: torch.device | str = "cpu") -> "Moments":
        """Sums over nothing."""
        kind: dict[str, Any] = {"dtype": torch.float64, "device": device}
        return cls(torch.zeros(outputs or inputs, inputs, **kind), torch.zeros(inputs, inputs, **kind))

    @classmethod
    def of(cls, keys: Float[Tensor, "n d"], values: Float[Tensor, "n o"], weight: float = 1.0) -> "Moments":
        """The sums over some inputs and their wanted outputs, each of the same weight."""
        keys, values = keys.double(), values.double()
        return cls(weight * (values.T @ keys), weight * (keys.T @ keys), float(len(keys)))

    @classmethod
    def over(cls, pairs: Iterable[tuple[Tensor, Tensor]], weight: float = 1.0, chunk: int = 4096) -> "Moments":
        """The sums over pairs of keys [n, d] and values [n, o], taken a few thousand rows at a time.

        Raises `AskError` when there is no pair.
        """
        total: Moments | None = None
        keys: list[Tensor] = []
        values: list[Tensor] = []

        def flush() -> None:
            nonlocal total
            if keys:
                part = Moments.of(torch.cat(keys), torch.cat(values), weight)
                total = part if total is None else total + part
                keys.clear()
                values.clear()

        for key, value in pairs:
            keys.append(key)
            values.append(value)
            if sum(map(len, keys)) >= chunk:
                flush()
        flush()
        if total is None:
            raise AskError("There are no pairs to sum over. Give at least one text.")
        return total

    def __add__(self, other: "Moments") -> "Moments":
        if self.a.shape != other.a.shape:
            raise AskError(
                f"Moments of {tuple(self.a.shape)} and {tuple(other.a.shape)} do not add up. Are they of two models?"
            )
        return Moments(self.a + other.a.to(self.a), self.b + other.b.to(self.b), self.n + other.n)

    def scaled(self, factor: float) -> "Moments":
        """Every weight times `factor`; the count stays."""
        return Moments(factor * self.a, factor * self.b, self.n)

    def mean(self) -> "Moments":
        """Per input: sums of any size become comparable."""
        return Moments(self.a / max(self.n, 1.0), self.b / max(self.n, 1.0), self.n)

    @property
    def level(self) -> float:
        """The mean diagonal element of b, trace b / d: the natural unit of a ridge."""
        return float(self.b.diagonal().mean())

    def save(self, path: Path) -> None:
        """Write a safetensors file."""
        from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]

        tensors = {"a": self.a.cpu().contiguous(), "b": self.b.cpu().contiguous()}
        save_file(tensors, path, metadata={"kind": KIND, "text": json.dumps({"n": self.n})})

    @classmethod
    def load(cls, path: Path) -> "Moments":
        """Read what `save` wrote. Raises `CheckpointMismatch` for anything else."""
        from safetensors import SafetensorError, safe_open

        try:
            opened: Any = safe_open(path, "pt")
            with opened as file:
                meta: dict[str, str] = file.metadata() or {}
                tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise CheckpointMismatch(f"{path.name} is not a readable safetensors file ({error}).") from None
        if meta.get("kind") != KIND or set(tensors) != {"a", "b"}:
            raise CheckpointMismatch(f"{path.name} holds no moments of ours. Sum them up again.")
        return cls(tensors["a"], tensors["b"], float(json.loads(meta["text"])["n"]))
