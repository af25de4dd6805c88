"""Train the GPU tier's scorer: its text tower on the truth of scenes, then its vision tower on pictures of them.

Losses, shapes and words are those of the CPU tier (scorer.py); what differs is that every training object counts alike.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPModel

from workbench.blocks.world import Plan
from workbench.training import scorer
from workbench.training.feed import Batch, close, sentence, tokens
from workbench.training.gpu_loop import Course, Kit, learn, past, recipe
from workbench.training.stage import coded

PLACE = Path("emoji-scorer")


def opened(kit: Kit) -> Any:
    """Load the towers being made, in fp32, onto the device."""
    model: Any = CLIPModel.from_pretrained(kit.folder / PLACE).float()
    return model.to(kit.device)


def answers(batch: Batch) -> Tensor:
    """Say which caption [row] is true of which scene [column]: all that it names is there."""
    codes, (named, grounded) = batch.codes, batch.told.unbind(1)
    same = (codes.objects[:, None] == codes.objects[None]).all(-1)
    style = (codes.styles[:, None] == codes.styles[None]) | ~named[:, None]
    return same & style & ((codes.grounds[:, None] == codes.grounds[None]) | ~grounded[:, None])


def parts(batch: Batch, none: int) -> Tensor:
    """Return [B, 4]: left object, right object (or none), style, ground, as `scorer.Truth` counts them."""
    codes = batch.codes
    objects = torch.where(codes.objects < 0, none, codes.objects)
    return torch.cat([objects, codes.styles[:, None], codes.grounds[:, None]], 1)


def fit(kit: Kit, *, minutes: float = 2.0, text: float = 0.9, batch: int = 1024, lr: float = 1e-3) -> dict[str, Any]:
    """Train the text tower for `text` of the `minutes`, then the vision tower for the rest."""
    said = past(kit.folder / PLACE, "gpu-scorer, text", "training-text.json")
    if not said.get("complete"):
        said = read(kit, text, batch, lr, said)
    if not said["complete"]:
        return said
    return see(kit, minutes - text, batch, lr)


def read(kit: Kit, minutes: float, batch: int, lr: float, before: dict[str, Any]) -> dict[str, Any]:
    """Train the text tower against the truth of scenes, and ship it with vision untrained."""
    model = opened(kit) if before else scorer.build(kit.words).to(kit.device)
    truth = scorer.Truth(kit.world).to(kit.device)
    both = nn.ModuleList([model.text_model, model.text_projection, truth])
    feed = kit.feed(close, batch, said=True, start=before.get("step", 0))

    def miss() -> Tensor:
        row = next(feed)
        codes = parts(row, len(truth.objects))
        with kit.cast():
            out = model.text_model(input_ids=row.ids)
            vectors = model.text_projection(out.pooler_output)
        kept = (row.ids != kit.words.eos_token_id).float()[..., None]
        states = (out.last_hidden_state.float() * kept).sum(1) / kept.sum(1)
        logits = 20 * F.normalize(vectors.float(), dim=-1) @ F.normalize(truth(codes), dim=-1).T
        return scorer.contrast(logits, answers(row)) + 0.5 * truth.reading(states, codes, row.told)

    course = Course(minutes, lr)
    facts = {"recipe": "gpu-scorer, text"}
    log, spent = learn(kit, course, both, miss, batch=batch, before=before, facts=facts, feed=feed)
    folder = kit.folder / PLACE
    scorer.ship(model.cpu(), kit.words, folder)
    log.write(folder, **spent)
    (folder / "training.json").replace(folder / "training-text.json")
    return spent


def see(kit: Kit, minutes: float, batch: int, lr: float) -> dict[str, Any]:
    """Train the vision tower to agree with the frozen text tower, and ship both."""
    folder = kit.folder / PLACE
    before, model = past(folder, "gpu-scorer, vision"), opened(kit)
    model.text_model.requires_grad_(False)
    model.text_projection.requires_grad_(False)
    truth = scorer.Truth(kit.world, model.config.vision_config.hidden_size).to(kit.device)
    vision = nn.ModuleList([model.vision_model, model.visual_projection, truth.heads])
    feed = kit.feed(close, batch, said=True, full=True, start=10**6 + before.get("step", 0))

    def miss() -> Tensor:
        row = next(feed)
        pictures = scorer.spoil(kit.stage.compose(row.codes)[0], kit.generator)
        with torch.no_grad(), kit.cast():
            both = model.text_projection(model.text_model(input_ids=torch.cat([row.ids, row.full])).pooler_output)
        texts, goal = F.normalize(both.float(), dim=-1).chunk(2)
        with kit.cast():
            states = model.vision_model(pixel_values=pictures).pooler_output
            seen = model.visual_projection(states)
        seen = F.normalize(seen.float(), dim=-1)
        known = truth.reading(states.float(), parts(row, len(truth.objects)), torch.ones_like(row.told))
        likeness = (seen * goal).sum(1).mean()
        return scorer.contrast(20 * texts @ seen.T, answers(row)) + 4 * (1 - likeness) + 0.5 * known

    course = Course(minutes, lr)
    facts = {"recipe": "gpu-scorer, vision"}
    log, spent = learn(kit, course, vision, miss, batch=batch, before=before, facts=facts, feed=feed)
    final = measure(kit, model.eval())
    scorer.ship(model.cpu(), kit.words, folder)
    log.write(folder, **final, **spent)
    return {**final, **spent}


@torch.no_grad()
def measure(kit: Kit, model: Any, count: int = 1024) -> dict[str, float]:
    """Name the object of fixed jittered drawings among all of training, style and ground being given, and bare."""
    draw, world = np.random.default_rng(77), kit.world
    plans = [world.plan(draw, two=0.0) for _ in range(count if not kit.rig.most else 8)]
    pictures = kit.stage.compose(coded(world, plans).to(kit.device))[0]
    seen = torch.cat([model.get_image_features(part).pooler_output for part in pictures.split(256)])
    goals = torch.tensor([world.tier.index(p.objects[0]) for p in plans], device=kit.device)

    def best(texts: list[str]) -> Tensor:
        known = [model.get_text_features(tokens(kit.words, texts[i : i + 512]).to(kit.device)).pooler_output
                 for i in range(0, len(texts), 512)]  # fmt: skip
        return (seen @ F.normalize(torch.cat(known), dim=-1).T).argmax(1)

    right = torch.zeros(len(plans), dtype=torch.bool, device=kit.device)
    for way in {(p.style, p.background) for p in plans}:
        named = best([sentence(Plan((label,), *way, ())) for label in world.tier])
        own = torch.tensor([(p.style, p.background) == way for p in plans], device=kit.device)
        right |= own & (named == goals)
    bare = best([f"a {label}" for label in world.tier]) == goals
    return {"object": round(right.float().mean().item(), 4), "object_bare": round(bare.float().mean().item(), 4)}


train = recipe(fit)
