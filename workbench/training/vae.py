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
from workbench.training.loop import MODELS, Clock, Log, diffusers, every, keep, resume, signed

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


def pictures(world: World, seed: int, count: int) -> Tensor:
    """Draw training pictures [count, 3, 128, 128] in -1..1: most of the CPU tier, some of all seen."""
    rows = []
    for index in range(count):
        draw = np.random.default_rng((seed, index))
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


def fit(
    model: Any, world: World, name: str, *, clock: Clock, log: Log, batch: int, lr: float, seed: int, past: dict
) -> int:
    """Train what of the model asks for gradients until the clock is over; return the steps made in all."""
    wanted = [p for p in model.parameters() if p.requires_grad]
    frozen = not model.encoder.conv_in.weight.requires_grad
    optimiser = torch.optim.AdamW(wanted, lr=lr, betas=(0.9, 0.98), weight_decay=1e-3)
    if past:
        optimiser.load_state_dict(past["optimiser"])
    step, due = past.get("step", 0), every(60)
    while clock.part < 1:
        true = pictures(world, seed * 1_000_000 + step, batch)
        with torch.autocast("cpu", torch.bfloat16):
            with torch.set_grad_enabled(not frozen):
                latent = model.encode(true).latent_dist.mean
            # a little noise on the latents: the decoder will be given a denoiser's, not the encoder's
            made = model.decode(latent + NOISE * torch.randn_like(latent)).sample
        # differences give gradients of another layout, and convolutions then take a path three times slower
        made.register_hook(lambda grad: grad.contiguous(memory_format=torch.channels_last))
        error = loss(made.float(), true, latent.float())
        optimiser.zero_grad()
        error.backward()
        torch.nn.utils.clip_grad_norm_(wanted, 1.0)
        for group in optimiser.param_groups:
            group["lr"] = lr * clock.rate(step, 50)
        optimiser.step()
        step += 1
        if due() or clock.part >= 1:
            log.add(step=step, seconds=clock.seconds, loss=error.item(), l1=F.l1_loss(made.float(), true).item())
            keep(name, model, optimiser, step=step, seconds=clock.seconds, curve=log.curve)
    return step


def train(minutes: float = 10, batch: int = 8, lr: float = 1e-3, threads: int = 2, seed: int = 0) -> dict[str, float]:
    """Train until `minutes` are spent in all (resuming), then ship to assets/models/emoji-unet/vae."""
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    world, model = World.load(), build().to(memory_format=torch.channels_last)
    past = resume("vae", model)
    clock = Clock(minutes, past.get("seconds", 0.0))
    log = Log({"recipe": "vae", "batch": batch, "lr": lr, "minutes": minutes}, past.get("curve", []))
    step = fit(model, world, "vae", clock=clock, log=log, batch=batch, lr=lr, seed=seed, past=past)
    return ship(model, world, log, step=step, samples=step * batch, seconds=round(clock.seconds))


def refine(minutes: float = 15, batch: int = 4, lr: float = 6e-4, threads: int = 1, seed: int = 1) -> dict[str, float]:
    """Train the shipped decoder alone; the encoder's latents, and so the denoiser, stay valid."""
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    world, model = World.load(), build()
    shipped: Any = diffusers.AutoencoderKL.from_pretrained(MODELS / "emoji-unet" / "vae").float()
    model.load_state_dict(shipped.state_dict())
    model.encoder.requires_grad_(False)
    model.to(memory_format=torch.channels_last)
    past = resume("vae-decoder", model)
    clock = Clock(minutes, past.get("seconds", 0.0))
    before = json.loads((MODELS / "emoji-unet" / "vae" / "training.json").read_text())
    facts = {"recipe": "vae, decoder refined", "batch": batch, "lr": lr, "minutes": minutes, "encoder": before}
    log = Log(facts, past.get("curve", []))
    step = fit(model, world, "vae-decoder", clock=clock, log=log, batch=batch, lr=lr, seed=seed, past=past)
    return ship(model, world, log, shipped.config.scaling_factor, step=step, seconds=round(clock.seconds))


def ship(model: Any, world: World, log: Log, scaling: float | None = None, **spent: float) -> dict[str, float]:
    """Measure, set the scaling factor (from the latents, unless given), and save as fp16."""
    final = measure(model, world)
    # a copy in halves: the weights in the checkpoint stay as trained
    small = build()
    small.load_state_dict(model.state_dict())
    small.register_to_config(scaling_factor=scaling or round(1 / final["deviation"], 4))
    folder = MODELS / "emoji-unet" / "vae"
    small.half().save_pretrained(folder)
    log.write(folder, **final, **spent)
    return final
