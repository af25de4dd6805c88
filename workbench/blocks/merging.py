"""Merging tokens inside a network: a plan for each block, and the parts that work on merged tokens.

    merger = Merger(bundle, plan, draw=draw, parts=("self",))
    merger.attach(patch)

A plan is made from a block's input and holds for its parts: they are handed the means (`Merging.merge`) and their
output is copied back (`Merging.unmerge`), so residuals, norms and gates see every token, and so do adapters inside the
parts. Where the positions of tokens are turned into their queries and keys (rotary), or picture and text come as one
sequence, the parts' attention call is merged instead of their input. While a part runs, `recorder.unmerge` tells
lenses how to take its maps back.

All randomness is drawn outside of the network (`draw`), from seeds, so that nothing inside breaks a compiled graph.
"""

from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.blocks.recorder import Look, Unmerge, unmerge
from workbench.core.attend import Attention, intercept
from workbench.core.bundle import Bundle, Condition, Site, SiteKind, told
from workbench.core.errors import AskError, MissingPart, PatchError
from workbench.core.patch import Patch
from workbench.ops.attention import grid
from workbench.ops.noise import row_generator
from workbench.ops.tokens import Merging

Part = Literal["self", "cross", "mlp"]
KINDS: dict[Part, SiteKind] = {"self": "self-attention", "cross": "cross-attention", "mlp": "mlp"}


@dataclass(frozen=True, eq=False)
class Spot:
    """A block whose tokens are merged: which of them in the order of the pass, and its grid (height, width)."""

    index: int
    site: Site
    grid: tuple[int, int]

    @property
    def tokens(self) -> int:
        """How many tokens the block has."""
        return self.grid[0] * self.grid[1]


#: (block's input [R, N, C], spot, what was drawn for it) -> a plan for every row, or None to merge nothing.
Plan = Callable[[Tensor, Spot, Tensor | None], Merging | None]
#: What a plan needs from outside of the network, e.g. random numbers by the rows' seeds.
Draw = Callable[[Spot, Condition], Tensor | None]


def merge_sites(bundle: Bundle, level: int | None) -> tuple[Site, ...]:
    """The self-attentions up to a level, or of the finest level that has any.

    Raises `MissingPart` when the model has none and `AskError` when there is none up to that level.
    """
    sites = bundle.sites("self-attention")
    if not sites:
        raise MissingPart(f"Tokens are merged for self-attention; {bundle.name} has none. Try a diffusion model.")
    levels = sorted({site.level for site in sites})
    top = levels[0] if level is None else level
    if top < levels[0]:
        raise AskError(
            f"Tokens were to be merged up to level {level}; {bundle.name} has self-attention at level "
            f"{' and '.join(map(str, levels))}. Give level={levels[0]}, or none for the finest."
        )
    return tuple(site for site in sites if site.level <= top)


def site_grid(bundle: Bundle, site: Site, size: tuple[int, int]) -> tuple[int, int]:
    """A site's grid for a latent of a size (height, width): halved as often as at the model's own size."""
    native = bundle.shapes.latent[1:]
    width = native[0]
    wanted = grid(site.tokens, native)[0] if site.tokens else -(-width // 2**site.level)
    while width > wanted:
        width, size = -(-width // 2), (-(-size[0] // 2), -(-size[1] // 2))
    return size


def images(cond: Condition) -> tuple[tuple[int, int], ...]:
    """Which image each row is of: its seed, and how many images of that seed come before it."""
    seen: Counter[tuple[str, int]] = Counter()
    found: list[tuple[int, int]] = []
    for row in zip(cond.roles, cond.seeds, strict=True):
        found.append((row[1], seen[row]))
        seen[row] += 1
    return tuple(found)


def by_seed(spot: Spot, cond: Condition, tag: str, make: Callable[[torch.Generator], Tensor]) -> Tensor:
    """`make(generator)` of every row, stacked: rows of one seed get the same, blocks and steps of a run do not."""
    step = 0 if cond.step is None else cond.step.index
    made = {seed: make(row_generator(seed, tag, step, spot.index)) for seed in dict.fromkeys(cond.seeds)}
    return torch.stack([made[seed] for seed in cond.seeds]).to(cond.text.states.device)


class Merger:
    """Merges tokens in the blocks of a model by a plan; give `attach` a patch.

    `parts` are what works on merged tokens; `shared` makes one plan for all blocks of a grid, at the first of them.
    """

    def __init__(
        self,
        bundle: Bundle,
        plan: Plan,
        *,
        draw: Draw | None = None,
        parts: Sequence[Part] = ("self",),
        level: int | None = None,
        shared: bool = False,
    ) -> None:
        self._plan, self._draw, self._shared = plan, draw, shared
        self._bundle = bundle
        self._blocks = _blocks(bundle, merge_sites(bundle, level), parts)
        self._cond: Condition | None = None
        self._spots: dict[int, Spot] = {}  # empty outside of predict, where everything passes through
        self._drawn: dict[int, Tensor | None] = {}
        self._plans: dict[object, Merging | None] = {}

    def attach(self, patch: Patch) -> None:
        """Hook blocks and parts."""
        patch.wrap("predict", self._follow)
        for index, (block, parts) in enumerate(self._blocks):
            patch.hook(block.module, self._planner(index), "before")
            for site in parts:
                patch.put(site.module, "forward", self._merged(index, site, site.module.forward))

    def _follow(self, inner: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def predict(x: Tensor, t: Tensor, cond: Condition) -> Tensor:
            self._prepare(cond, (x.shape[-2], x.shape[-1]))
            try:
                return inner(x, t, cond)
            finally:
                self._cond = None
                for kept in (self._spots, self._drawn, self._plans):
                    kept.clear()

        return predict

    def _prepare(self, cond: Condition, size: tuple[int, int]) -> None:
        self._cond = cond
        self._plans.clear()
        for index, (block, _) in enumerate(self._blocks):
            spot = Spot(index, block, site_grid(self._bundle, block, size))
            self._spots[index] = spot
            self._drawn[index] = None if self._draw is None else self._draw(spot, cond)

    def _planner(self, index: int) -> Callable[..., None]:
        def before(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if not self._spots:
                return
            now = None if torch.compiler.is_compiling() else told.get()
            if now is not None and now[0] is not self._cond:  # an edit in between asks for other rows
                self._prepare(*now)
            spot, x = self._spots[index], _first(args, kwargs)
            key = spot.grid if self._shared else index
            if x.shape[1] != spot.tokens or (self._shared and self._first_of(spot.grid) != index):
                return
            with torch.no_grad():
                self._plans[key] = self._plan(x.detach(), spot, self._drawn[index])

        return before

    def _first_of(self, size: tuple[int, int]) -> int:
        return next(index for index, spot in self._spots.items() if spot.grid == size)

    def _merged(self, index: int, site: Site, forward: Callable[..., Any]) -> Callable[..., Any]:
        def merged(*args: Any, **kwargs: Any) -> Any:
            spot = self._spots.get(index)
            plan = None if spot is None else self._plans.get(spot.grid if self._shared else index)
            if plan is None or len(_first(args, kwargs)) != len(plan.place):
                return forward(*args, **kwargs)
            return run_merged(forward, site, plan, args, kwargs)

        merged.intercepts = getattr(forward, "intercepts", False)  # type: ignore[attr-defined]
        return merged


def run_merged(
    forward: Callable[..., Any], site: Site, plan: Merging, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """A part's forward on merged tokens, its output unmerged; as it is when other tokens than the plan's come in.

    Raises `PatchError` for a self-attention with a mask.
    """
    x = _first(args, kwargs)
    if site.kind == "self-attention" and kwargs.get("attention_mask") is not None:
        raise PatchError(f"{site.name} is given a mask over its tokens, which cannot be merged. Take another edit.")
    together = site.text != "" and x.shape[1] > plan.tokens  # picture and text in one sequence
    if together or kwargs.get("image_rotary_emb") is not None:
        return intercept(forward, lambda call: _at_call(call, plan, site), site.name)(*args, **kwargs)
    if x.shape[1] != plan.tokens:
        return forward(*args, **kwargs)  # another edit merged them first
    text = kwargs.get("encoder_hidden_states") if site.text else None
    args, kwargs = _exchange(args, kwargs, plan.merge(x))
    whole = plan if text is None else plan.beside(text.shape[1], site.text == "first")
    outer = unmerge.get() if not torch.compiler.is_compiling() and not site.text else None
    with known(whole if outer is None else Sides(whole, outer)):  # another edit merged the keys before
        output = forward(*args, **kwargs)
    if not isinstance(output, tuple):
        return plan.unmerge(output)
    picture, *rest = cast(tuple[Tensor, ...], output)
    return (plan.unmerge(picture), *rest)


@dataclass(frozen=True, eq=False)
class Sides:
    """How to take a merging back where queries and keys were merged apart; None was not merged."""

    of_queries: Unmerge | None
    of_keys: Unmerge | None

    def queries(self, values: Tensor, axis: int) -> Tensor:
        """Copy the values of merged queries."""
        return values if self.of_queries is None else self.of_queries.queries(values, axis)

    def keys(self, values: Tensor, axis: int) -> Tensor:
        """Share the mass of merged keys."""
        return values if self.of_keys is None else self.of_keys.keys(values, axis)

    def rows(self, index: Sequence[int]) -> "Sides":
        """The same for some rows."""
        sides = (None if side is None else side.rows(index) for side in (self.of_queries, self.of_keys))
        return Sides(*sides)


def picture_places(look: Look, tokens: int) -> Int[Tensor, "B N"]:
    """The place that each of the picture's tokens went to in an attention call; its own where nothing was merged.

    Of a plan that thins keys alone, the place of its key.
    """
    plan = look.unmerge
    if isinstance(plan, Sides):
        plan = plan.of_queries or plan.of_keys
    if not isinstance(plan, Merging):
        return torch.arange(tokens).expand(len(look.call.query), -1)
    start = plan.tokens - tokens if look.site.text == "first" else 0
    return plan.place[:, start : start + tokens]


def shares_left(place: Int[Tensor, "B N"]) -> Float[Tensor, "B N"]:
    """One over the number of tokens that share a token's place: 1 for a token that stayed alone."""
    counts = torch.zeros(len(place), int(place.max()) + 1, device=place.device)
    counts.scatter_add_(1, place, torch.ones_like(place, dtype=torch.float32))
    return 1 / counts.gather(1, place)


def _blocks(bundle: Bundle, sites: Sequence[Site], parts: Sequence[Part]) -> list[tuple[Site, list[Site]]]:
    """Each block that holds one of the sites, with its parts of the wanted kinds; a lone site is its own block."""
    outer = bundle.sites("block")

    def holder(site: Site) -> Site | None:
        around = [b for b in outer if b.part == site.part and site.path.startswith(b.path + ".")]
        return max(around, key=lambda b: len(b.path), default=None)

    found: dict[str, tuple[Site, list[Site]]] = {}
    for site in sites:
        block = holder(site) or site
        found.setdefault(block.name, (block, []))
    kinds = {KINDS[part] for part in parts}
    for site in bundle.all_sites:
        block = holder(site) or site
        if site.kind in kinds and block.name in found and site.tokens is not None:  # None: it works on the text alone
            found[block.name][1].append(site)
    return [(block, inside) for block, inside in found.values() if inside]


def _at_call(call: Attention, plan: Merging, site: Site) -> Tensor:
    """Attention with its queries, keys and values merged, its output unmerged."""
    extra = call.query.shape[-2] - plan.tokens
    if extra < 0 or call.key.shape[-2] != call.query.shape[-2] or call.mask is not None:
        return call.run()
    whole = plan.beside(extra, site.text == "first")

    def turned(values: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        flat = change(values.transpose(1, 2).flatten(2))
        apart: Tensor = flat.reshape(*flat.shape[:2], values.shape[1], values.shape[3])
        return apart.transpose(1, 2)

    query, key, value = (turned(value, whole.merge) for value in (call.query, call.key, call.value))
    with known(whole):
        output = call.but(query=query, key=key, value=value).run()
    return turned(output, whole.unmerge)


@contextmanager
def known(plan: Unmerge) -> Generator[None, None, None]:
    """Tell lenses of the plan during the body, unless a graph is being traced."""
    if torch.compiler.is_compiling():
        yield
        return
    token = unmerge.set(plan)
    try:
        yield
    finally:
        unmerge.reset(token)


def _first(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The picture's tokens among a module's inputs."""
    return args[0] if args else kwargs["hidden_states"]


def _exchange(args: tuple[Any, ...], kwargs: dict[str, Any], x: Tensor) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The inputs with other picture tokens."""
    return ((x, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": x})
