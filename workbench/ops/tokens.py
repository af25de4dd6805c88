"""Merging tokens: which go together (plans), their means (merge), and copies back to where they came from (unmerge).

A `Merging` is a plan for each row of a batch on its own and of a static shape. Every matcher here ends in one, so a
new way to choose tokens is a function that names a place for each.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# torch.sort carries no types

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

SCORES = 1 << 24  # similarities held at once


@dataclass(frozen=True, eq=False)
class Merging:
    """Where each of N tokens goes among `places` places, and its share in the weighted mean there.

    `place` is 0..`places` - 1; the shares of a place sum to one, 0 drops a token from the mean. Every place has a
    token. Maps over merged tokens go back with `queries` (copies) and `keys` (shares of the mass).
    """

    place: Int[Tensor, "B N"]
    share: Float[Tensor, "B N"]
    places: int
    _order: Int[Tensor, " T"]
    _starts: Int[Tensor, " P"]

    @classmethod
    def of(cls, place: Int[Tensor, "B N"], places: int, weights: Float[Tensor, "B N"] | None = None) -> "Merging":
        """The plan that sends tokens to `place`, weighted alike or by `weights` (of a place not all 0)."""
        rows, tokens = place.shape
        weights = torch.ones_like(place, dtype=torch.float32) if weights is None else weights.float()
        totals = torch.zeros(rows, places, device=place.device).scatter_add(1, place, weights)
        counts = torch.zeros_like(place[:, :1]).expand(-1, places).scatter_add(1, place, torch.ones_like(place))
        flat = counts.flatten()
        order = torch.sort(place, dim=1, stable=True).indices + _offsets(rows, tokens, place)
        return cls(place, weights / totals.gather(1, place), places, order.flatten(), flat.cumsum(0) - flat)

    @property
    def tokens(self) -> int:
        """How many tokens there were."""
        return self.place.shape[1]

    @property
    def sizes(self) -> Int[Tensor, "B M"]:
        """How many tokens went to each place."""
        zeros = torch.zeros_like(self.place[:, :1]).expand(-1, self.places)
        return zeros.scatter_add(1, self.place, torch.ones_like(self.place))

    def merge(self, x: Float[Tensor, "B N C"]) -> Float[Tensor, "B M C"]:
        """The weighted mean of each place's tokens."""
        share = self.share.flatten()[self._order].to(x.dtype)
        bags = F.embedding_bag(self._order, x.flatten(0, 1), self._starts, mode="sum", per_sample_weights=share)
        return bags.unflatten(0, (len(x), self.places))

    def unmerge(self, y: Float[Tensor, "B M C"]) -> Float[Tensor, "B N C"]:
        """A copy of its place's value for each token."""
        flat = (self.place + _offsets(len(y), self.places, self.place)).flatten()
        return y.flatten(0, 1).index_select(0, flat).unflatten(0, (len(y), self.tokens))

    def queries(self, values: Tensor, axis: int) -> Tensor:
        """Values [B, ...] with places along an axis, copied to the tokens."""
        return values.gather(axis, self._along(self.place, values, axis))

    def keys(self, values: Tensor, axis: int) -> Tensor:
        """Values [B, ...] with places along an axis, each shared among its tokens, so that the sum stays."""
        return self.queries(values, axis) * self._along(self.share, values, axis).to(values.dtype)

    def rows(self, index: Sequence[int]) -> "Merging":
        """The plans of some rows."""
        at = list(index)
        return Merging.of(self.place[at], self.places, self.share[at])

    def beside(self, text: int, first: bool) -> "Merging":
        """The plan for a sequence that also holds `text` tokens, before or after, which all stay."""
        if not text:
            return self
        rows = len(self.place)
        words = torch.arange(text, device=self.place.device).expand(rows, -1)
        ones = torch.ones(rows, text, device=self.place.device)
        place = [words, self.place + text] if first else [self.place, words + self.places]
        share = [ones, self.share] if first else [self.share, ones]
        return Merging.of(torch.cat(place, 1), self.places + text, torch.cat(share, 1))

    def _along(self, index: Tensor, values: Tensor, axis: int) -> Tensor:
        """An index [B, N] as wide as `values`, with its tokens along the axis."""
        axis = axis % values.ndim
        shape = [1] * values.ndim
        shape[0], shape[axis] = index.shape
        sizes = list(values.shape)
        sizes[axis] = index.shape[1]
        return index.reshape(shape).expand(sizes)


def _offsets(rows: int, each: int, like: Tensor) -> Int[Tensor, "B 1"]:
    return torch.arange(rows, device=like.device)[:, None] * each


def tiles(size: tuple[int, int], side: int, cells: Int[Tensor, "B T"]) -> tuple[Int[Tensor, "B S"], Int[Tensor, "B D"]]:
    """Split a grid (height, width) into sources and destinations: one destination a tile of `side` x `side` places.

    `cells` names it, 0..side^2 - 1 row by row, for each whole tile. Places outside whole tiles are sources. Both come
    as indices in the order of the grid (ToMe for Stable Diffusion, arXiv 2303.17604).
    """
    height, width = size
    across = width // side
    tile = torch.arange((height // side) * across, device=cells.device)
    corner = (tile // across) * side * width + (tile % across) * side
    chosen = torch.zeros(len(cells), height * width, dtype=torch.bool, device=cells.device)
    return split(chosen.scatter(1, corner + (cells // side) * width + cells % side, True), len(tile))


def split(chosen: Bool[Tensor, "B N"], count: int) -> tuple[Int[Tensor, "B S"], Int[Tensor, "B D"]]:
    """Sources and destinations, where `count` tokens of each row are chosen as destinations, both in order."""
    order = torch.sort(chosen.byte(), dim=1, stable=True).indices
    return order[:, : chosen.shape[1] - count], order[:, chosen.shape[1] - count :]


def top(values: Float[Tensor, "B N"], count: int) -> Bool[Tensor, "B N"]:
    """Which tokens of each row are among the `count` greatest; of equal ones the first."""
    order = torch.sort(values, dim=1, descending=True, stable=True).indices
    return torch.zeros_like(values, dtype=torch.bool).scatter(1, order[:, :count], True)


def coarse(size: tuple[int, int], factor: int) -> tuple[Int[Tensor, " N"], Int[Tensor, " D"]]:
    """The cell of `factor` x `factor` places that each place of a grid lies in, and each cell's first place.

    Cells at the border may be smaller.

    >>> coarse((2, 4), 2)
    (tensor([0, 0, 1, 1, 0, 0, 1, 1]), tensor([0, 2]))
    """
    height, width = size
    rows, columns = torch.arange(height), torch.arange(width)
    across = -(-width // factor)
    cell = (rows // factor)[:, None] * across + columns // factor
    first = rows[::factor, None] * width + columns[::factor]
    return cell.flatten(), first.flatten()


def nearest(a: Float[Tensor, "B S C"], b: Float[Tensor, "B D C"]) -> tuple[Float[Tensor, "B S"], Int[Tensor, "B S"]]:
    """The greatest cosine of each a with any b, and which b it is; at most 2^24 cosines are held at once."""
    b = F.normalize(b, dim=-1, eps=1e-12).transpose(1, 2)
    rows = max(1, SCORES // max(1, b.shape[0] * b.shape[2]))
    found = [(part @ b).max(-1) for part in a.split(rows, dim=1)]
    best, which = (torch.cat(parts, 1) for parts in zip(*found, strict=True))
    return best.float() / a.float().norm(dim=-1).clamp_min(1e-12), which


def bipartite(
    x: Float[Tensor, "B N C"],
    sides: tuple[Int[Tensor, "B S"], Int[Tensor, "B D"]],
    count: int,
    *,
    early: Bool[Tensor, "B S"] | None = None,
    drop: bool = False,
) -> Merging:
    """Merge the `count` sources that are most like any destination into their nearest one.

    `early` sources go before all others. With `drop` a destination keeps its own value: sources are pruned, not
    averaged. Places are the destinations in order, then the sources left over, best match first.
    """
    src, dst = sides
    left, right = src.shape[1] - count, dst.shape[1]
    best, which = nearest(_take(x, src), _take(x, dst))
    order = torch.sort(best, dim=1, descending=True, stable=True).indices
    if early is not None:
        order = order.gather(1, torch.sort(~early.gather(1, order), dim=1, stable=True).indices)
    merged = which.gather(1, order[:, :count])
    alone = torch.arange(right, right + left, device=x.device).expand(len(x), -1)
    targets = torch.cat([merged, alone], 1)
    place = torch.zeros(x.shape[:2], dtype=torch.long, device=x.device)
    place = place.scatter(1, dst, torch.arange(right, device=x.device).expand(len(x), -1))
    place = place.scatter(1, src.gather(1, order), targets)
    weights = None
    if drop:
        weights = torch.ones(x.shape[:2], device=x.device).scatter(1, src.gather(1, order[:, :count]), 0.0)
    return Merging.of(place, right + left, weights)


def _take(x: Float[Tensor, "B N C"], index: Int[Tensor, "B n"]) -> Float[Tensor, "B n C"]:
    flat = (index + _offsets(len(x), x.shape[1], x)).flatten()
    return x.flatten(0, 1).index_select(0, flat).unflatten(0, index.shape)


def cut(merges: Sequence[tuple[int, int]], tokens: int) -> list[int]:
    """The cluster of each token after a list of merges, numbered as they first appear.

    Merge i joins two clusters, named by a token or by `tokens` + j for the outcome of merge j, as scipy's linkage does.

    >>> cut([(0, 2), (4, 1)], 4)
    [0, 0, 0, 1]
    """
    above = list(range(tokens + len(merges)))
    for index, pair in enumerate(merges):
        for one in pair:
            above[one] = tokens + index
    for one in range(len(above) - 1, -1, -1):  # an outcome has a greater number than its parts
        above[one] = above[above[one]]
    names: dict[int, int] = {}
    return [names.setdefault(above[token], len(names)) for token in range(tokens)]
