"""A denoiser's low-rank change as one module: what is trained, what is called with it, and what is written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from workbench.blocks.adapter_files import write
from workbench.blocks.students import TOLD as STEPS
from workbench.ops.low_rank import LowRank

#: diffusers' own entrance for a number told beside the timestep.
TOLD = "time_embedding.cond_proj"


class Factors(nn.Module):
    """Factors up [out, r] and down [r, in * kh * kw] for every matrix and kernel of a denoiser; `up` begins at zero.

    With `told` there is a column as well, through which the steps of a whole run are told at `timestep_cond`.
    """

    def __init__(self, base: Any, rank: int, *, told: bool = False, seed: int = 0) -> None:
        super().__init__()
        if told and base.time_embedding.cond_proj is None:
            width = base.time_embedding.linear_1.in_features
            base.time_embedding.cond_proj = nn.Linear(1, width, bias=False).requires_grad_(False)
        linear = {name: m for name, m in base.named_modules() if isinstance(m, nn.Linear | nn.Conv2d) and name != TOLD}
        self.paths, self.shapes = list(linear), [tuple(m.weight.shape) for m in linear.values()]
        generator = torch.Generator().manual_seed(seed)
        wide = [m.weight.flatten(1).shape for m in linear.values()]
        self.up = nn.ParameterList(torch.zeros(out, rank) for out, _ in wide)
        self.down = nn.ParameterList(torch.randn(rank, i, generator=generator) / i**0.5 for _, i in wide)
        self.told = nn.Parameter(torch.zeros_like(base.time_embedding.cond_proj.weight)) if told else None

    def merged(self, frozen: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return W + up @ down for every changed parameter of the denoiser."""
        whole: dict[str, Tensor] = {}
        for path, up, down in zip(self.paths, self.up, self.down, strict=True):
            weight = frozen[f"{path}.weight"]
            whole[f"{path}.weight"] = weight + (up @ down).view(weight.shape)
        return whole if self.told is None else {**whole, f"{TOLD}.weight": self.told}

    def low_rank(self, weights: Mapping[str, Tensor]) -> LowRank:
        """Return a state of this module as a low-rank change of the part `unet`."""
        every = enumerate(self.paths)
        return LowRank({f"unet:{path}.weight": (weights[f"up.{i}"], weights[f"down.{i}"]) for i, path in every})

    def write(self, folder: Path, weights: Mapping[str, Tensor], base: str) -> None:
        """Write a state of this module as peft lays an adapter out, in fp16; a column for steps goes beside it."""
        shapes = {f"unet:{path}.weight": shape for path, shape in zip(self.paths, self.shapes, strict=True)}
        write(self.low_rank(weights), folder, shapes=shapes, dtype=torch.float16, base=base)
        if self.told is not None:
            save_file({f"unet:{TOLD}.weight": weights["told"].half().contiguous()}, folder / STEPS)
