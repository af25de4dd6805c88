"""Head grid: what each attention head of each layer does, in four numbers.

Papers: evenness is the entropy of attention of Vaswani et al. 2017, arXiv 1706.03762, over its greatest value;
overfocus is the quantity that Guo, Stutz and Schiele 2023, "Robustifying Token Attention for Vision Transformers",
arXiv 2303.11126 (ICCV 2023), lower with their attention diversification loss; the positional leaning is what Endo et
al. 2024, "Feather the Throttle", arXiv 2412.13180, find in attention scores of language models with rotary positions.

Equations for a head with W [N, L], rows summing to one, means over queries i and conditional rows:
    evenness  = H(W_i) / log L                                    0 one place, 1 everywhere alike
    overfocus = cos(mean_i W_i, W_i), entries below 2 / L cut      1 all queries look at the same few
    reach     = sum_j W_ij |p_i - p_j| / mean_j |p_i - p_j|        0 looks at itself, 1 everywhere alike
    downward  = sum_j W_ij (row_j - middle)                        -0.5 top .. 0.5 bottom
of self-attention; of cross-attention the last two are not defined, and instead
    start     = sum_i W_i,0                                        share of the start token

Differs: the diversification loss takes the mean over heads first, here each head stands for itself.
There are no official numbers. Licences: the papers' code was not read.
"""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from workbench.blocks.recorder import Look, Recorder
from workbench.core.bundle import Site
from workbench.core.errors import AskError
from workbench.core.method import Card, Lens
from workbench.core.report import Heat, Panel, Report, Table
from workbench.core.scene import Scene
from workbench.core.tape import Step
from workbench.ops import attention as maps

SELF, CROSS = ("evenness", "overfocus", "reach", "downward"), ("evenness", "overfocus", "start")


class HeadGrid(Lens):
    """Entropy, overfocus and positional leaning of every head."""

    card: ClassVar[Card] = Card("head-grid", "Head grid", "arXiv 2303.11126", ("unet", "dit"), "seconds")
    quick: ClassVar[Mapping[str, Any]] = {"moment": 1.0}

    of: Literal["self-attention", "cross-attention"] = Field("self-attention", description="Which attention.")
    moment: float = Field(0.5, ge=0, le=1, description="Share of the run at which to look: 0 first step, 1 last step.")

    def look(self, scene: Scene) -> Report:
        """A grid of layers by heads for each number, and a table with a line a head."""
        sites = scene.bundle.sites(self.of)
        if not sites:
            raise AskError(f"{scene.bundle.name} has no {self.of} to look at.")
        recorder = Recorder(steps=lambda step: step.index == self._step(step))
        recorder.attention(sites, "heads", self_numbers if self.of == "self-attention" else cross_numbers)
        scene.run(record=recorder.attach)
        names = SELF if self.of == "self-attention" else CROSS
        found = {site: recorder.taken("heads", site)[0].mean(0) for site in sites}  # [A, numbers]
        panels = list(_grids(found, names))
        rows = tuple((site.name, head + 1, *(round(v, 4) for v in numbers.tolist()))
                     for site, heads in found.items() for head, numbers in enumerate(heads))  # fmt: skip
        table = Table(("site", "head", *names), rows, f"Heads at step {recorder.times[0] + 1}")
        means = torch.cat(list(found.values())).mean(0)
        return Report((*panels, table), {name: float(value) for name, value in zip(names, means, strict=True)})

    def _step(self, step: Step) -> int:
        return round(self.moment * (step.total - 1))


def self_numbers(look: Look) -> Tensor:
    """Evenness, overfocus, reach and downward of each head [B, A, 4]; of a merged model those of the merged places."""
    count = look.call.key.shape[-2]
    size = maps.grid(count, look.size) if look.unmerge is None else None
    middle = _mean_row(look)
    parts: list[Tensor] = []
    start = 0
    for part in look.weights():
        columns = [maps.evenness(part), maps.overfocus(part, middle)]
        if size is None:
            columns += [torch.zeros_like(columns[0])] * 2  # merged places stand nowhere in particular
        else:
            columns += [maps.reach(part, size, start), maps.downward(part, size)]
        parts.append(torch.stack(columns, -1))
        start += part.shape[-2]
    return torch.cat(parts, -2).mean(-2)


def cross_numbers(look: Look) -> Tensor:
    """Evenness, overfocus and the start token's share of each head [B, A, 3]."""
    middle = _mean_row(look)
    parts = [
        torch.stack([maps.evenness(part), maps.overfocus(part, middle), part[..., 0]], -1) for part in look.weights()
    ]
    return torch.cat(parts, -2).mean(-2)


def _mean_row(look: Look) -> Tensor:
    """The mean over all queries of what they look at [B, A, L]."""
    whole = sum((part.sum(-2) for part in look.weights()), torch.zeros(()))
    return torch.as_tensor(whole) / look.call.query.shape[-2]


def _grids(found: Mapping[Site, Tensor], names: tuple[str, ...]) -> Iterator[Panel]:
    """One grid of layers (rows) by heads (columns) for each number and each count of heads."""
    counts = sorted({len(heads) for heads in found.values()})
    for column, name in enumerate(names):
        for count in counts:
            rows = {site: heads for site, heads in found.items() if len(heads) == count}
            values = np.stack([heads[:, column].numpy() for heads in rows.values()])
            first, last = (list(rows)[i].path for i in (0, -1))
            title = f"{name}: {first} (top) to {last} (bottom), {count} heads"
            signed = name == "downward"
            yield Heat(values, title, name, None if signed else 0.0, None if signed else max(1.0, float(values.max())),
                       signed=signed)  # fmt: skip
