"""Train the autoencoder: 128 px pictures to 16x16 latents of 8 channels whose mean is 0 and deviation about 1."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from workbench.blocks.world import World
from workbench.training.loop import MODELS, Clock, Log, agree, diffusers, every, keep, resume, signed, together

FOLDER = MODELS / "emoji-unet" / "vae"
CHANNELS = (24, 48, 96, 128)
NOISE = 0.05


SHAPE: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": CHANNELS,
    "layers_per_block": 1,
    "latent_channels": 8,
    "norm_num_groups": 8,
    "mid_block_add_attention": False,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
    "sample_size": 128,
}


def build() -> Any:
    """Make an untrained AutoencoderKL, narrow at full resolution, where a CPU spends its time."""
    model: Any = diffusers.AutoencoderKL(**SHAPE)
    # the spread of the posterior is not learned: it is the noise the decoder is trained with
    with torch.no_grad():
        model.encoder.conv_out.weight[8:] = 0
        model.encoder.conv_out.bias[8:] = 2 * math.log(NOISE)
    return model


def pictures(world: World, seed: tuple[int, ...], count: int) -> Tensor:
    """Draw training pictures [count, 3, 128, 128] in -1..1: most of the CPU tier, some of all seen."""
    rows = []
    for index in range(count):
        draw = np.random.default_rng((*seed, index))
        plan = world.plan(draw, objects=world.tier if index % 4 else None)
        rows.append(world.draw(plan)[0])
    return signed(rows)


def loss(made: Tensor, true: Tensor, latent: Tensor) -> Tensor:
    """L1 + squared error + half the L1 of gradients, and a pull of each latent channel to mean 0 and deviation 1."""
    across, down = made.diff(dim=-1) - true.diff(dim=-1), made.diff(dim=-2) - true.diff(dim=-2)
    likeness = (made - true).abs().mean() + (made - true).square().mean()
    edges = 0.5 * (across.abs().mean() + down.abs().mean())
    mean, deviation = latent.mean((0, 2, 3)), latent.std((0, 2, 3))
    return likeness + edges + 0.02 * (mean.square().mean() + (deviation - 1).square().mean())


@torch.no_grad()
def measure(model: Any, world: World, count: int = 64) -> dict[str, float]:
    """Return PSNR in dB over fixed scenes of the CPU tier, and the latents' mean and deviation."""
    model.eval()
    true = signed([d.picture for d in world.scenes(10_000, count, objects=world.tier)])
    latent = torch.cat([model.encode(part).latent_dist.mean for part in true.split(16)])
    made = torch.cat([model.decode(part).sample.clamp(-1, 1) for part in latent.split(16)])
    error = (made - true).div(2).square().mean((1, 2, 3))
    model.train()
    return {"psnr": float(-10 * error.log10().mean()), "mean": float(latent.mean()), "deviation": float(latent.std())}


def work(rank: int, workers: int, settings: dict[str, Any]) -> None:
    """Train the whole autoencoder, or with `refine` the shipped decoder alone, then ship it."""
    torch.manual_seed(settings["seed"] + rank)
    world, model, scaling, name = World.load(), build(), None, "vae"
    facts: dict[str, Any] = {"recipe": "vae", **settings}
    if settings["refine"]:
        shipped: Any = diffusers.AutoencoderKL.from_pretrained(FOLDER).float()
        model.load_state_dict(shipped.state_dict())
        model.encoder.requires_grad_(False)
        name, scaling = "vae-decoder", shipped.config.scaling_factor
        facts |= {"recipe": "vae, decoder refined", "encoder": json.loads((FOLDER / "training.json").read_text())}
    model.to(memory_format=torch.channels_last)
    wanted = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(wanted, lr=settings["lr"], betas=(0.9, 0.98), weight_decay=1e-3)
    past = resume(name, model, optimiser)
    step, samples = past.get("step", 0), past.get("samples", 0)
    clock, log = Clock(settings["minutes"], past.get("seconds", 0.0)), Log(facts, past.get("curve", []))
    due, meet, seen, local, over = every(60), every(settings["every"]), 0, 0, False
    while not over:
        true = pictures(world, (settings["seed"], rank, step + local), settings["batch"])
        error, l1 = miss(model, true, frozen=settings["refine"])
        optimiser.zero_grad()
        error.backward()
        torch.nn.utils.clip_grad_norm_(wanted, 1.0)
        for group in optimiser.param_groups:
            group["lr"] = settings["lr"] * clock.rate(local, 50)
        optimiser.step()
        local, seen = local + 1, seen + len(true)
        if not meet():
            continue
        total, part, mean = agree(model, [float(seen), clock.part, l1])
        meet = every(settings["every"])  # from now on, or the workers would wait for each other at every meeting
        samples, seen, over = samples + int(total), 0, part / workers >= 1
        if rank == 0 and (due() or over):
            numbers = {"step": step + local, "samples": samples, "seconds": clock.seconds}
            log.add(**numbers, l1=mean / workers)
            keep(name, model, optimiser, **numbers, curve=log.curve)
    if rank == 0:
        ship(model, world, log, scaling, step=step + local, samples=samples, seconds=round(clock.seconds))


def miss(model: Any, true: Tensor, *, frozen: bool) -> tuple[Tensor, float]:
    """Return the loss of one batch of pictures, and the mean absolute error; a `frozen` encoder gets no gradient."""
    with torch.autocast("cpu", torch.bfloat16):
        with torch.set_grad_enabled(not frozen):
            latent = model.encode(true).latent_dist.mean
        # a little noise on the latents: the decoder will be given a denoiser's, not the encoder's
        made = model.decode(latent + NOISE * torch.randn_like(latent)).sample
    # differences give gradients of another layout, and convolutions then take a path three times slower
    made.register_hook(lambda grad: grad.contiguous(memory_format=torch.channels_last))
    return loss(made.float(), true, latent.float()), F.l1_loss(made.float(), true).item()


def train(
    *,
    minutes: float = 10,
    batch: int = 4,
    lr: float = 1e-3,
    workers: int = 2,
    threads: int = 1,
    every: float = 5,
    seed: int = 0,
) -> dict[str, Any]:
    """Train until `minutes` are spent in all (resuming), then ship to assets/models/emoji-unet/vae."""
    settings = {"minutes": minutes, "batch": batch, "lr": lr, "every": every, "seed": seed}
    together(work, workers, threads, {**settings, "refine": False})
    return json.loads((FOLDER / "training.json").read_text())["final"]


def refine(
    *,
    minutes: float = 15,
    batch: int = 4,
    lr: float = 6e-4,
    workers: int = 2,
    threads: int = 1,
    every: float = 5,
    seed: int = 1,
) -> dict[str, Any]:
    """Train the shipped decoder alone; the encoder's latents, and so the denoiser, stay valid."""
    settings = {"minutes": minutes, "batch": batch, "lr": lr, "every": every, "seed": seed}
    together(work, workers, threads, {**settings, "refine": True})
    return json.loads((FOLDER / "training.json").read_text())["final"]


def ship(model: Any, world: World, log: Log, scaling: float | None = None, **spent: float) -> dict[str, float]:
    """Measure, set the scaling factor (from the latents, unless given), and save as fp16."""
    final = measure(model, world)
    # a copy in halves: the weights in the checkpoint stay as trained
    small = build()
    small.load_state_dict(model.state_dict())
    small.register_to_config(scaling_factor=scaling or round(1 / final["deviation"], 4))
    small.half().save_pretrained(FOLDER)
    log.write(FOLDER, **final, **spent)
    return final
