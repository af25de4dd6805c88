"""ToCa: between full steps a transformer renews the tokens that need it most and reuses what it said of the others.

Paper: Zou, Liu, Liu, Huang and Zhang 2024, "Accelerating Diffusion Transformers with Token-wise Feature Caching",
arXiv 2410.05317 (ICLR 2025).

Equations, at step s of S and layer l of L, N = `interval`, R = `ratio`, for an image of n tokens:
    a step is full when the last full one lies round(N / (0.8 + 0.4 s / S)) steps back or more; the first is full;
    full steps keep what every attention and mlp says, before its gate, which is always the current step's;
    the others take self-attention as kept, and ask cross-attention and mlp anew for the top k tokens of
    q = w / |w|_2 + c age / N,   the greatest q of each g x g tile times 1 + b,
    k = min(1, R (1.9 - 1.8 s / S) (1.6 - 1.2 l / (L - 1)) m) n,   m = 0.6 for cross-attention and 1.6 for an mlp,
with w = 1 + entropy of the token's cross-attention, or where there is none the attention that it receives from the
picture; age the steps since it was last renewed there, c = `stale`, g = `tile`, b = `bonus`.

Differs: weights are of the last full step and the mean of an image's rows, so the rows with and without the prompt
renew the same tokens, and images depend on nothing else. The rates are those of PixArt for all models; the official
ones for DiT and FLUX differ. In joint transformers (SD3, FLUX) the text's own mlp is always run; in blocks of one
stream attention is reused and their mlp, which is no module of its own, is run in full. Full steps keep fused
attention for the output, and compute the weights beside it some queries at a time.

Official numbers: 1.93x for PixArt-alpha (abstract), 2.36x for OpenSora. The equations give 7 full steps of 20.
Licence of the reference: Shenyi-Z/ToCa, GPL-3.0 (equations only).
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from workbench.blocks.caching import Memory
from workbench.blocks.merging import images
from workbench.core.attend import Attention
from workbench.core.bundle import Bundle, Site, told
from workbench.core.delta import Delta
from workbench.core.errors import MissingPart
from workbench.core.method import Card, Edit
from workbench.core.patch import Patch
from workbench.ops.attention import entropy, grid, mean_heads

CHUNK = 256  # queries whose weights are held at once
MODULE = {"cross-attention": 0.6, "mlp": 1.6}


class ToCa(Edit):
    """Renew a share of a transformer's tokens in most steps, those that attention and age single out."""

    card: ClassVar[Card] = Card("toca", "Token-wise feature caching", "arXiv 2410.05317", ("dit", "mmdit"))
    quick: ClassVar[Mapping[str, Any]] = {"interval": 2}
    neutral: ClassVar[Mapping[str, Any] | None] = {"interval": 1}

    interval: int = Field(3, ge=1, le=50, description="About every how many steps all is computed; 1 is every step.")
    ratio: float = Field(0.3, ge=0, le=1, description="Share of the tokens that the other steps renew, on average.")
    stale: float = Field(0.25, ge=0, le=10, description="How much it counts that a token was not renewed lately.")
    tile: int = Field(4, ge=1, le=64, description="Side of the tiles in each of which one token is favoured.")
    bonus: float = Field(0.4, ge=0, le=10, description="How much it is favoured; 0 lets a region have all.")

    def full(self, total: int) -> list[int]:
        """The steps of a run of `total` that compute everything."""
        found = [0]
        for index in range(1, total):
            if index - found[-1] >= round(self.interval / (0.8 + 0.4 * index / total)):
                found.append(index)
        return found

    def share(self, step: float, layer: float, kind: str) -> float:
        """The share of tokens that a partial step renews; step and layer as parts of the whole, 0..1."""
        return min(1.0, max(0.0, self.ratio * (1.9 - 1.8 * step) * (1.6 - 1.2 * layer) * MODULE[kind]))

    def patch(self, bundle: Bundle, delta: Delta, patch: Patch) -> None:
        """Keep what attentions and mlps say; renew some tokens of what is asked token by token."""
        blocks = bundle.sites("block")
        if len(blocks) < 2 or bundle.sites("stage"):
            raise MissingPart(
                f"toca renews tokens in a transformer's row of blocks; {bundle.name} has none. For UNets there is "
                "deep-cache."
            )
        memory = Memory(self.card.name, lambda cond: cond.step is None or cond.step.index in self.full(cond.step.total))
        memory.attach(patch)
        for index, block in enumerate(blocks):
            inside = [site for site in bundle.all_sites if site.name.startswith(f"{block.name}.")]
            attentions = [site for site in inside if site.kind == "self-attention"]
            crossed = [site for site in inside if site.kind == "cross-attention"]
            renewed = [*crossed, *(site for site in inside if site.kind == "mlp" and site.tokens is not None)]
            if renewed:
                source = (crossed or attentions)[0]
                patch.attend(source, _weighing(memory, source, block.name))
            for site in attentions:
                memory.memoise(patch, site.module, site.name)
            for site in renewed:
                partly = _Partly(self, memory, site, block.name, index / (len(blocks) - 1))
                patch.put(site.module, "forward", partly.around(site.module.forward))


class _Partly:
    """A cross-attention or an mlp that is asked for some tokens alone."""

    def __init__(self, method: ToCa, memory: Memory, site: Site, block: str, layer: float) -> None:
        self.method, self.memory, self.site, self.block, self.layer = method, memory, site, block, layer

    def around(self, forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """The module's forward, over all tokens or over the chosen ones."""
        name, memory = self.site.name, self.memory

        def run(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            kept, age, weight = (memory.recall(key) for key in (name, f"age/{name}", f"weight/{self.block}"))
            if memory.fresh or kept is None or weight is None:
                output = forward(x, *args, **kwargs)
                memory.keep(name, output)
                memory.keep(f"age/{name}", x.new_zeros(x.shape[:2], dtype=torch.float32))
                return output
            if not x.shape[:2] == kept.shape[:2] == weight.shape[:2]:  # another edit hands on fewer tokens
                return forward(x, *args, **kwargs)
            chosen = self._chosen(weight, age + 1)
            if chosen.shape[1]:
                wide = chosen[..., None]
                some = forward(x.gather(1, wide.expand(-1, -1, x.shape[-1])), *args, **kwargs)
                kept = kept.scatter(1, wide.expand(-1, -1, kept.shape[-1]), some.to(kept))
                memory.keep(name, kept)
            memory.keep(f"age/{name}", (age + 1).scatter(1, chosen, 0.0))
            return kept

        run.intercepts = getattr(forward, "intercepts", False)  # type: ignore[attr-defined]
        return run

    def _chosen(self, weight: Tensor, age: Tensor) -> Tensor:
        """The places [R, k] of the tokens to renew in each row."""
        cond, size = self.memory.cond, _size()
        if cond is None or cond.step is None:  # the memory reuses in a run alone
            raise MissingPart("toca reuses outside of a run.")
        part = self.method.share(cond.step.index / cond.step.total, self.layer, self.site.kind)
        scores = weight + self.method.stale * age / self.method.interval
        scores = favoured(scores, grid(scores.shape[1], size), self.method.tile, self.method.bonus)
        return scores.topk(int(part * scores.shape[1]), dim=1, sorted=False).indices


def favoured(scores: Tensor, size: tuple[int, int], tile: int, bonus: float) -> Tensor:
    """Scores [R, n] of a grid (h, w) with the greatest of each tile times 1 + bonus.

    >>> favoured(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), (2, 2), 2, 0.5)
    tensor([[1., 2., 3., 6.]])
    """
    maps = scores.unflatten(1, size)[:, None]
    _, best = F.max_pool2d(maps, [min(tile, side) for side in size], ceil_mode=True, return_indices=True)
    best = best.flatten(1)
    return scores.scatter(1, best, scores.gather(1, best) * (1 + bonus))


def _weighing(memory: Memory, site: Site, block: str) -> Callable[[Attention], Tensor]:
    """Watch an attention in full steps: each picture token's weight [R, n], the same in all rows of an image."""

    def watch(call: Attention) -> Tensor:
        cond = memory.cond
        if cond is not None and memory.fresh and len(cond.roles) == len(call.query):
            with torch.no_grad():
                memory.keep(f"weight/{block}", F.normalize(_weights(site, call, images(cond)), dim=1))
        return call.run()

    return watch


def _weights(site: Site, call: Attention, rows: tuple[tuple[int, int], ...]) -> Tensor:
    """1 + the entropy of what each token looks at, or how much the picture's tokens look at it: [R, n]."""
    side = _size()
    count = (side[0] >> site.level) * (side[1] >> site.level)
    first = call.query.shape[-2] - count if site.text == "first" else 0
    mates = torch.tensor([[float(mine == other) for other in rows] for mine in rows], device=call.query.device)
    mates = mates / mates.sum(1, keepdim=True)
    found: list[Tensor] = []
    for start in range(first, first + count, CHUNK):
        looks = mean_heads(call.weights(slice(start, min(start + CHUNK, first + count))))
        looks = torch.einsum("rq,qnl->rnl", mates, looks)  # the mean of an image's rows
        crossed = site.kind == "cross-attention"
        found.append(1 + entropy(looks) if crossed else looks[..., first : first + count].sum(1))
    return torch.cat(found, 1) if site.kind == "cross-attention" else torch.stack(found).sum(0)


def _size() -> tuple[int, int]:
    now = told.get()
    if now is None:
        raise MissingPart("toca was asked outside of the network's own call.")
    return now[1]
