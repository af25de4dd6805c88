"""Noise that belongs to a row: drawn from the row's own seed, never from the global generator."""

import hashlib
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def row_generator(seed: int, *tag: str | int) -> torch.Generator:
    """A CPU generator that follows from a row's seed and a tag alone.

    Different tags ("cads", step 3) give unrelated streams, and none of them is the stream of the seed itself, which
    the starting noise uses.
    """
    digest = hashlib.blake2b(repr((int(seed), *tag)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


def row_noise(seeds: Sequence[int], shape: Sequence[int], *tag: str | int) -> Float[Tensor, "R ..."]:
    """Standard normal float32 noise [R, *shape] on the CPU; row i depends on seed i and the tag alone.

    >>> torch.equal(row_noise([7, 8], (3,), "a")[1:], row_noise([8], (3,), "a"))
    True
    """
    rows = [torch.randn(tuple(shape), generator=row_generator(seed, *tag)) for seed in seeds]
    return torch.stack(rows) if rows else torch.empty(0, *shape)
