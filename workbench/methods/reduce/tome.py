"""Token merging: attention on means of similar tokens.

Paper: Bolya and Hoffman 2023, "Token Merging for Fast Stable Diffusion", arXiv 2303.17604 (CVPR 2023 workshop), after
Bolya et al. 2022, "Token Merging: Your ViT But Faster", arXiv 2210.09461 (ICLR 2023).

Equations, for a block's input x [N, C] on its grid, once a block and step: one token of each tile is a destination
(D of them), the others are sources; s_i = max_j cos(x_i, x_j) over destinations j; the r = int(ratio N) sources of
greatest s merge into their j. With M the mean of what went to each place and U the copy back,
    x <- x + U(attention(M(norm(x)))),  likewise cross-attention and mlp where `parts` names them.

Differs: the destination of a tile is drawn for each image from its seed, step and block (one draw for the whole batch
in the official code, and none for odd batches), so an image does not depend on its batch mates. Levels count from the
finest that has self-attention, so that SDXL and transformers merge by default; rotary models merge queries, keys and
values after the rotation. A source's norm divides its greatest cosine afterwards. `shared` makes one plan a level
and step. Works through forwards of the parts, so adapters, processors and fused kernels stay as they are.

Official numbers (README, RTX 4090, SD 1.5 at 512 px, 50 PLMS steps, fp16, unfused attention): 3.09 s and FID 33.12
without, 1.65 s and 33.02 at ratio 0.5. With fused attention the ceiling at 512 px is 1.12x: see `speed-report`.

Licence of the reference: dbolya/tomesd, MIT (read, not copied), functions `bipartite_soft_matching_random2d`,
`apply_patch`; equal to it within 1e-5 in the tests.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from workbench.blocks.merging import Merger, Part, Spot, by_seed
from workbench.core.bundle import Bundle, Condition
from workbench.core.delta import Delta
from workbench.core.method import Card, Edit
from workbench.core.patch import Patch
from workbench.ops.tokens import Merging, bipartite, tiles


class Tome(Edit):
    """Merge the tokens that are most alike before attention and copy the result back."""

    card: ClassVar[Card] = Card("tome", "Token merging (ToMe)", "arXiv 2303.17604", ("unet", "dit", "mmdit"))
    neutral: ClassVar[Mapping[str, Any] | None] = {"ratio": 0.0}

    ratio: float = Field(0.5, ge=0, lt=1, description="Share of the tokens that merge away; at most 1 - 1 / tile^2.")
    tile: int = Field(2, ge=2, le=16, description="Side of the tiles of which one token always stays.")
    random: bool = Field(True, description="Draw the token that stays, by seed and step; off takes the top left one.")
    parts: tuple[Part, ...] = Field(("self",), description="What works on merged tokens: self, cross, mlp.")
    level: int | None = Field(None, ge=0, le=8, description="Halvings up to which to merge; none is the finest level.")
    shared: bool = Field(False, description="One plan for all blocks of a level, made at the first: cheaper, rougher.")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        most = 1 - 1 / self.tile**2
        if self.ratio > most:
            raise ValueError(
                f"has ratio {self.ratio}, must be at most {most:.4g} with tile {self.tile} (one token of each tile has "
                "to stay). Lower the ratio or take a larger tile"
            )
        if not self.parts:
            raise ValueError('has no parts to merge in. Name some of "self", "cross" and "mlp"')
        return self

    def patch(self, bundle: Bundle, delta: Delta, patch: Patch) -> None:
        """Merge in the blocks of the chosen levels."""
        draw = self._draw if self.random else None
        merger = Merger(bundle, self._plan, draw=draw, parts=self.parts, level=self.level, shared=self.shared)
        if self.ratio > 0:
            merger.attach(patch)

    def _draw(self, spot: Spot, cond: Condition) -> Tensor:
        count = (spot.grid[0] // self.tile) * (spot.grid[1] // self.tile)

        def cells(generator: torch.Generator) -> Tensor:
            return torch.randint(self.tile**2, (count,), generator=generator)

        return by_seed(spot, cond, "tome", cells)

    def _plan(self, x: Tensor, spot: Spot, drawn: Tensor | None) -> Merging | None:
        height, width = (side // self.tile for side in spot.grid)
        count = int(spot.tokens * self.ratio)
        if not height * width or not count:
            return None
        cells = drawn if drawn is not None else torch.zeros(len(x), height * width, dtype=torch.long, device=x.device)
        return bipartite(x, tiles(spot.grid, self.tile, cells), count)
