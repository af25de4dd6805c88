"""Fewer tokens at the finest scales: the layers see those that stand out, the rest is taken from a coarser scale.

Paper: Guo, Li, Zhang, Wu, Xu, Xia and Zha 2025, "FastVAR: Linear Visual Autoregressive Modeling via Cached Token
Pruning", arXiv 2503.23367 (ICCV 2025).

Equations, at a pruned scale of N tokens x, in every attention and every mlp y = f(x):
    score_n = |x_n - mean_m x_m|^2,  keep the (1 - ratio) N highest
    y_n = f(x)_n for kept tokens, resize(y at the last whole scale)_n for the others
Keys and values exist for kept tokens alone. Scores are taken anew before each of the two, from what goes into its norm.

Differs: made for class and text VARs of any schedule (the official code has Infinity and HART alone, with fixed lists
of scales and blocks); the last `scales` are pruned at one ratio, none is left out altogether; `spare` first and last
blocks compute every token (there 3 and 4 of 32). Where the last whole scale was not computed here (another network
drew it), nothing is pruned. For code, the drafter alone is pruned.

Official numbers: 2.7 times faster on Infinity at 1024 px with under 1 % loss (abstract), leaving two scales out
besides. Counted for d30 at 256 px: 1.22 times less work with half of the last scale, 1.36 with 40 % of the one before
as well.

Licence of the reference: csguoh/FastVAR, MIT (read, not copied), `masked_previous_scale_cache`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from workbench.blocks.scales import Memory, Pass
from workbench.core.bundle import Bundle, Condition, Site
from workbench.core.delta import Delta
from workbench.core.errors import AskError
from workbench.core.method import Card, Edit
from workbench.core.patch import Patch
from workbench.ops.residual_scales import coarse


class FastVar(Edit):
    """Prune tokens of late scales."""

    card: ClassVar[Card] = Card("fast-var", "FastVAR token pruning", "arXiv 2503.23367", ("var",))
    quick: ClassVar[Mapping[str, Any]] = {"spare": 0}
    neutral: ClassVar[Mapping[str, Any] | None] = {"ratio": 0.0}

    ratio: float = Field(0.5, ge=0, lt=1, description="Share of the tokens that the pruned scales do not compute.")
    scales: int = Field(2, ge=1, le=64, description="How many of the last scales are pruned; never the first one.")
    spare: int = Field(1, ge=0, le=64, description="How many blocks at either end compute every token.")

    def patch(self, bundle: Bundle, delta: Delta, patch: Patch) -> None:
        """Wrap the attention and the mlp of the inner blocks."""
        blocks = bundle.sites("block")
        inner = blocks[self.spare : len(blocks) - self.spare]
        if not inner:
            raise AskError(
                f"fast-var: spare is {self.spare}; {bundle.name} has {len(blocks)} blocks, so none would be left to "
                f"prune. Give at most {(len(blocks) - 1) // 2}."
            )
        run = _Run(self.ratio, self.scales)
        patch.wrap("predict", run.follow)
        sites = {site.path: site for kind in ("norm", "self-attention", "mlp") for site in bundle.sites(kind)}  # type: ignore[arg-type]
        for block in inner:
            parts = [site for path, site in sites.items() if path.startswith(f"{block.path}.")]
            _prune(patch, run, parts)


@dataclass(eq=False)
class _Run:
    """The memory of the run under way, and which of its scales are pruned."""

    ratio: float
    scales: int
    memory: Memory | None = None
    entering: dict[str, Tensor] = field(default_factory=dict[str, Tensor])

    def follow(self, inner: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def predict(x: Tensor, t: Tensor, cond: Condition) -> Tensor:
            before, self.memory = self.memory, cond.memory
            try:
                return inner(x, t, cond)
            finally:
                self.memory = before
                self.entering.clear()

        return predict

    def now(self) -> tuple[Memory, Pass] | None:
        """The pass, if it is over one scale from the last whole one on."""
        memory = self.memory
        made = None if memory is None else memory.passing
        if memory is None or made is None or made.first != made.last:
            return None
        return (memory, made) if made.last >= self.whole(memory) else None

    def whole(self, memory: Memory) -> int:
        """The last scale that is computed in full: the first one, however many are to be pruned."""
        return max(0, len(memory.grids) - self.scales - 1)


def keepers(x: Float[Tensor, "R N C"], ratio: float) -> Int[Tensor, "R n"]:
    """The places, in order, of the tokens furthest from their mean: all but a share `ratio`, at least one."""
    count = max(1, x.shape[1] - int(x.shape[1] * ratio))
    score = (x - x.mean(1, keepdim=True)).float().square().sum(-1)
    return score.topk(count, dim=1).indices.sort(dim=1).values


def _prune(patch: Patch, run: _Run, parts: list[Site]) -> None:
    """Wrap the attention and the mlp of one block; its norm tells what goes into either."""
    norm = next(site for site in parts if site.kind == "norm")

    def enter(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if run.now() is not None:
            run.entering[norm.path] = args[0]

    patch.hook(norm.module, enter, "before")
    for site in (site for site in parts if site.kind != "norm"):
        patch.put(site.module, "forward", _pruned(site.module.forward, run, site.path, norm.path))


def _pruned(forward: Callable[..., Tensor], run: _Run, name: str, norm: str) -> Callable[..., Tensor]:
    """A layer that computes kept tokens and takes the others from the last whole scale."""

    def layer(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        found = run.now()
        if found is None:
            return forward(x, *args, **kwargs)
        memory, made = found
        whole = run.whole(memory)
        kept: dict[str, tuple[tuple[int, ...], Tensor]] = memory.keep.setdefault("fast-var", {})
        if made.last <= whole:
            output = forward(x, *args, **kwargs)
            kept[name] = made.rows, output
            return output
        rows, past = kept.get(name, ((), x))
        at = keepers(run.entering[norm], run.ratio)
        if not set(made.rows) <= set(rows) or at.shape[1] == x.shape[1]:
            return forward(x, *args, **kwargs)
        memory.note(made.last, made.rows, at)
        index = at[..., None].expand(-1, -1, x.shape[-1])
        output = forward(x.gather(1, index), *args, **kwargs)
        mine = past if rows == made.rows else past[[rows.index(row) for row in made.rows]]
        return _resized(mine, memory.grids[whole], memory.grids[made.last]).scatter(1, index, output)

    return layer


def _resized(tokens: Tensor, grid: tuple[int, int], to: tuple[int, int]) -> Tensor:
    """Tokens [R, N, C] of one grid on another."""
    picture = tokens.transpose(1, 2).unflatten(2, grid)
    return coarse(picture, to).flatten(2).transpose(1, 2).contiguous()
