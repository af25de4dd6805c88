"""Fit the shipped adapters on the shipped default: four held-out objects and the held-out style, 8 pictures each.

Each is an ordinary run of the method `fit-lora`, saved as peft lays adapters out, in fp16, with the digest of the model
it belongs to and what the judge sees in pictures drawn with it.
"""

from __future__ import annotations

import time
from typing import Any

import torch

from workbench.blocks.adapter_files import SHIPPED, TRAINING, write
from workbench.blocks.adapters import attach
from workbench.blocks.denoise import Course, draw
from workbench.blocks.disk import read_json
from workbench.blocks.gates import scalar
from workbench.blocks.judging import Eye, concept
from workbench.blocks.terms.examples import Words, gathered
from workbench.blocks.world import World
from workbench.core.ask import Ask
from workbench.core.bundle import Bundle
from workbench.core.catalog import method
from workbench.core.method import Edit
from workbench.core.patch import Patch
from workbench.core.tape import Step, Tap, ignore
from workbench.models.load import load
from workbench.ops.low_rank import LowRank

#: What is learned and the word that calls it, which the text tower has never read.
TRIGGERS = {"amphora": "sks", "pick": "zwx", "briefcase": "vlo", "bathtub": "quib", "emojione": "emjo"}
PIECE = 8


def said(world: World, name: str, trigger: str, count: int) -> tuple[list[str], list[str]]:
    """Prompts that call an adapter, and the word that the judge should answer to each."""
    grounds = list(world.backgrounds)
    styles = [style for style in world.styles if style not in world.split["held_out_styles"]]
    if name in world.styles:
        things = [world.tier[(7 * index) % len(world.tier)] for index in range(count)]
        return [f"an emoji of a {thing}, {trigger}" for thing in things], [name] * count
    rows = [(styles[index % len(styles)], grounds[index % len(grounds)]) for index in range(count)]
    return [f"a {style} emoji of a {trigger} on a {ground} background" for style, ground in rows], [name] * count


@torch.no_grad()
def accuracy(bundle: Bundle, low_rank: LowRank, name: str, trigger: str, count: int = 24, steps: int = 20) -> float:
    """The share of pictures drawn with an adapter in which the judge's first answer is its object, or its style."""
    eye, world = Eye(bundle), World.load()
    prompts, _ = said(world, name, trigger, count)
    hits = 0
    with Patch(bundle) as patch:
        attach(patch, bundle, low_rank, scalar(1.0))
        for start in range(0, count, PIECE):
            asked = Ask(prompts=prompts[start : start + PIECE], seeds=range(start, min(start + PIECE, count)))
            images = draw(bundle, asked, ignore, Course("dpm++", steps, 5.0))
            hits += int(eye.shows(eye.look(images, 0), concept(world, name)).sum())
    return hits / count


def ceiling(bundle: Bundle, name: str, count: int) -> float:
    """The share of true drawings of an object or style that the judge names rightly."""
    eye, world = Eye(bundle), World.load()
    examples = gathered(bundle, [name], [], Words("sks"), drawings=(count, 1))
    return float(eye.shows(eye.look(examples.pictures, 0), concept(world, name)).float().mean())


def fit(
    bundle: Bundle, name: str, settings: dict[str, Any], judged: int = 24, tell: Tap = ignore
) -> dict[str, Any]:  # fmt: skip
    """Fit one adapter, judge it, and write it where shipped adapters lie; what is told of it."""
    trigger = TRIGGERS.get(name, "sks")
    edit = method("fit-lora", pictures=[name], trigger=trigger, **settings)
    if not isinstance(edit, Edit):
        raise TypeError(f"{edit.card.name} is no edit.")
    there = read_json(SHIPPED / name / TRAINING) or {}
    if there.get("base") == bundle.digest and there.get("settings") == edit.to_json():
        return there
    started = time.monotonic()
    delta = edit.fit(bundle, tell)
    seconds = time.monotonic() - started
    low_rank = LowRank.from_delta(delta)
    low_rank = LowRank({key: (up.half().float(), down.half().float()) for key, (up, down) in low_rank.factors.items()})
    eye = bundle.open("emoji-judge")
    kind = "style" if name in World.load().styles else "object"
    facts = {
        "base": bundle.digest, "model": bundle.name, "trigger": trigger, kind: name, "recipe": "adapters",
        "settings": edit.to_json(), "seconds": round(seconds, 1), "device": str(bundle.device),
        "judge": {
            "name": eye.name, "digest": eye.digest, "pictures": judged, "steps": 20,
            "accuracy": round(accuracy(bundle, low_rank, name, trigger, judged), 4),
            "true drawings": round(ceiling(bundle, name, judged), 4),
        },
    }  # fmt: skip
    write(low_rank, SHIPPED / name, dtype=torch.float16, base=bundle.digest, training=facts)
    return facts


def train(
    names: list[str] | str = "", *, rank: int = 4, iterations: int = 300, batch: int = 8, rate: float = 2e-3,
    group: str = "attention", count: int = 8, judged: int = 24, threads: int = 1) -> dict[str, Any]:  # fmt: skip
    """Fit the adapters of some names, or all of them; those that are there, of these settings, are left as they are."""
    torch.set_num_threads(threads)
    wanted = [names] if isinstance(names, str) and names else list(names) or list(TRIGGERS)
    bundle = load()
    done: dict[str, Any] = {}
    for name in wanted:

        def tell(step: Step, name: str = name) -> None:
            if step.index % 25 == 24:
                print(f"{name}: step {step.index + 1} of {step.total}", flush=True)

        settings = {"rank": rank, "iterations": iterations, "batch": batch, "rate": rate, "group": group,
                    "count": count}  # fmt: skip
        done[name] = fit(bundle, name, settings, judged, tell)
        print(f"{name}: {done[name]['judge']}, {done[name]['seconds']:.0f} s", flush=True)
    return done
