"""Train the judge on every object and style, on drawings as they are and as a generator spoils them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from workbench.blocks.world import Jitter, Plan, World
from workbench.models.judge import GRID, Judge, JudgeConfig, Verdict
from workbench.training.loop import MODELS, Clock, Log, by_number, diffusers, every, keep, resume, signed

FOLDER = MODELS / "emoji-judge"
JITTER = Jitter(single=(0.6, 0.95), shift=0.06, loose=0.2)
COVERED = 0.15
TAIL = 0.4


def truth(world: World, plans: list[Plan], covers: list[list[np.ndarray]]) -> tuple[Tensor, Tensor, Tensor]:
    """Return cells [B, 8, 8], objects [B, O+1] (shared by what is shown) and styles [B]; the last class is "none"."""
    order = {label: index for index, label in enumerate(world.concepts)}
    none = len(order)
    cells, objects = torch.full((len(plans), GRID, GRID), none), torch.zeros(len(plans), none + 1)
    styles = torch.full((len(plans),), len(world.styles))
    for row, (plan, shown) in enumerate(zip(plans, covers, strict=True)):
        if not shown:
            objects[row, none] = 1
            continue
        side = shown[0].shape[0] // GRID
        share = np.stack([c.reshape(GRID, side, GRID, side).mean((1, 3)) for c in shown])
        kinds = np.array([order[o] for o in plan.objects])[share.argmax(0)]
        cells[row] = torch.from_numpy(np.where(share.max(0) > COVERED, kinds, none))
        for label in plan.objects:
            objects[row, order[label]] += 1 / len(plan.objects)
        styles[row] = world.styles.index(plan.style)
    return cells, objects, styles


def batch(world: World, seed: tuple[int, ...], count: int) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Draw pictures [B, 3, 128, 128] in -1..1 and their truth, one in sixteen empty.

    Five eighths show the CPU tier and one eighth the held-out objects, which adapters are judged by; two are of all.
    """
    draw = np.random.default_rng(seed)
    plans, rows, covers = [], [], []
    tier, held_out = world.tier, world.split["held_out_objects"]
    pools = (None, tier, held_out, tier, tier, None, tier, tier)
    for index in range(count):
        pool = pools[index % len(pools)]
        plan = world.plan(draw, pool, world.styles, two=0.3, held_out=True, jitter=JITTER)
        picture, _, shown = world.draw(plan)
        if draw.random() < 1 / 16:
            picture, shown = np.full_like(picture, world.backgrounds[plan.background]), []
        plans.append(plan)
        rows.append(picture)
        covers.append(shown)
    return signed(rows), truth(world, plans, covers)


@torch.no_grad()
def spoil(pictures: Tensor, generator: torch.Generator, vae: Any) -> Tensor:
    """Blur, grain and re-tint pictures at random; an eighth go through the autoencoder, its latents noisy."""

    where = {"generator": generator, "device": pictures.device}

    def some(part: float) -> Tensor:
        return torch.rand(len(pictures), 1, 1, 1, **where) < part

    made = pictures.clone()
    if vae is not None:
        few = pictures[: len(pictures) // 8]
        with torch.autocast(pictures.device.type, torch.bfloat16):
            latents = vae.encode(few).latent_dist.mean
            noise = 0.3 * torch.rand(len(few), 1, 1, 1, **where) * torch.randn(latents.shape, **where)
            made[: len(few)] = vae.decode(latents + noise).sample.float().clamp(-1, 1)
    soft = F.interpolate(F.avg_pool2d(made, 4), scale_factor=4.0, mode="bilinear")
    blend = torch.rand(len(made), 1, 1, 1, **where)
    made = torch.where(some(0.4), blend * soft + (1 - blend) * made, made)
    tint = 1 + 0.15 * torch.randn(len(made), 3, 1, 1, **where)
    made = torch.where(some(0.3), made * tint, made)
    grain = 0.15 * torch.rand(len(made), 1, 1, 1, **where) * torch.randn(made.shape, **where)
    return torch.where(some(0.4), made + grain, made).clamp(-1, 1)


class Drawings(Dataset[tuple[Tensor, tuple[Tensor, Tensor, Tensor]]]):
    """Spoilt batches by number: batch n follows from the seed and n alone."""

    def __init__(self, world: World, vae: Any, seed: int, size: int) -> None:
        self.world, self.vae, self.seed, self.size = world, vae, seed, size

    def __getitem__(self, step: int) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        """Draw and spoil batch `step`; the truth is as `batch` gives it."""
        torch.set_num_threads(1)  # each process that feeds is one thread
        pictures, true = batch(self.world, (self.seed, step), self.size)
        return spoil(pictures, torch.Generator().manual_seed(self.seed * 10**9 + step), self.vae), true


def loss(made: Verdict, true: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Sum the cross-entropies of cells, objects and style."""
    cells, objects, styles = true
    return (
        F.cross_entropy(made.cells.float(), cells)
        + F.cross_entropy(made.objects.float(), objects)
        + F.cross_entropy(made.styles.float(), styles)
    )


@torch.no_grad()
def measure(model: Judge, world: World, vae: Any, count: int = 384) -> dict[str, Any]:
    """Name object, style and cells of fixed drawings: clean, decoded by the autoencoder, spoilt; per style.

    Of the tier, of what is held out, and of all 738 objects.
    """
    model.eval()
    generator, final = torch.Generator().manual_seed(3), {}
    for name, pool in (("tier", world.tier), ("held_out", world.split["held_out_objects"]), ("all", None)):
        draw = np.random.default_rng(99)
        plans = [world.plan(draw, pool, world.styles, two=0.0, held_out=True) for _ in range(count)]
        drawn = [world.draw(p) for p in plans]
        clean = signed([picture for picture, _, _ in drawn])
        cells, objects, styles = truth(world, plans, [covers for _, _, covers in drawn])
        states = {"": clean, "_spoilt": spoil(clean, generator, vae)}
        if vae is not None:
            states["_decoded"] = torch.cat([
                vae.decode(vae.encode(part).latent_dist.mean).sample.clamp(-1, 1) for part in clean.split(32)
            ])  # fmt: skip
        for state, pictures in states.items():
            out = [model(part) for part in pictures.split(64)]
            right = torch.cat([v.objects for v in out]).argmax(1) == objects.argmax(1)
            final[f"object_{name}{state}"] = right.float().mean().item()
            final[f"style_{name}{state}"] = (
                (torch.cat([v.styles for v in out]).argmax(1) == styles).float().mean().item()
            )
            final[f"cells_{name}{state}"] = (torch.cat([v.cells for v in out]).argmax(1) == cells).float().mean().item()
            if name == "tier" and not state:
                for style in world.styles:
                    own = torch.tensor([plan.style == style for plan in plans])
                    final[f"object_{style}"] = right[own].float().mean().item()
    model.train()
    return {key: round(value, 4) for key, value in final.items()}


def train(
    minutes: float = 15, size: int = 48, lr: float = 1e-3, threads: int = 1, workers: int = 2, seed: int = 0
) -> dict[str, Any]:
    """Train until `minutes` are spent in all (resuming), fed by `workers` processes; ship to models/emoji-judge."""
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    world = World.load()
    model: Any = Judge(JudgeConfig(world.concepts, world.styles))
    model.to(memory_format=torch.channels_last)
    folder = MODELS / "emoji-unet" / "vae"
    vae = diffusers.AutoencoderKL.from_pretrained(folder).float().eval() if (folder / "config.json").exists() else None
    optimiser = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.01)
    past = resume("judge", model, optimiser)
    if not past and (FOLDER / "model.safetensors").exists():
        model.load_state_dict(Judge.load(FOLDER).state_dict())
    step, due = past.get("step", 0), every(60)
    feed = by_number(Drawings(world, vae, seed, size), step, workers)
    clock = Clock(minutes, past.get("seconds", 0.0))
    log = Log({"recipe": "judge", "batch": size, "lr": lr, "minutes": minutes}, past.get("curve", []))
    while clock.part < 1:
        pictures, true = next(feed)
        with torch.autocast("cpu", torch.bfloat16):
            made = model(pictures.contiguous(memory_format=torch.channels_last))
        error = loss(made, true)
        optimiser.zero_grad()
        error.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimiser.param_groups:
            group["lr"] = lr * clock.rate(step, 60, TAIL)
        optimiser.step()
        step += 1
        if due():
            right = (made.objects.argmax(1) == true[1].argmax(1)).float().mean().item()
            log.add(step=step, seconds=clock.seconds, loss=error.item(), right=right)
            keep("judge", model, optimiser, step=step, seconds=clock.seconds, curve=log.curve)
    keep("judge", model, optimiser, step=step, seconds=clock.seconds, curve=log.curve)
    final = measure(model, world, vae)
    model.save(FOLDER)
    log.write(FOLDER, **final, step=step, samples=step * size, seconds=round(clock.seconds))
    return final
