"""Measure the GPU tier on 512 fixed prompts, and draw the contact sheet whose 64 prompts were chosen beforehand.

The prompts and their seeds follow from a seed and are kept in assets/world/prompts-gpu.json.xz. The judge answers: is
the object the likeliest of all, or (of two) are both the two likeliest and the left one further left; is the style the
likeliest. The background is the world's colour nearest to the middle of the border's pixels.
"""

from __future__ import annotations

import json
import lzma
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from workbench.blocks.drawing import Pixels
from workbench.blocks.world import World
from workbench.core.places import ASSETS
from workbench.models.judge import Judge
from workbench.training import evaluate, gpu_judge, gpu_unet
from workbench.training.gpu_loop import Kit, recipe
from workbench.training.loop import diffusers, signed

Row = dict[str, Any]
PROMPTS = ASSETS / "world" / "prompts-gpu.json.xz"
KINDS = {"seen": 224, "held-out pair": 96, "two": 96, "synonym": 96}


def row(kind: str, said: list[str], objects: list[str], look: tuple[str, str], seed: int) -> Row:
    """Make one prompt: what it says and what must be seen."""
    style, ground = look
    prompt = f"a {style} emoji of {' and '.join('a ' + word for word in said)} on a {ground} background"
    return {"prompt": prompt, "kind": kind, "objects": objects, "style": style, "background": ground, "seed": seed}


def prompts(world: World, kinds: dict[str, int] = KINDS, seed: int = 512) -> list[Row]:
    """Choose the prompts of each kind, in its number or as many as the world has, every choice drawn from `seed`."""
    draw, rows = np.random.default_rng(seed), list[Row]()
    styles = [s for s in world.styles if s not in world.split["held_out_styles"]]
    grounds, tier = list(world.backgrounds), list(world.tier)

    def add(kind: str, said: list[str], objects: list[str], ways: list[str]) -> None:
        look = (ways[int(draw.integers(len(ways)))], grounds[int(draw.integers(len(grounds)))])
        rows.append(row(kind, said, objects, look, len(rows)))

    def ways(*labels: str) -> list[str]:
        return [s for s in styles if all(world.seen(label, s) for label in labels)]

    for index in draw.permutation(len(tier))[: kinds["seen"]]:
        add("seen", [tier[index]], [tier[index]], ways(tier[index]))
    held = world.split["held_out_pairs"]
    for index in draw.permutation(len(held))[: kinds["held-out pair"]]:
        add("held-out pair", [held[index][0]], [held[index][0]], [held[index][1]])
    for _ in range(kinds["two"]):
        while True:  # one pair in a hundred has no style that both were trained in
            pair = [tier[int(i)] for i in draw.choice(len(tier), 2, replace=False)]
            if ways(*pair):
                break
        add("two", pair, pair, ways(*pair))
    # a word that names several objects has no one right answer
    names = Counter(word for thing in world.objects for word in (thing.label, *thing.synonyms))
    words = [(word, t.label) for t in world.objects if t.label in tier for word in t.synonyms if names[word] == 1]
    for index in draw.permutation(len(words))[: kinds["synonym"]]:
        word, label = words[index]
        add("synonym", [word], [label], ways(label))
    return rows


def grid(world: World, side: int = 8, seed: int = 64) -> list[Row]:
    """Choose the contact sheet, row by row: `side` objects, each in the same looks, all drawn from `seed`."""
    draw = np.random.default_rng(seed)
    styles = [s for s in world.styles if s not in world.split["held_out_styles"]]
    objects = [world.tier[int(i)] for i in draw.permutation(len(world.tier))[:side]]
    manners = [styles[int(i) % len(styles)] for i in draw.permutation(side)]
    grounds = [str(ground) for ground in draw.permutation(list(world.backgrounds))[:side]]
    looks = list(zip(manners, grounds, strict=True))
    return [
        row("sheet", [o], [o], look, 1000 + 8 * i + j) for i, o in enumerate(objects) for j, look in enumerate(looks)
    ]


def fixed(world: World) -> dict[str, list[Row]]:
    """Read the prompts, writing them the first time."""
    if not PROMPTS.exists():
        parts = {"prompts": prompts(world), "sheet": grid(world)}
        PROMPTS.write_bytes(lzma.compress(json.dumps(parts).encode(), preset=9))
    return json.loads(lzma.decompress(PROMPTS.read_bytes()))


@torch.no_grad()
def verdicts(world: World, model: Judge, pictures: Pixels, rows: list[Row]) -> list[dict[str, bool]]:
    """Say of each picture what is right; `order` only where both objects are there."""
    order = {label: index for index, label in enumerate(model.config.objects)}
    ways = (*model.config.styles, "none")
    where, answers = next(model.parameters()).device, list[dict[str, bool]]()
    for first in range(0, len(rows), 64):
        seen = model(signed(pictures[first : first + 64]).to(where))
        cells = seen.cells.softmax(1)
        for index, asked in enumerate(rows[first : first + 64]):
            labels = [order[label] for label in asked["objects"]]
            likeliest = seen.objects[index].topk(len(labels)).indices.tolist()
            answer = {"both" if len(labels) > 1 else "object": set(likeliest) == set(labels)}
            if answer.get("both"):
                left, right = (centre(cells[index, label]) for label in labels)
                answer["order"] = left < right
            answer["style"] = ways[int(seen.styles[index].argmax())] == asked["style"]
            answer["background"] = ground(world, pictures[first + index]) == asked["background"]
            answers.append(answer)
    return answers


def centre(belief: Tensor) -> float:
    """Return the column about which a map [H, W] of probabilities lies."""
    columns = belief.sum(0)
    return float((columns * torch.arange(len(columns), device=columns.device)).sum() / columns.sum())


def ground(world: World, picture: Pixels) -> str:
    """Name the colour of a picture's border."""
    border = np.concatenate([picture[:4].reshape(-1, 3), picture[-4:].reshape(-1, 3),
                             picture[:, :4].reshape(-1, 3), picture[:, -4:].reshape(-1, 3)])  # fmt: skip
    middle = np.median(border.astype(float), 0)
    return min(world.backgrounds, key=lambda name: float(np.abs(middle - world.backgrounds[name]).sum()))


def fit(kit: Kit, *, steps: int = 20, scale: float = 4.0, batch: int = 64, count: int = 0) -> dict[str, Any]:
    """Draw and judge the fixed prompts (the first `count` of them; 0 for all); sheet and numbers go to `out`."""
    asked = {"prompts": prompts(kit.world), "sheet": grid(kit.world)} if kit.rig.objects else fixed(kit.world)
    rows, cards = asked["prompts"][: count or None], asked["sheet"][: count or None]
    pipe: Any = diffusers.StableDiffusionPipeline.from_pretrained(kit.folder / gpu_unet.FAMILY)
    pipe.to(kit.device)
    pictures = evaluate.sample(pipe, rows + cards, steps, scale, batch)
    model = Judge.load(kit.folder / gpu_judge.PLACE).to(kit.device)
    answers = verdicts(kit.world, model, pictures[: len(rows)], rows)
    numbers = {"steps": steps, "scale": scale, "count": len(rows), **evaluate.summary(rows, answers)}
    text = json.dumps(numbers, indent=1) + "\n"
    (kit.folder / gpu_unet.FAMILY / "evaluation.json").write_text(text, encoding="utf-8")
    if kit.rig.out:
        folder = Path(kit.rig.out)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "evaluation.json").write_text(text, encoding="utf-8")
        evaluate.sheet(pictures[len(rows) :], 8).save(folder / "sheet.png")
    return numbers


train = recipe(fit)
