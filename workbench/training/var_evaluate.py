"""Measure emoji-var: what the judge names in its pictures of seen pairs, drawn by one network and by two."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from workbench.blocks.world import Plan, World
from workbench.models.judge import Judge
from workbench.models.var import VARPipeline
from workbench.training import var_vq
from workbench.training.judge import FOLDER as JUDGE
from workbench.training.var import Vectors, plain

FOLDER = var_vq.FOLDER
SEED = 20_000
#: How the shipped model draws when nothing else is asked.
GUIDANCE, TOP_P = 4.0, 0.95


def load() -> VARPipeline:
    """The shipped pipeline in float32."""
    pipe: Any = VARPipeline.from_pretrained(FOLDER)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def asked(world: World, about: var_vq.Subject, seeds: int) -> list[Plan]:
    """Every pair of an object and a style, `seeds` times, on backgrounds that follow from the place in the list."""
    plans: list[Plan] = []
    for turn in range(seeds):
        for label in about.objects:
            for style in about.styles:
                draw = np.random.default_rng((SEED, turn, len(plans)))
                plans.append(world.plan(draw, [label], [style], two=0.0, jitter=var_vq.JITTER))
    return plans


@torch.no_grad()
def draw(pipe: Any, vectors: Tensor, split: int | None = None, **settings: Any) -> Tensor:
    """Pictures [N, 3, 64, 64] in -1..1 of text vectors [N, E], one generator each."""
    made = []
    for rows in torch.arange(len(vectors)).split(16):
        generators = [torch.Generator().manual_seed(int(row)) for row in rows]
        out = pipe(prompt_embeds=vectors[rows], generator=generators, split=split, output_type="pt", **settings)
        made.append(out.images * 2 - 1)
    return torch.cat(made)


@torch.no_grad()
def judged(judge: Any, world: World, pictures: Tensor, plans: list[Plan]) -> dict[str, float]:
    """Shares of pictures [N, 3, H, W] in -1..1 whose object and style the judge names first."""
    objects, styles = list(judge.config.objects), list(judge.config.styles)
    seen = [judge(part) for part in pictures.split(32)]
    said = torch.cat([v.objects for v in seen]).argmax(1), torch.cat([v.styles for v in seen]).argmax(1)
    right = torch.tensor([objects.index(plan.objects[0]) for plan in plans])
    manner = torch.tensor([styles.index(plan.style) for plan in plans])
    return {"object": round(float((said[0] == right).float().mean()), 4),
            "style": round(float((said[1] == manner).float().mean()), 4)}  # fmt: skip


def train(*, seeds: int = 2, threads: int = 1, sheet: str = "") -> dict[str, Any]:
    """Judge true drawings, their reconstructions, and pictures of the drafter alone and with the refiner from scale 5.

    The numbers go to assets/models/emoji-var/evaluation.json, and `sheet` is a file for a sheet of pictures.
    """
    torch.set_num_threads(threads)
    world, pipe, judge = World.load(), load(), Judge.load(JUDGE)
    about = var_vq.subject(world, "cpu")
    plans = asked(world, about, seeds)
    vectors = Vectors(torch.device("cpu"))([plain(plan) for plan in plans])
    true = var_vq.pictures(var_vq.drawn(world, plans, torch.device("cpu")), torch.arange(len(plans)))
    with torch.no_grad():
        parts = [pipe.vq.decode(pipe.vq.quantise(pipe.vq.encode(part)).prefixes[-1]) for part in true.split(16)]
    found = {
        "true drawings": true, "reconstructions": torch.cat(parts),
        "var": draw(pipe, vectors, guidance_scale=GUIDANCE, top_p=TOP_P),
    }  # fmt: skip
    if pipe.refiner is not None:
        found["code, split 4"] = draw(pipe, vectors, split=4, guidance_scale=GUIDANCE, top_p=TOP_P)
    result = {name: judged(judge, world, pictures, plans) for name, pictures in found.items()}
    facts = {"pictures": len(plans), "guidance": GUIDANCE, "top_p": TOP_P, "judge": "emoji-judge, top-1 of all objects"}
    text = json.dumps({**facts, "judged": result}, indent=1)
    (FOLDER / "evaluation.json").write_text(text + "\n", encoding="utf-8")
    if sheet:
        save_sheet(found, Path(sheet), len(about.objects) * len(about.styles))
    return result


def save_sheet(found: dict[str, Tensor], path: Path, count: int, columns: int = 16) -> None:
    """Lay out the first `count` pictures of each kind, one kind below the other."""
    blocks = []
    for pictures in found.values():
        rows = pictures[:count].split(columns)
        blocks += [torch.cat(list(row), 2) for row in rows if len(row) == columns]
    whole = torch.cat(blocks, 1).permute(1, 2, 0)
    Image.fromarray(((whole + 1) * 127.5).clamp(0, 255).round().byte().numpy()).save(path)
