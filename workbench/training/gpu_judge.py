"""Train the GPU tier's judge on every object and style, then set its confidence on reconstructed drawings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from workbench.models.judge import GRID, Judge, JudgeConfig
from workbench.training import gpu_vae, judge
from workbench.training.feed import everything
from workbench.training.gpu_loop import Course, Kit, learn, past, recipe, restore
from workbench.training.stage import Codes, coded

PLACE = Path("emoji-judge")
EMPTY = 1 / 16


def truth(codes: Codes, covers: Tensor, sizes: tuple[int, int], empty: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return what `judge.truth` returns, on the device: cells [B, 8, 8], objects [B, O+1], styles [B].

    `sizes` are the numbers of objects and styles, each the class "none"; rows that are `empty` [B] show nothing.
    """
    none, manner = sizes
    share, top = F.avg_pool2d(covers, covers.shape[-1] // GRID).max(1)
    kinds = codes.objects.gather(1, top.flatten(1)).view_as(top)
    cells = torch.where((share > judge.COVERED) & ~empty[:, None, None], kinds, none)
    there = (codes.objects >= 0).float()
    objects = torch.zeros(len(empty), none + 1, device=covers.device)
    objects.scatter_add_(1, codes.objects.clamp(min=0), there / there.sum(1, keepdim=True))
    objects[empty] = F.one_hot(torch.tensor(none), none + 1).to(objects)
    return cells, objects, torch.where(empty, manner, codes.styles)


def fit(kit: Kit, *, minutes: float = 1.0, batch: int = 1024, lr: float = 1e-3, width: int = 192) -> dict[str, Any]:
    """Train the judge for `minutes` in all, on drawings as they are and as a generator spoils them."""
    folder, world = kit.folder / PLACE, kit.world
    before, sizes = past(folder, "gpu-judge"), (len(world.concepts), len(world.styles))
    model: Any = Judge(JudgeConfig(world.concepts, world.styles, width))
    if before:
        restore(model, folder / "model.safetensors")
    model.to(kit.device, memory_format=torch.channels_last)
    vae, quick = gpu_vae.opened(kit), kit.quick(model)
    feed = kit.feed(everything, batch, start=before.get("step", 0))

    def miss() -> Tensor:
        codes = next(feed).codes
        pictures, covers = kit.stage.compose(codes)
        empty = kit.rand(batch) < EMPTY
        ground = kit.stage.grounds[codes.grounds][:, :, None, None] / 127.5 - 1
        pictures = torch.where(empty[:, None, None, None], ground, pictures)
        pictures = judge.spoil(pictures, kit.generator, vae)
        with kit.cast():
            made = quick(pictures.contiguous(memory_format=torch.channels_last))
        return judge.loss(made, truth(codes, covers, sizes, empty))

    facts = {"recipe": "gpu-judge", "width": width}
    course = Course(minutes, lr)
    log, spent = learn(kit, course, model, miss, batch=batch, before=before, facts=facts, feed=feed)
    final = calibrate(kit, model.eval(), vae, 2048 if not kit.rig.most else 8)
    model.cpu()
    final |= judge.measure(model, world, vae.cpu(), 384 if not kit.rig.most else 8)
    model.save(folder)
    log.write(folder, **final, **spent)
    return {**final, **spent}


@torch.no_grad()
def calibrate(kit: Kit, model: Judge, vae: Any, count: int) -> dict[str, float]:
    """Scale the objects' logits so that on reconstructed drawings of one object confidence is frequency.

    The temperature of least cross-entropy goes into the head's weights. Returns it, the calibration error before and
    after, top-1 on the reconstructions, and how often an empty ground is called "none".
    """
    draw = np.random.default_rng(41)
    plans = [kit.world.plan(draw, two=0.0, held_out=True, jitter=judge.JITTER) for _ in range(count)]
    codes, logits = coded(kit.world, plans).to(kit.device), []
    for first in range(0, count, 256):
        part = Codes(*(c[first : first + 256] for c in codes))
        latents = gpu_vae.encoded(kit, vae, kit.stage.compose(part)[0]) / vae.config.scaling_factor
        logits.append(model(vae.decode(latents).sample.clamp(-1, 1)).objects)
    seen, true = torch.cat(logits), codes.objects[:, 0]
    temperatures = torch.logspace(-0.5, 0.7, 61, device=kit.device)
    costs = torch.stack([F.cross_entropy(seen / t, true) for t in temperatures])
    best = temperatures[costs.argmin()]
    model.objects.weight.div_(best)
    model.objects.bias.div_(best)
    blank = kit.stage.grounds[:, :, None, None].expand(-1, -1, 128, 128) / 127.5 - 1
    nothing = model(blank).objects.argmax(1) == len(kit.world.concepts)
    numbers = {
        "temperature": best, "miscalibration_before": miscalibration(seen, true),
        "miscalibration": miscalibration(seen / best, true),
        "object_reconstructed": (seen.argmax(1) == true).float().mean(), "none": nothing.float().mean(),
    }  # fmt: skip
    return {name: round(float(value), 4) for name, value in numbers.items()}


def miscalibration(logits: Tensor, true: Tensor, bins: int = 15) -> float:
    """Return the expected calibration error, 0..1: the mean gap of confidence and accuracy over bins of the first."""
    sure, named = logits.softmax(1).max(1)
    place = (sure * bins).long().clamp(max=bins - 1)
    gaps = torch.zeros(bins, device=logits.device).index_add_(0, place, (named == true).float() - sure)
    return float(gaps.abs().sum() / len(true))


train = recipe(fit)
