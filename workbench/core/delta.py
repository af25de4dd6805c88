"""What `fit` returns: a change as a value, to be cached, saved, scaled, applied and undone."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn

import torch
from torch import Tensor

from workbench.core.errors import AskError, CheckpointMismatch

DeltaKind = Literal["none", "weights", "masks", "rows"]


@dataclass(frozen=True, eq=False)
class Delta:
    """A change of a model, by kind.

    `weights`: `key` -> W' - W, or `key.up` [out, r] and `key.down` [r, in] whose product it is.
    `masks`: `key` of a consuming matrix -> one number a column (0 drops the unit that feeds it, 1 keeps it).
    `rows`: `key` of an embedding -> learned rows [n, D]; `key.ids` [n] says which rows, or new ones at the end.
    Keys are `part:path.parameter`. `text` is what the method wants to remember.
    """

    kind: DeltaKind
    tensors: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    text: Mapping[str, str] = field(default_factory=dict[str, str])

    @classmethod
    def none(cls) -> "Delta":
        """No change."""
        return cls("none")

    def keys(self) -> Iterator[str]:
        """The changed parameters, each once."""
        seen = dict.fromkeys(k.removesuffix(".up").removesuffix(".down").removesuffix(".ids") for k in self.tensors)
        return iter(seen)

    def change(self, key: str) -> Tensor:
        """W' - W of a parameter, dense; a product of narrow factors is taken in float32."""
        if key in self.tensors:
            return self.tensors[key]
        up, down = self.tensors[f"{key}.up"], self.tensors[f"{key}.down"]
        wide = torch.promote_types(up.dtype, torch.float32)
        return up.to(wide) @ down.to(wide)

    def changed(self, key: str, weight: Tensor, strength: float = 1.0) -> Tensor:
        """The parameter after the change: the one line that both `patch` and export use.

        Strength 0 gives the very same values back. The sum is taken in float32 or wider.
        """
        if strength == 0.0:
            return weight.detach().clone()
        if self.kind in ("masks", "rows") and self.tensors[key].shape[-1:] != weight.shape[1:2]:
            self._misfit(key, weight, self.tensors[key])
        if self.kind == "masks":
            mask = self.tensors[key].to(weight.device, weight.dtype)
            return weight.detach() * (1 - strength * (1 - mask)).reshape((1, -1) + (1,) * (weight.ndim - 2))
        wide = weight.detach().double() if weight.dtype.itemsize == 8 else weight.detach().float()
        if self.kind == "rows":
            return self._rows(key, wide, strength).to(weight.dtype)
        change = self.change(key).to(wide)
        if change.numel() != wide.numel():
            self._misfit(key, weight, change)
        return (wide + strength * change.reshape(wide.shape)).to(weight.dtype)

    def _misfit(self, key: str, weight: Tensor, change: Tensor) -> NoReturn:
        raise AskError(
            f"{key} has shape {tuple(weight.shape)}; the delta changes {tuple(change.shape)}. Was it fitted on another "
            "model?"
        )

    def _rows(self, key: str, table: Tensor, strength: float) -> Tensor:
        ids, rows = self.tensors[f"{key}.ids"].long(), self.tensors[key].to(table)
        size = max(len(table), int(ids.max()) + 1)
        grown = table.new_zeros(size, table.shape[1])
        grown[: len(table)] = table
        grown[ids] += strength * (rows - grown[ids])
        return grown

    def save(self, path: Path) -> None:
        """Write a safetensors file with kind and text in its metadata."""
        from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]

        tensors = {name: value.detach().cpu().contiguous().clone() for name, value in self.tensors.items()}
        save_file(
            tensors,
            path,
            metadata={"kind": self.kind, "text": json.dumps(dict(self.text))},
        )

    @classmethod
    def load(cls, path: Path) -> "Delta":
        """Read what `save` wrote. Raises `CheckpointMismatch` for anything else."""
        from safetensors import SafetensorError, safe_open

        try:
            opened: Any = safe_open(path, "pt")
            with opened as file:
                meta: dict[str, str] = file.metadata() or {}
                tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise CheckpointMismatch(f"{path.name} is not a readable safetensors file ({error}).") from None
        if meta.get("kind") not in ("none", "weights", "masks", "rows"):
            raise CheckpointMismatch(f"{path.name} is not a delta of ours: its metadata names no kind.")
        kind: Any = meta["kind"]
        return cls(kind, tensors, json.loads(meta.get("text", "{}")))
