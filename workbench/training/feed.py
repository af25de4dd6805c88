"""Feed a device with scenes and what is said of them: worker processes plan, caption and tokenise ahead of it.

What is in batch n follows from the seed and n alone, however many workers there are.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from workbench.blocks.world import Jitter, Plan, World
from workbench.training import judge, scorer, unet
from workbench.training.loop import by_number
from workbench.training.stage import Codes, coded

LENGTH = 77
Choose = Callable[[World, np.random.Generator, int], list[Plan]]


def plain(world: World, draw: np.random.Generator, count: int) -> list[Plan]:
    """Plan scenes of the whole world that the generator may see, laid out freely."""
    return [world.plan(draw, jitter=Jitter()) for _ in range(count)]


def steady(world: World, draw: np.random.Generator, count: int) -> list[Plan]:
    """Plan scenes laid out as the denoiser is to draw them."""
    return [world.plan(draw, two=unet.TWO, jitter=unet.JITTER) for _ in range(count)]


def everything(world: World, draw: np.random.Generator, count: int) -> list[Plan]:
    """Plan scenes of every object and style, held-out ones included: the judge's."""
    return [world.plan(draw, held_out=True, jitter=judge.JITTER) for _ in range(count)]


def close(world: World, draw: np.random.Generator, count: int) -> list[Plan]:
    """Plan scenes and their near misses: another style, ground, object or order."""
    plans: list[Plan] = []
    while len(plans) < count:
        plans += scorer.near(world, draw, world.plan(draw, jitter=scorer.CLOSE))
    return plans[:count]


def sentence(plan: Plan) -> str:
    """Say all of a scene."""
    said = " and ".join("a " + label for label in plan.objects)
    return f"a {plan.style} emoji of {said} on a {plan.background} background"


def tokens(words: Any, texts: list[str]) -> Tensor:
    """Return ids [B, 77], padded as a StableDiffusionPipeline pads them."""
    return words(texts, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt").input_ids


@dataclass(frozen=True)
class Batch:
    """Scenes as numbers, the ids [B, 77] of a caption and of the whole truth, and `told` [B, 2]: style, background?"""

    codes: Codes
    ids: Tensor
    full: Tensor
    told: Tensor


class Scenes(Dataset[dict[str, Tensor]]):
    """Batches by number; without `words` they are not captioned, and `full` adds the whole truth of each scene."""

    def __init__(
        self, world: World, choose: Choose, count: int, *, words: Any = None, full: bool = False, seed: int = 0
    ) -> None:
        self.world, self.choose, self.count = world, choose, count
        self.words, self.full, self.seed = words, full, seed

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Make batch `index`."""
        draw = np.random.default_rng((self.seed, index))
        plans = self.choose(self.world, draw, self.count)
        row: dict[str, Tensor] = dict(coded(self.world, plans)._asdict())
        none = torch.zeros(0, dtype=torch.long)
        row |= {"ids": none, "full": none, "told": none.bool()}
        if self.words is not None:
            said = [self.world.say(draw, p.objects, p.style, p.background) for p in plans]
            row["ids"] = tokens(self.words, [text for text, _, _ in said])
            row["told"] = torch.tensor([[named, grounded] for _, named, grounded in said])
        if self.words is not None and self.full:
            row["full"] = tokens(self.words, [sentence(plan) for plan in plans])
        return row


class Feed:
    """An endless row of batches on a device; `waited` is the seconds that the device's side stood idle for them."""

    def __init__(self, scenes: Scenes, device: torch.device, workers: int = 0, start: int = 0) -> None:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # each worker is one thread
        self.device, self.waited = device, 0.0
        self.rows: Iterator[dict[str, Tensor]] = by_number(scenes, start, workers, pin=device.type == "cuda")

    def __next__(self) -> Batch:
        """Return the next batch, on the device."""
        begun = time.monotonic()
        row = next(self.rows)
        self.waited += time.monotonic() - begun
        row = {name: value.to(self.device, non_blocking=True) for name, value in row.items()}
        codes = Codes(*(row.pop(name) for name in Codes._fields))
        return Batch(codes, **row)
