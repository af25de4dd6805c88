"""The network one scale at a time: keys and values in one preallocated block, modulations once a run.

A call takes the state of the latent, makes the scale's tokens of it and runs the blocks on those alone, against the
keys and values of all coarser scales. What is missing (another network took over, or some rows were left out before)
is worked out from the remembered states in the same pass, so the logits are those of teacher forcing at any scale.

Memory of a run: 2 depth R L C numbers of the weights' dtype for R rows and L tokens, made once; nothing is
concatenated, so nothing is copied as the cache grows. The AdaLN of a block is 6 C^2 of its 18 C^2 weights, and its
condition is the same at every scale: it is applied once a run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch
from torch import Tensor

from workbench.blocks.scales import Memory, Pass, Predict
from workbench.core.bundle import Condition
from workbench.core.errors import AskError
from workbench.models.var.packed import Packs, packing
from workbench.models.var.transformer import VARTransformer, block_causal
from workbench.ops.residual_scales import Grid, coarse, fine


@dataclass(frozen=True, eq=False)
class Modulation:
    """What a condition makes of a network: `six` vectors a block [R, 1, 6, C], `two` of the head, its `vector` [R, C].

    `states` is what it was made from.
    """

    states: Tensor
    six: list[Tensor]
    two: Tensor
    vector: Tensor


@dataclass(eq=False)
class Cache:
    """Keys and values [depth, 2, R, A, L, d] of a run, and how far each block and each row has come.

    `begins[b][k]` is where scale k starts in block b (edits may keep fewer tokens); `reached` the scales of each row.
    """

    block: Tensor
    begins: list[list[int]]
    reached: list[int]
    modulations: dict[tuple[int, ...], Modulation] = field(default_factory=dict[tuple[int, ...], "Modulation"])
    places: Tensor | None = None
    packs: Packs = field(default_factory=Packs)

    @classmethod
    def of(cls, net: VARTransformer, memory: Memory) -> Cache:
        """An empty one for all rows of a memory."""
        depth, length = len(net.blocks), sum(h * w for h, w in memory.grids)
        weight = net.head.weight
        shape = (depth, 2, memory.count, net.heads, length, net.width // net.heads)
        block = torch.empty(shape, device=weight.device, dtype=weight.dtype)
        return cls(block, [[0] for _ in range(depth)], [0] * memory.count)

    @property
    def held(self) -> int:
        """Bytes of the keys and values in use: those of each row's scales so far, in all blocks."""
        _, two, _, heads, _, each = self.block.shape
        tokens = sum(begins[min(reached, len(begins) - 1)] for begins in self.begins for reached in self.reached)
        return tokens * two * heads * each * self.block.element_size()

    def store(self, b: int, scale: int, rows: tuple[int, ...]) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """What block b does with the keys and values of a pass that begins at a scale: keep them, give back all."""
        begin, at = self.begins[b][scale], _span(rows)
        pair = self.block[b]

        def keep(key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
            end = begin + key.shape[2]
            pair[0, at, :, begin:end], pair[1, at, :, begin:end] = key, value
            self.begins[b][scale + 1 :] = [end]
            return pair[0, at, :, :end], pair[1, at, :, :end]

        return keep


def predictor(net: VARTransformer) -> Predict:
    """The seam `predict(x [R, C, h, w], t [R], cond) -> logits [R, V, p, p]` of a transformer."""

    def predict(x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        memory = cond.memory
        if not isinstance(memory, Memory):
            raise AskError("A scale is predicted from the scales before it; give the condition a Memory of the run.")
        if memory.by is not None:
            return memory.by(x, t, _own(cond))
        with packing(cache_of(net, memory).packs):
            return scale(net, x, int(t[0]), cond)

    return predict


def cache_of(net: VARTransformer, memory: Memory) -> Cache:
    """What a network keeps in a memory; made when it is first asked for."""
    return memory.keep.get("cache") or memory.keep.setdefault("cache", Cache.of(net, memory))


def scale(net: VARTransformer, x: Tensor, k: int, cond: Condition) -> Tensor:
    """Logits [R, V, h, w] of scale k from a state, for the rows that the condition's memory names."""
    memory: Memory = cond.memory
    cache = cache_of(net, memory)
    rows = tuple(range(memory.count)) if memory.at is None else memory.at
    start = min(k, *(cache.reached[row] for row in rows))
    passing = memory.keep["pass"] = Pass(start, k, rows)
    made = _modulation(net, cache, rows, cond)
    tokens = _tokens(net, memory, x, passing, made.vector)
    if cache.places is None:
        cache.places = net.places(memory.grids)
    begin = sum(h * w for h, w in memory.grids[:start])
    tokens = tokens + cache.places[begin : begin + tokens.shape[1]]
    grids = memory.grids[start : k + 1]
    for b, block in enumerate(net.blocks):
        mask = None if start == k else _mask(grids, cache.begins[b][start], tokens.device)
        tokens = block(tokens, made.six[b], store=cache.store(b, start, rows), mask=mask)
        if start < k:  # nobody keeps fewer tokens in a pass over several scales
            first = cache.begins[b][start]
            ends = [first + sum(h * w for h, w in grids[: i + 1]) for i in range(len(grids))]
            cache.begins[b][start + 1 :] = ends
    for row in rows:
        cache.reached[row] = k + 1
    h, w = memory.grids[k]
    logits = net.head(net.head_nm(tokens[:, -h * w :], made.two))
    return logits.transpose(1, 2).reshape(len(x), -1, h, w)


def _tokens(net: VARTransformer, memory: Memory, x: Tensor, made: Pass, vector: Tensor) -> Tensor:
    """Tokens [R, N, C] of a pass without their places: those of its last scale from `x`, earlier ones from memory."""
    resize = coarse if net.config["prediction"] == "residual" else fine
    inputs: list[Tensor] = []
    for j in range(max(made.first, 1), made.last + 1):
        state = x if j == made.last else memory.seen[j][_span(made.rows)]
        inputs.append(resize(state, memory.grids[j]).flatten(2).transpose(1, 2))
    many = torch.cat(inputs, 1).to(vector.dtype) if inputs else None
    if many is not None and made.first > 0:
        return net.word_embed(many)
    h, w = memory.grids[0]
    return net.enter(many, vector, h * w)


def _modulation(net: VARTransformer, cache: Cache, rows: tuple[int, ...], cond: Condition) -> Modulation:
    """The modulations of some rows, worked out once a run, and again when an edit has changed their condition."""
    states = cond.text.states
    known = cache.modulations.get(rows) or _of_all(cache, rows)
    if known is None or not (known.states is states or torch.equal(known.states, states)):
        vector = states[:, 0].to(net.head.weight.dtype)
        shared = net.shared(vector)
        six = [block.modulation(vector, shared) for block in net.blocks]  # type: ignore[operator]
        known = cache.modulations[rows] = Modulation(states, six, net.head_nm.modulation(vector), vector)
    return known


def _of_all(cache: Cache, rows: tuple[int, ...]) -> Modulation | None:
    """The modulations of some rows as they are among those of all; None where not all were worked out."""
    whole = cache.modulations.get(tuple(range(len(cache.reached))))
    if whole is None:
        return None
    at = _span(rows)
    six = [each[at] for each in whole.six]
    found = cache.modulations[rows] = Modulation(whole.states[at], six, whole.two[at], whole.vector[at])
    return found


def _mask(grids: Sequence[Grid], before: int, device: torch.device) -> Tensor:
    """Who sees whom in a pass over several scales after `before` kept tokens: bool [n, before + n]."""
    inner = block_causal(tuple(grids), device)
    return torch.cat([inner.new_ones(len(inner), before), inner], 1)


def _span(rows: tuple[int, ...]) -> slice | list[int]:
    """Rows as a slice where they lie in an even row, so that looking at them copies nothing."""
    index = list(rows)
    step = index[1] - index[0] if len(index) > 1 else 1
    if step > 0 and all(b - a == step for a, b in pairwise(index)):
        return slice(index[0], index[-1] + 1, step)
    return index


def _own(cond: Condition) -> Condition:
    """The condition as the network that took over sees it: its memory names no other."""
    return replace(cond, memory=replace(cond.memory, by=None))
