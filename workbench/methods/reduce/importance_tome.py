"""Importance-based token merging: merge where guidance has little to say, keep where it has much.

Paper: Wu, Xu, Le and Samaras 2025, "Importance-Based Token Merging for Efficient Image and Video Generation", arXiv
2411.16720 (ICCV 2025).

Equations, with N tokens, r = int(ratio N), K = int(keep N): importance h = mean over channels |e(x, c) - e(x, "")| of
the step before, on the block's grid; pool = the M = min(N, int(pool (N - r))) most important tokens; K destinations
are drawn from the pool, all others are sources. Each source has its best destination by cosine; those outside the
pool merge first, then those inside, best match first, r in all. In the first `wait` steps sources of a ToMe partition
are pruned (arXiv 2303.17604; destinations keep their value).

Differs: destinations are drawn from each image's own seed, not from the global generator; order is by two keys
instead of adding 1e5 to similarities (infinite in fp16). Without guidance h = mean |e_t - e_(t-1)|. Transformers take
the same rule as UNets (the official PixArt variant matches by distance on the grid, in blocks 7 to 20 of 28 alone).

Official numbers: not compared here (the paper's tables are of SD 2 with ratio 0.7 at 50 steps, fused attention off).

Licence of the reference: cvlab-stonybrook/importance-token-merge, MIT (read, not copied), function
`matching_by_heat_map`.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from workbench.blocks.merging import Merger, Part, Spot, by_seed, images
from workbench.core.bundle import Bundle, Condition
from workbench.core.delta import Delta
from workbench.core.method import Card, Edit
from workbench.core.patch import Patch
from workbench.core.tape import Event, Started
from workbench.ops.tokens import Merging, bipartite, split, tiles, top


class ImportanceTome(Edit):
    """Merge tokens that guidance does not care about into ones that it does."""

    card: ClassVar[Card] = Card(
        "importance-tome", "Importance-based token merging", "arXiv 2411.16720", ("unet", "dit", "mmdit")
    )
    neutral: ClassVar[Mapping[str, Any] | None] = {"ratio": 0.0}

    ratio: float = Field(0.5, ge=0, lt=1, description="Share of the tokens that merge away; at most 1 - keep.")
    keep: float = Field(0.25, gt=0, le=0.9, description="Share of the tokens that others merge into.")
    pool: float = Field(1.4, ge=1, le=4, description="Size of the important pool, as a multiple of what is left over.")
    choice: Literal["random", "top"] = Field("random", description="How destinations are taken from the pool.")
    wait: int = Field(2, ge=1, le=50, description="Steps at the start that prune by tiles instead.")
    parts: tuple[Part, ...] = Field(("self",), min_length=1, description="What works on merged tokens.")
    level: int | None = Field(None, ge=0, le=8, description="Halvings up to which to merge; none is the finest level.")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        most = min(1 - self.keep, 0.75)
        if self.ratio > most:
            raise ValueError(
                f"has ratio {self.ratio}, must be at most {most:.4g} with keep {self.keep} (destinations stay, and so "
                "does one token of each 2x2 tile in the first steps). Lower the ratio or keep"
            )
        return self

    def patch(self, bundle: Bundle, delta: Delta, patch: Patch) -> None:
        """Watch the guidance and merge in the blocks of the chosen levels."""
        heat = _Heat(self.wait)
        draw: Callable[[Spot, Condition], Tensor] = lambda spot, cond: self._draw(heat, spot, cond)  # noqa: E731
        merger = Merger(bundle, self._plan, draw=draw, parts=self.parts, level=self.level)
        if self.ratio > 0:
            patch.each(heat.hear)
            patch.wrap("predict", heat.watch)
            merger.attach(patch)

    def _draw(self, heat: "_Heat", spot: Spot, cond: Condition) -> Tensor:
        """Importance and a random number for each token [R, 2, N]; before there is any, a token of each tile [R, T]."""
        known = heat.of(cond)
        if known is None:
            count = (spot.grid[0] // 2) * (spot.grid[1] // 2)
            return by_seed(spot, cond, "tiles", lambda generator: torch.randint(4, (count,), generator=generator))
        values = F.interpolate(known, size=spot.grid, mode="area").flatten(2)
        chance = by_seed(spot, cond, "pool", lambda generator: torch.rand(1, spot.tokens, generator=generator))
        return torch.cat([values, chance.to(values)], 1)

    def _plan(self, x: Tensor, spot: Spot, drawn: Tensor | None) -> Merging | None:
        count = int(spot.tokens * self.ratio)
        if drawn is None or not count:
            return None
        if drawn.ndim == 2:
            sides = tiles(spot.grid, 2, drawn)
            return bipartite(x, sides, min(count, sides[0].shape[1]), drop=True)
        keep = max(1, int(spot.tokens * self.keep))
        pool = top(drawn[:, 0], max(keep, min(spot.tokens, int((spot.tokens - count) * self.pool))))
        score = drawn[:, 1] if self.choice == "random" else drawn[:, 0]
        sides = split(top(score.masked_fill(~pool, -1.0), keep), keep)
        return bipartite(x, sides, min(count, spot.tokens - keep), early=~pool.gather(1, sides[0]))


class _Heat:
    """How much guidance changed each place of each image in the step before [1, h, w], forgotten with every run."""

    def __init__(self, wait: int) -> None:
        self._wait = wait
        self._maps: dict[tuple[int, int], Tensor] = {}
        self._last: dict[tuple[int, int], Tensor] = {}

    def hear(self, event: Event) -> None:
        """Forget at the start of a run."""
        if isinstance(event, Started):
            self._maps.clear()
            self._last.clear()

    def of(self, cond: Condition) -> Tensor | None:
        """The importance of every row [R, 1, h, w], or None in the first steps, or where a row's is not known."""
        names = images(cond)
        if cond.step is None or cond.step.index < self._wait or not all(name in self._maps for name in names):
            return None
        return torch.stack([self._maps[name] for name in names])

    def watch(self, inner: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """Note the guidance of every call of a run."""

        def predict(x: Tensor, t: Tensor, cond: Condition) -> Tensor:
            output = inner(x, t, cond)
            if cond.step is not None:
                self._note(output.detach().float(), cond)
            return output

        return predict

    def _note(self, output: Tensor, cond: Condition) -> None:
        names = images(cond)
        rows = {role: {names[i]: i for i in cond.where(role)} for role in ("cond", "uncond")}
        for name, row in rows["cond"].items():
            other = output[rows["uncond"][name]] if name in rows["uncond"] else self._last.get(name)
            if other is not None:
                self._maps[name] = (output[row] - other).abs().mean(0, keepdim=True)
            self._last[name] = output[row]
