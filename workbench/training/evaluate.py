"""Measure the shipped family on fixed prompts, and lay the pictures out on a contact sheet to look at."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer

from workbench.blocks.drawing import Pixels
from workbench.blocks.world import World
from workbench.core.places import ASSETS
from workbench.models.judge import Judge
from workbench.training import scorer
from workbench.training.judge import FOLDER as JUDGE
from workbench.training.loop import diffusers, signed
from workbench.training.unet import FOLDER, assemble


def prompts(world: World, seed: int = 128) -> list[dict[str, Any]]:
    """Choose 128 prompts: 96 seen pairs (every object of the tier), 16 held-out pairs, 16 of two objects."""
    draw = np.random.default_rng(seed)
    styles = [s for s in world.styles if s not in world.split["held_out_styles"]]
    rows: list[dict[str, Any]] = []

    def add(kind: str, objects: list[str], style: str) -> None:
        ground = str(draw.choice(list(world.backgrounds)))
        said = f"a {style} emoji of {' and '.join('a ' + o for o in objects)} on a {ground} background"
        rows.append(
            {"prompt": said, "kind": kind, "objects": objects, "style": style, "background": ground, "seed": len(rows)}
        )

    order = [str(o) for o in draw.permutation(world.tier)]
    for index, label in enumerate(order + order[: 96 - len(order)]):
        ways = [s for s in styles if world.seen(label, s)]
        add("seen", [label], ways[(index + index // len(order)) % len(ways)])
    held = [(o, s) for o, s in world.split["held_out_pairs"] if o in world.tier]
    for index in draw.choice(len(held), min(16, len(held)), replace=False):
        add("held-out pair", [held[index][0]], held[index][1])
    while len(rows) < 128:
        left, right = (str(o) for o in draw.choice(world.tier, 2, replace=False))
        ways = [s for s in styles if world.seen(left, s) and world.seen(right, s)]
        add("two", [left, right], ways[int(draw.integers(len(ways)))])
    return rows


def fixed(world: World) -> list[dict[str, Any]]:
    """Read assets/world/prompts.json, writing it the first time."""
    path = ASSETS / "world" / "prompts.json"
    if not path.exists():
        rows = ",\n".join(json.dumps(row) for row in prompts(world))
        path.write_text(f"[\n{rows}\n]\n", encoding="utf-8")
    return json.loads(path.read_text("utf-8"))


@torch.no_grad()
def sample(pipe: Any, rows: list[dict[str, Any]], steps: int, scale: float, batch: int = 16) -> Pixels:
    """Draw each row's prompt from its own seed: uint8 [N, H, W, 3]."""
    pipe.set_progress_bar_config(disable=True)
    made = []
    for first in range(0, len(rows), batch):
        part = rows[first : first + batch]
        generators = [torch.Generator().manual_seed(row["seed"]) for row in part]
        made.append(pipe([row["prompt"] for row in part], num_inference_steps=steps, guidance_scale=scale,
                         generator=generators, output_type="np").images)  # fmt: skip
    return np.rint(np.concatenate(made) * 255).astype(np.uint8)


def named(world: World, pictures: Pixels, rows: list[dict[str, Any]]) -> list[dict[str, bool]]:
    """Ask the scorer for the object, style and background of each picture, the other two parts being given."""
    model = CLIPModel.from_pretrained(scorer.FOLDER).float().eval()
    namer = scorer.Namer(model, CLIPTokenizer.from_pretrained(scorer.FOLDER), world)
    vectors = namer.see(signed(pictures))
    return [namer.answers(r["objects"], r["style"], r["background"], v) for r, v in zip(rows, vectors, strict=True)]


@torch.no_grad()
def judged(world: World, pictures: Pixels, rows: list[dict[str, Any]]) -> list[dict[str, bool]]:
    """Ask the judge, who knows all 738 objects and "none": is the likeliest one, or on each side, that asked for?"""
    model = Judge.load(JUDGE)
    verdicts = [model(part) for part in signed(pictures).split(64)]
    objects, styles = torch.cat([v.objects for v in verdicts]), torch.cat([v.styles for v in verdicts])
    left, right = sides(torch.cat([v.cells for v in verdicts]))
    answers = []
    for index, row in enumerate(rows):
        found = [int(left[index]), int(right[index])] if len(row["objects"]) == 2 else [int(objects[index].argmax())]
        asked = [world.concepts.index(label) for label in row["objects"]]
        answer = {"judge object": sorted(found) == sorted(asked)}
        answer["judge style"] = world.styles.index(row["style"]) == int(styles[index].argmax())
        if len(asked) == 2:
            answer |= {"judge order": found == asked, "judge one of them": bool({*found} & {*asked})}
        answers.append(answer)
    return answers


def sides(cells: Float[Tensor, "B O 8 8"]) -> tuple[Int[Tensor, " B"], Int[Tensor, " B"]]:
    """Name the object that most cells speak for in the left and in the right half; "none", the last, has no vote."""
    votes = cells.float().softmax(1)[:, :-1]
    middle = votes.shape[-1] // 2
    return votes[..., :middle].sum((2, 3)).argmax(1), votes[..., middle:].sum((2, 3)).argmax(1)


def summary(rows: list[dict[str, Any]], answers: list[dict[str, bool]]) -> dict[str, float]:
    """Average the answers over each kind of prompt, and over each style for single objects."""
    table: dict[str, list[bool]] = defaultdict(list)
    for row, answer in zip(rows, answers, strict=True):
        for part, right in answer.items():
            table[f"{row['kind']} {part}"].append(right)
        if row["kind"] == "seen":
            for part in ("object", "style", "judge object", "judge style"):
                if part in answer:
                    table[f"{row['style']} {part}"].append(answer[part])
    return {key: round(float(np.mean(values)), 4) for key, values in table.items()}


def sheet(pictures: Pixels, columns: int = 16) -> Image.Image:
    """Lay pictures [N, H, W, 3] out in rows."""
    blank = np.full_like(pictures[:1], 255)
    padded = np.concatenate([pictures, np.repeat(blank, -len(pictures) % columns, 0)])
    rows = [np.concatenate(list(padded[i : i + columns]), 1) for i in range(0, len(padded), columns)]
    return Image.fromarray(np.concatenate(rows, 0))


def train(
    out: str = "", steps: int = 20, scale: float = 5.0, checkpoint: bool = False, threads: int = 2, count: int = 128
) -> dict[str, Any]:
    """Sample the fixed prompts with the shipped family (or the last checkpoint); write sheets and numbers to `out`.

    The contact sheet is the first sixteen prompts, whatever they show.
    """
    torch.set_num_threads(threads)
    world = World.load()
    rows = fixed(world)[:count]
    pipe = assemble() if checkpoint else diffusers.StableDiffusionPipeline.from_pretrained(FOLDER)
    pictures = sample(pipe, rows, steps, scale)
    answers = named(world, pictures, rows)
    if (JUDGE / "config.json").exists():
        answers = [{**a, **b} for a, b in zip(answers, judged(world, pictures, rows), strict=True)]
    numbers = {"steps": steps, "scale": scale, "count": len(rows), **summary(rows, answers)}
    if out:
        folder = Path(out)
        folder.mkdir(parents=True, exist_ok=True)
        sheet(pictures).save(folder / "sheet.png")
        sheet(pictures[:16], 8).save(folder / "contact-sheet.webp", quality=90)
        (folder / "evaluation.json").write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    return numbers
