"""Train emoji-var's picture decoder further while everything that makes tokens stays as it is.

Tokens, and so the transformers, stay valid. Latents are made as the transformers make them: now and then a code of
another picture takes a code's place, so that the decoder learns to draw what is nearly right.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from workbench.blocks.world import World
from workbench.models.var.vq import MultiScaleVQ
from workbench.training import var_vq
from workbench.training.loop import Clock, Log, every, keep, resume
from workbench.training.unet import Average
from workbench.training.var import latents

#: At most so many of a latent's codes are another picture's.
CORRUPT = 0.05


def frozen(model: MultiScaleVQ) -> MultiScaleVQ:
    """Leave gradients to the decoder alone."""
    model.requires_grad_(False)
    model.decoder.requires_grad_(True)
    model.post_quant_conv.requires_grad_(True)
    return model


@torch.no_grad()
def states(vq: MultiScaleVQ, f: Tensor, generator: torch.Generator) -> Tensor:
    """What the decoder is given for latents f [B, C, h, w]: sums of codes, a few of them another row's."""
    rates = CORRUPT * torch.rand(len(f), 1, generator=generator)
    f_hat = torch.zeros_like(f)
    for k in range(len(vq.patch_nums)):
        true = vq.nearest(vq.ask(k, f - f_hat))
        other = true[torch.randperm(len(true), generator=generator).to(true.device)]
        wrong = (torch.rand(true.shape, generator=generator) < rates).to(true.device)
        f_hat, _ = vq.accumulate(k, f_hat, vq.embed(k, torch.where(wrong, other, true)))
    return f_hat


def train(
    *,
    minutes: float = 25,
    batch: int = 8,
    lr: float = 1.5e-3,
    tail: float = 0.6,
    scenes: int = 4096,
    shape: str = "cpu",
    device: str = "cpu",
    threads: int = 1,
    seed: int = 1,
) -> dict[str, Any]:
    """Train the shipped decoder until `minutes` are spent in all (resuming), then ship the averaged weights."""
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    settings = {"minutes": minutes, "batch": batch, "lr": lr, "tail": tail, "corrupt": CORRUPT}
    world, place, name = World.load(), torch.device(device), f"var-decoder-{shape}"
    about, notes = var_vq.subject(world, shape), var_vq.notes()
    model = frozen(var_vq.moved(var_vq.shipped(), place))
    plans = var_vq.planned(world, about, 7, scenes)
    pool, f = var_vq.drawn(world, plans, place).to(place), latents(model, world, plans, place)
    wanted = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(wanted, lr=lr, betas=(0.9, 0.98), weight_decay=1e-3)
    past, average = resume(name, model, optimiser), Average(model, 0.99)
    if past:
        average.count = past["rounds"]
        average.weights = {key: value.to(place) for key, value in past["average"].items()}
    step, samples = past.get("step", 0), past.get("samples", 0)
    clock, generator = Clock(minutes, past.get("seconds", 0.0)), torch.Generator().manual_seed(1000 + step)
    log = Log({"recipe": "var-decoder", "shape": shape, **settings, "tokens": notes}, past.get("curve", []))
    due, local, recent = every(60), 0, list[float]()
    while clock.part < 1:
        rows = torch.randint(len(pool), (batch,), generator=generator).to(place)
        made = model.decoder(model.post_quant_conv(states(model, f[rows].float(), generator)))
        made.register_hook(lambda grad: grad.contiguous(memory_format=torch.channels_last))
        error = var_vq.likeness(made, var_vq.pictures(pool, rows))
        optimiser.zero_grad()
        error.backward()
        torch.nn.utils.clip_grad_norm_(wanted, 1.0)
        for group in optimiser.param_groups:
            group["lr"] = lr * clock.rate(local, 50, tail)
        optimiser.step()
        step, local, samples = step + 1, local + 1, samples + batch
        recent.append(error.item())
        if step % 10 == 0:
            average.update(model)
        if due() or clock.part >= 1:
            log.add(step=step, samples=samples, seconds=clock.seconds, loss=float(np.mean(recent)))
            recent = []
            keep(name, model, optimiser, step=step, samples=samples, seconds=clock.seconds, curve=log.curve,
                 average=average.weights, rounds=average.count)  # fmt: skip
    return var_vq.ship(model, average, world, about, log, step=step, samples=samples, seconds=round(clock.seconds))
