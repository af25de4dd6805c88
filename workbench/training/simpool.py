"""Train SimPool on the scorer's frozen patch features against its frozen texts: minutes, resumable, for one lens."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPTokenizer

from workbench.blocks.simpool import FILE, SimPool
from workbench.blocks.world import World
from workbench.models.load import load
from workbench.training.loop import Clock, Log, every, keep, resume, signed
from workbench.training.scorer import CLOSE, FOLDER, contrast, ids, scenes


@torch.no_grad()
def features(clip: Any, pictures: Tensor) -> Tensor:
    """Return the last layer's patch features [B, n, D] of pictures in -1..1."""
    return clip.vision_model(pixel_values=pictures).last_hidden_state[:, 1:].float()


def train(minutes: float = 3, groups: int = 12, lr: float = 1e-3, threads: int = 1, seed: int = 0) -> dict[str, Any]:
    """Train the pooling (resuming) so that pooled pictures match what is said of them, and ship it with its scorer."""
    torch.set_num_threads(threads)
    scorer = load(str(FOLDER))
    clip: Any = scorer.parts["clip"]
    world, words = World.load(), CLIPTokenizer.from_pretrained(FOLDER)
    width, out = clip.config.vision_config.hidden_size, clip.config.projection_dim
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pool = SimPool(width, out)
    pool.project.weight.data.copy_(clip.visual_projection.weight)
    optimiser = torch.optim.AdamW(pool.parameters(), lr=lr, weight_decay=0.02)
    past = resume("simpool", pool, optimiser)
    step, clock = past.get("step", 0), Clock(minutes, past.get("seconds", 0.0))
    log = Log({"recipe": "simpool", "groups": groups, "lr": lr, "minutes": minutes}, past.get("curve", []))
    due = every(30)
    while clock.part < 1:
        plans, said, true = scenes(world, np.random.default_rng((seed + 2, step)), groups, 0.95, 0.2, CLOSE)
        pictures = signed([world.draw(plan)[0] for plan in plans])
        with torch.no_grad():
            texts = clip.get_text_features(ids(words, [text for text, _, _ in said])).pooler_output.float()
        logits = 20 * F.normalize(texts, dim=-1) @ pool(features(clip, pictures)).T
        error = contrast(logits, true)
        optimiser.zero_grad()
        error.backward()
        for group in optimiser.param_groups:
            group["lr"] = lr * clock.rate(step, 30, 0.5)
        optimiser.step()
        step += 1
        if due() or clock.part >= 1:
            right = true.gather(1, logits.argmax(1, keepdim=True)).float().mean().item()
            log.add(step=step, seconds=clock.seconds, loss=error.item(), right=right)
            keep("simpool", pool, optimiser, step=step, seconds=clock.seconds, curve=log.curve)
    ship(pool, scorer.digest)
    return log.curve[-1]


def ship(pool: SimPool, digest: str) -> None:
    """Save the pooling in fp16 beside the scorer, with the digest of the scorer that it belongs to."""
    weights = {name: value.detach().half().contiguous() for name, value in pool.state_dict().items()}
    save_file(weights, FOLDER / FILE, metadata={"digest": digest})
