"""Adapters for tests: changes with chosen directions, written to files that every method can read."""

from pathlib import Path

import torch
from torch import Tensor

from tests.tiny import tiny_sd
from workbench.blocks.adapter_files import write
from workbench.core.delta import Delta
from workbench.core.tape import ignore
from workbench.ops.low_rank import LowRank

KEY = "unet:mid_block.attentions.0.transformer_blocks.0.attn2.to_v.weight"


def random_factors(seed: int, out: int = 8, width: int = 7, rank: int = 3) -> tuple[Tensor, Tensor]:
    """A pair of factors in float64."""
    generator = torch.Generator().manual_seed(seed)
    up, down = (torch.randn(shape, generator=generator).double() for shape in ((out, rank), (rank, width)))
    return up, down


def dense(pair: tuple[Tensor, Tensor]) -> Tensor:
    """Their product, by loops."""
    up, down = (part.double().tolist() for part in pair)
    return torch.tensor(
        [[sum(row[r] * down[r][j] for r in range(len(down))) for j in range(len(down[0]))] for row in up],
        dtype=torch.float64,
    )


def saved(folder: Path, name: str, factors: dict[str, tuple[Tensor, Tensor]], trigger: str = "") -> str:
    """A peft folder of these changes; returns its path."""
    notes = {"trigger": trigger} if trigger else {}
    low = LowRank({key: (up.float(), down.float()) for key, (up, down) in factors.items()})
    write(low, folder / name, training=notes)
    return str(folder / name)


def fitted(edit: object) -> Delta:
    """What an edit fits on the tiny model."""
    return edit.fit(tiny_sd(), ignore)  # type: ignore[attr-defined]
