"""Schedules of grids from coarse to fine, and the two resizings between them."""

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from workbench.core.errors import AskError

Grid = tuple[int, int]
MOST_DIGITS = 5


def coarse(x: Float[Tensor, "B C h w"], grid: Grid) -> Float[Tensor, "B C a b"]:
    """Area means on a coarser grid (rows, columns); the same tensor on its own."""
    return x if tuple(x.shape[-2:]) == grid else F.interpolate(x, size=grid, mode="area")


def fine(x: Float[Tensor, "B C h w"], grid: Grid) -> Float[Tensor, "B C a b"]:
    """Bicubic interpolation to another grid (rows, columns); the same tensor on its own."""
    return x if tuple(x.shape[-2:]) == grid else F.interpolate(x, size=grid, mode="bicubic")


def shaped(sides: Sequence[int], latent: Grid) -> tuple[Grid, ...]:
    """Square scales stretched to a latent's shape, the last one being all of it, none empty.

    >>> shaped((1, 2, 4), (4, 6))
    ((1, 2), (2, 3), (4, 6))
    """
    rows, columns = latent
    shares = [side / max(sides) for side in sides]
    return tuple((max(1, round(rows * share)), max(1, round(columns * share))) for share in shares)


def read_grid(text: str) -> Grid:
    """A grid from "4" or "3x5" (rows x columns). Raises `AskError`.

    >>> read_grid("3x5")
    (3, 5)
    """
    rows, _, columns = text.strip().partition("x")
    numbers = (rows, columns or rows)
    if not all(number.isdecimal() and len(number) <= MOST_DIGITS and int(number) > 0 for number in numbers):
        raise AskError(
            f"A scale is {text[:40]!r}; it must be a side such as 4, or rows and columns such as 3x5. Give "
            "several as a list: [1, 2, 4, 8]."
        )
    return int(numbers[0]), int(numbers[1])


def check_schedule(grids: Sequence[Grid], latent: Grid) -> tuple[Grid, ...]:
    """The schedule, if it rises and ends at the latent's size. Raises `AskError` otherwise."""
    if not grids:
        raise AskError("The schedule is empty. Give its scales from coarse to fine, as [1, 2, 4, 8].")
    for (h, w), (later_h, later_w) in pairwise(grids):
        if later_h < h or later_w < w or (later_h, later_w) == (h, w):
            raise AskError(f"The schedule goes from {h}x{w} to {later_h}x{later_w}; every scale must be finer.")
    if tuple(grids[-1]) != tuple(latent):
        rows, columns = grids[-1]
        raise AskError(
            f"The schedule ends at {rows}x{columns}; the latent of this picture is {latent[0]}x{latent[1]}. "
            f"Let the last scale be {latent[0]}x{latent[1]}, or ask for another size."
        )
    return tuple((int(h), int(w)) for h, w in grids)
