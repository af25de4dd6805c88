"""CAT pruning: after some full steps only the tokens whose noise still changes go through the network.

Paper: Cheng, Chen and Jia 2025, "CAT Pruning: Cluster-Aware Token Pruning For Text-to-Image Diffusion Models", arXiv
2502.00433.

Equations, with v_t the network's answer token by token and S = N - int(ratio N) tokens a step from step `wait` on:
d = |v_t - v_(t-1)|, of tokens left out their last one; clusters by k-means of 0.05 v + place (row in the first half of
the channels, column in the second); a cluster's rank is the norm of max |v_t - v_(t-1)| over its tokens. First choice:
clusters by rank, at most S / 10 tokens each, greatest d first, around again until S. Later: n <- n / 2 + (chosen
before); a quarter of S as at first, the others by the smallest n, which have waited longest. Chosen tokens run through
every block and meet the keys and values of all, kept by layer and renewed where chosen; the others keep their answer.

Differs: each image chooses by its own conditional row (the official code takes the batch of one image as it is), by
k-means of our own; ranks leave the means over neighbouring clusters out, and later choices take clusters in plain
order (the official weights 3:2:1 for the first three). Any size and any transformer without rotary positions, where
the official code is SD3 at 1,024 px; text tokens are always computed, as there.
Official numbers: 50 to 60 % of the work saved (abstract); not compared here.
Licence of the reference: ada-cheng/CAT-Pruning, none (read, not copied), class `QCacheProjOut`.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from workbench.blocks.caching import Memory
from workbench.blocks.merging import images, merge_sites, site_grid
from workbench.core.attend import Attention
from workbench.core.bundle import Bundle, Condition, Site, told
from workbench.core.delta import Delta
from workbench.core.errors import MissingPart
from workbench.core.method import Card, Edit
from workbench.core.patch import Patch
from workbench.ops.clusters import kmeans
from workbench.ops.tokens import top


class CatPrune(Edit):
    """Compute the tokens that change or have waited, and keep the answer of the others."""

    card: ClassVar[Card] = Card("cat-prune", "CAT pruning", "arXiv 2502.00433", ("dit", "mmdit"))
    quick: ClassVar[Mapping[str, Any]] = {"wait": 2}
    neutral: ClassVar[Mapping[str, Any] | None] = {"ratio": 0.0}

    ratio: float = Field(0.7, ge=0, le=0.95, description="Share of the tokens that a step leaves out.")
    wait: int = Field(8, ge=2, le=100, description="Full steps at the start; two at least, to see what changes.")
    clusters: int = Field(20, ge=1, le=100, description="Groups of tokens, by answer and place, that share a rank.")

    def patch(self, bundle: Bundle, delta: Delta, patch: Patch) -> None:
        """Thin out what enters the first block, complete what leaves the last one."""
        blocks = bundle.sites("block")
        if not blocks or bundle.sites("stage"):
            raise MissingPart(
                f"cat-prune leaves tokens out of a transformer's blocks; {bundle.name} has none. "
                "For UNets there is deep-cache."
            )
        if self.ratio == 0:
            return
        sites = merge_sites(bundle, max(site.level for site in bundle.sites("self-attention")))
        memory = Memory(self.card.name, lambda cond: cond.step is None or cond.step.index < self.wait)
        memory.attach(patch)
        run = _Pruned(self, bundle, memory, blocks[0])
        patch.hook(blocks[0].module, run.enter, "before")
        patch.hook(blocks[-1].module, run.leave, "after")
        for index, site in enumerate(sites):
            patch.attend(site, run.attention(index, site))
        patch.hook(bundle.parts[blocks[0].part], run.answer, "after")

    def choose(self, v: Float[Tensor, "N c"], gap: Float[Tensor, " N"], change: Float[Tensor, "N c"],
               stale: Float[Tensor, " N"] | None, size: tuple[int, int]) -> Int[Tensor, " S"]:  # fmt: skip
        """The tokens of an image to compute next, in order; `stale` is how often and lately each was, None at first."""
        count = len(v) - int(len(v) * self.ratio)
        _, labels = kmeans((0.05 * v + _place(size, v.shape[1], v)).cpu(), min(self.clusters, len(v)))
        labels = labels.to(v.device)
        ranks = [float(change[labels == i].abs().amax(0).norm()) for i in range(int(labels.max()) + 1)]
        order = sorted(range(len(ranks)), key=lambda i: -ranks[i])
        first = count if stale is None else max(1, count // 4)
        chosen = v.new_tensor(_around(gap, labels, order, first, max(1, count // 10)), dtype=torch.long)
        if stale is not None and len(chosen) < count:
            rest = stale.clone()
            rest[chosen] = torch.inf
            chosen = torch.cat([chosen, top(-rest[None], count - len(chosen))[0].nonzero()[:, 0]])
        return chosen.sort().values


class _Pruned:
    """What the hooks of a run share: what is remembered, and whether this call leaves tokens out."""

    def __init__(self, edit: CatPrune, bundle: Bundle, memory: Memory, block: Site) -> None:
        self.edit, self.bundle, self.memory, self.block = edit, bundle, memory, block
        self.idle = False  # another edit, such as itself, leaves tokens out of this call already

    @property
    def chosen(self) -> Tensor | None:
        """The tokens of each row that this call computes [R, S]; None when it computes all."""
        return None if self.memory.fresh or self.idle else self.memory.recall("chosen")

    def enter(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Hand the first block the chosen tokens."""
        if kwargs.get("image_rotary_emb") is not None:
            raise MissingPart(
                f"cat-prune leaves tokens out, and {self.bundle.name} turns them by their place (rotary positions). "
                "Take first-block-cache."
            )
        x, size = (args[0] if args else kwargs["hidden_states"]), self._size()
        self.idle = x.shape[1] != size[0] * size[1]
        index = self.chosen
        if index is None:
            return args, kwargs
        x = x.gather(1, index[..., None].expand(-1, -1, x.shape[2]))
        return ((x, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": x})

    def leave(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """Put the chosen tokens back among all; what stands at the others is not used."""
        index = self.chosen
        if index is None:
            return output
        x = output[-1] if isinstance(output, tuple) else output
        whole = x.new_zeros(len(x), math.prod(self._size()), x.shape[2])
        whole = whole.scatter(1, index[..., None].expand(-1, -1, x.shape[2]), x)
        return (*output[:-1], whole) if isinstance(output, tuple) else whole

    def attention(self, index: int, site: Site) -> Callable[[Attention], Tensor]:
        """Let queries meet the keys and values of all tokens, renewed where they are computed."""
        name = f"keys {index}"

        def attend(call: Attention) -> Tensor:
            if not self.memory.on or self.idle:
                return call.run()
            chosen, size = self.chosen, self._size()
            tokens = size[0] * size[1] if chosen is None else chosen.shape[1]
            start = call.key.shape[-2] - tokens if site.text == "first" else 0
            mine = [value[..., start : start + tokens, :] for value in (call.key, call.value)]
            if chosen is None:
                self.memory.keep(name, tuple(mine))
                return call.run()
            kept = self.memory.recall(name)
            place = chosen[:, None, :, None].expand(-1, mine[0].shape[1], -1, mine[0].shape[-1])
            whole = tuple(old.scatter(2, place, new) for old, new in zip(kept, mine, strict=True))
            self.memory.keep(name, whole)
            key, value = (
                torch.cat([all_[..., :start, :], full, all_[..., start + tokens :, :]], -2)
                for all_, full in zip((call.key, call.value), whole, strict=True)
            )
            return call.but(key=key, value=value).run()

        return attend

    def answer(self, module: Any, args: Any, kwargs: Any, output: Any) -> Any:
        """Keep the answer of tokens that were left out, and choose the next ones."""
        cond = self.memory.cond
        if cond is None or cond.step is None or self.idle:
            return output
        made = output[0]
        size, index, before = self._size(), self.chosen, self.memory.recall("v")
        patch = made.shape[-1] // size[1]
        v = F.pixel_unshuffle(made, patch).flatten(2).transpose(1, 2)  # [R, N, c]
        mark = torch.ones(v.shape[:2], dtype=torch.bool, device=v.device)
        if index is not None:
            mark = torch.zeros_like(mark).scatter(1, index, True)
            v = torch.where(mark[..., None], v, before)
            made = F.pixel_shuffle(v.transpose(1, 2).unflatten(2, size).contiguous(), patch)
        self.memory.keep("v", v)
        if before is not None:
            self._next(cond, v, before, mark, size, first=index is None)
        return (made, *output[1:])

    def _next(
        self, cond: Condition, v: Tensor, before: Tensor, mark: Tensor, size: tuple[int, int], *, first: bool
    ) -> None:
        """Choose what the next step computes, image by image, by its conditional row."""
        change = torch.where(mark[..., None], v - before, self._or(torch.zeros_like(v), "change"))
        seen = self._or(torch.zeros_like(mark.float()), "seen") / 2 + mark.float()
        names, leader = images(cond), dict[tuple[int, int], int]()
        for role in ("uncond", "branch", "cond"):  # the conditional row is named last, so it leads
            leader |= {name: i for i, name in enumerate(names) if cond.roles[i] == role}
        made: dict[tuple[int, int], Tensor] = {}
        if cond.step is not None and cond.step.index + 1 >= self.edit.wait:
            for name, row in leader.items():
                gap, stale = change[row].float().norm(dim=-1), None if first else seen[row]
                made[name] = self.edit.choose(v[row].float(), gap, change[row].float(), stale, size)
            self.memory.keep("chosen", torch.stack([made[name] for name in names]))
        self.memory.keep("change", change)
        self.memory.keep("seen", seen)

    def _or(self, value: Tensor, name: str) -> Tensor:
        kept = self.memory.recall(name)
        return value if kept is None else kept

    def _size(self) -> tuple[int, int]:
        call = told.get()
        return site_grid(self.bundle, self.block, self.bundle.shapes.latent[1:] if call is None else call[1])


def _around(gap: Tensor, labels: Tensor, order: list[int], count: int, each: int) -> list[int]:
    """Up to `count` tokens: from each cluster in order its `each` greatest, then around again."""
    piles = [sorted((labels == i).nonzero()[:, 0].tolist(), key=lambda t: -float(gap[t])) for i in order]
    found: list[int] = []
    while len(found) < count and any(piles):
        for pile in piles:
            take = min(each, count - len(found))
            found += pile[:take]
            del pile[:take]
    return found


def _place(size: tuple[int, int], channels: int, like: Tensor) -> Tensor:
    """Row, 0..1, in the first half of the channels, column in the second [N, c]."""
    rows, columns = (torch.arange(side, device=like.device) / side for side in size)
    row, column = torch.meshgrid(rows, columns, indexing="ij")
    half = channels // 2
    return torch.cat([row.reshape(-1, 1).expand(-1, half), column.reshape(-1, 1).expand(-1, channels - half)], 1)
