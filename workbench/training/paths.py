"""Ways that the teacher went from noise to a picture, kept to be learnt from many times.

A path is its guided states at the times of a grid and its end, drawn by DPM-Solver++ from noise of its own under a
caption of the pool; a teacher's hop costs about as much as a student's whole lesson, so paths are walked once.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from workbench.blocks.world import World
from workbench.training import unet
from workbench.training.loop import diffusers, scratch

FEW = 16  # paths of a file

Teach = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def walk(teach: Teach, noise: Tensor, states: Tensor, none: Tensor, *, steps: int, points: int) -> Tensor:
    """Return [B, points + 1, C, h, w]: the states of a guided run at `points` even times of its `steps`, and its end.

    `teach(x, t, states, none)` is the guided velocity; the first state is the noise.
    """
    scheduler: Any = diffusers.DPMSolverMultistepScheduler.from_config(unet.schedule().config)
    scheduler.set_timesteps(steps)
    x, kept = noise, [noise]
    for index, t in enumerate(scheduler.timesteps):
        v = teach(x, t.expand(len(x)), states, none)
        x = scheduler.step(v, t, x).prev_sample
        if (index + 1) % (steps // points) == 0:
            kept.append(x)
    return torch.stack(kept, 1)


class Paths:
    """The paths of one teacher at one guidance, in files of sixteen; file i follows from its number alone."""

    def __init__(self, mark: str, *, guidance: float, steps: int, points: int) -> None:
        self.folder = scratch() / f"paths-{mark[:12]}-{guidance:g}-{steps}-{points}"
        self.folder.mkdir(exist_ok=True)
        self.steps, self.points = steps, points
        self.states, self.captions = torch.zeros(0, points + 1, 8, 16, 16, dtype=torch.float16), list[str]()

    def file(self, number: int) -> Path:
        """Return where file `number` lies."""
        return self.folder / f"{number:05d}.safetensors"

    def fill(self, teach: Teach, texts: Callable[[list[str]], Tensor], numbers: range) -> None:
        """Walk the paths of those files that are not there yet."""
        world = World.load()
        plans = unet.planned(world, 7, 2000)
        for number in numbers:
            if self.file(number).exists():
                continue
            draw = np.random.default_rng((8, number))
            chosen = [plans[i] for i in draw.integers(len(plans), size=FEW)]
            said = [world.caption(draw, p.objects, p.style, p.background) for p in chosen]
            noise = torch.randn(FEW, 8, 16, 16, generator=torch.Generator().manual_seed(number))
            made = walk(teach, noise, texts(said), texts([""]), steps=self.steps, points=self.points)
            part = self.file(number).with_suffix(".part")
            save_file({"states": made.half().contiguous()}, part, metadata={"captions": json.dumps(said)})
            part.replace(self.file(number))

    def refresh(self, count: int) -> None:
        """Take in the first `count` files, as far as they are there."""
        states, self.captions = [], []
        for number in range(count):
            if self.file(number).exists():
                opened: Any = safe_open(self.file(number), "pt")
                with opened as held:
                    states.append(held.get_tensor("states"))
                    self.captions += json.loads(held.metadata()["captions"])
        if states:
            self.states = torch.cat(states)
