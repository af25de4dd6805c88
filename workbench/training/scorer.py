"""Train the scorer: a small CLIP whose text tower, frozen afterwards, is also the denoiser's text encoder.

The text tower comes first and learns against the truth of scenes (which objects, style, background), in minutes where
pixels would take an hour; the vision tower then learns to agree with it. Each batch holds scenes and their near
misses (another style, another background, another object or the other order), and a caption counts as true of every
scene in the batch that it describes, so that leaving a part out is never punished.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

from workbench.blocks.world import Jitter, Plan, World
from workbench.training.loop import MODELS, Clock, Log, every, keep, resume, signed

FOLDER = MODELS / "emoji-scorer"
TOWER = MODELS / "emoji-unet" / "text_encoder" / "model.safetensors"
WIDTH = 160
CLOSE = Jitter(single=(0.78, 0.92), shift=0.03, loose=0.08)
PIECES = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
PLAIN = re.findall(
    r"\w+",
    """
    a picture of an image photo drawing icon illustration with the in on and or without no not left right side
    big small two three person man woman nude violence blood weapon gun painting style background animal animals
    food fruit vehicle colour color white black red blue green yellow purple pink orange brown gray grey
    """,
)


def vocabulary(world: World, size: int = 2048) -> Any:
    """Learn a byte-level BPE of at most `size` tokens from captions, labels and synonyms."""
    draw = np.random.default_rng(0)
    lines = list(PLAIN) * 40
    for thing in world.objects:
        lines += [thing.label] * (40 if thing.label in world.tier else 8)
        lines += [word for word in thing.synonyms for _ in range(20 if thing.label in world.tier else 4)]
    for index in range(2000):
        plan = world.plan(np.random.default_rng((5, index)), objects=world.tier)
        lines.append(world.caption(draw, plan.objects, plan.style, plan.background))
    lines += [*world.styles, "emoji", "background", *world.backgrounds] * 200
    learner = Tokenizer(models.BPE(continuing_subword_prefix="", end_of_word_suffix="</w>"))
    learner.normalizer = normalizers.Lowercase()
    split = pre_tokenizers.Split(Regex(PIECES), behavior="removed", invert=True)
    learner.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=2 * size, initial_alphabet=alphabet, end_of_word_suffix="</w>", min_frequency=2, show_progress=False
    )
    learner.train_from_iterator(lines, trainer)
    # every byte, inside and at the end of a word, is a token: nothing is ever unknown
    tokens = alphabet + [letter + "</w>" for letter in alphabet]
    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]][: size - len(tokens) - 2]
    tokens += list(dict.fromkeys("".join(pair) for pair in merges))
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    kind: Any = CLIPTokenizer
    return kind(vocab={t: i for i, t in enumerate(tokens)}, merges=merges, model_max_length=77)


def save_words(words: Any, folder: Path) -> None:
    """Write the tokenizer with vocab.json and merges.txt beside it, which older readers need."""
    words.backend_tokenizer.no_padding()
    words.backend_tokenizer.no_truncation()
    words.save_pretrained(folder)
    marks = {"bos_token": words.bos_token, "eos_token": words.eos_token, "unk_token": words.unk_token}
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "pad_token": words.pad_token, **marks}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    model = json.loads(words.backend_tokenizer.to_str())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False) + "\n", encoding="utf-8")
    rows = [" ".join(pair) for pair in model["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *rows]) + "\n", encoding="utf-8")


def build(words: Any) -> Any:
    """Make an untrained CLIP: text 160 wide, 4 layers; vision a ViT on 128 px, patches of 16."""
    marks = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id}
    text = {
        "vocab_size": len(words), "hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_hidden_layers": 4,
        "num_attention_heads": 5, "max_position_embeddings": 77, "projection_dim": WIDTH, **marks,
    }  # fmt: skip
    vision = {
        "hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 4, "num_attention_heads": 6,
        "image_size": 128, "patch_size": 16, "projection_dim": WIDTH,
    }  # fmt: skip
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH))


def near(world: World, draw: np.random.Generator, base: Plan) -> list[Plan]:
    """Return a scene and three near misses: another style, another background, another object (or the other order)."""
    styles = [s for s in world.styles if s != base.style and all(world.seen(o, s) for o in base.objects)]
    grounds = [g for g in world.backgrounds if g != base.background]
    plans = [base, replace(base, background=grounds[draw.integers(len(grounds))])]
    if styles:
        plans.append(replace(base, style=styles[draw.integers(len(styles))]))
    if len(base.objects) == 2 and draw.random() < 0.6:
        return [*plans, replace(base, objects=base.objects[::-1])]
    others = [o for o in world.tier if o not in base.objects and world.seen(o, base.style)]
    return [*plans, replace(base, objects=(others[draw.integers(len(others))], *base.objects[1:]))]


def spoil(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Soften and grain a third of the pictures [B, 3, H, W], as a denoiser's are."""
    soft = F.interpolate(F.avg_pool2d(pictures, 2), scale_factor=2.0, mode="bilinear")
    where = {"generator": generator, "device": pictures.device}
    soft = soft + 0.1 * torch.randn(soft.shape, **where)
    return torch.where(torch.rand(len(pictures), 1, 1, 1, **where) < 0.33, soft, pictures)


def contrast(logits: Tensor, truth: Tensor) -> Tensor:
    """Cross-entropy both ways over [text, picture] logits, each row's truth shared evenly among what is true."""
    true = truth.float()
    rows = -(true / true.sum(1, keepdim=True) * logits.log_softmax(1)).sum(1).mean()
    columns = -(true / true.sum(0, keepdim=True) * logits.log_softmax(0)).sum(0).mean()
    return (rows + columns) / 2


def ids(words: Any, texts: list[str]) -> Tensor:
    """Return token ids [B, L], padded with the end mark to the longest."""
    return words(texts, padding=True, truncation=True, return_tensors="pt").input_ids


class Namer:
    """Names the parts of pictures by comparing them with captions that differ in one part; captions are read once."""

    def __init__(self, model: Any, words: Any, world: World) -> None:
        self.model, self.words, self.world = model, words, world
        self.styles = [s for s in world.styles if s not in world.split["held_out_styles"]]
        self.known: dict[str, Tensor] = {}

    @torch.no_grad()
    def see(self, pictures: Tensor) -> Tensor:
        """Return unit vectors [B, D] of pictures [B, 3, 128, 128] in -1..1."""
        parts = [self.model.get_image_features(part).pooler_output for part in pictures.split(64)]
        return F.normalize(torch.cat(parts).float(), dim=-1)

    @torch.no_grad()
    def best(self, texts: list[str], vector: Tensor) -> int:
        """Return which caption fits best."""
        new = [text for text in texts if text not in self.known]
        if new:
            vectors = self.model.get_text_features(ids(self.words, new)).pooler_output.float()
            self.known.update(zip(new, F.normalize(vectors, dim=-1), strict=True))
        return int((torch.stack([self.known[text] for text in texts]) @ vector).argmax())

    def answers(self, objects: list[str], style: str, ground: str, vector: Tensor) -> dict[str, bool]:
        """Say which of object (the first), style and background are named right, the other parts being given."""
        said = " and ".join("a " + o for o in objects)
        rest = "".join(f" and a {o}" for o in objects[1:])
        tier, grounds = self.world.tier, list(self.world.backgrounds)
        names = [f"a {style} emoji of a {o}{rest} on a {ground} background" for o in tier]
        manners = [f"a {s} emoji of {said} on a {ground} background" for s in self.styles]
        behind = [f"a {style} emoji of {said} on a {g} background" for g in grounds]
        return {
            "object": tier[self.best(names, vector)] == objects[0],
            "style": self.styles[self.best(manners, vector)] == style,
            "background": grounds[self.best(behind, vector)] == ground,
        }


def measure(model: Any, words: Any, world: World, count: int = 192) -> dict[str, Any]:
    """Name the parts of fixed true drawings of one object; top-1, also per style, and with the bare words "a cat"."""
    model.eval()
    draw, namer = np.random.default_rng(77), Namer(model, words, world)
    plans = [world.plan(draw, objects=world.tier, two=0.0) for _ in range(count)]
    rows = []
    for plan, vector in zip(plans, namer.see(signed([world.draw(p)[0] for p in plans])), strict=True):
        row = namer.answers(list(plan.objects), plan.style, plan.background, vector)
        bare = world.tier[namer.best([f"a {o}" for o in world.tier], vector)] == plan.objects[0]
        rows.append({**row, "object_bare": bare})
    model.train()
    final = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
    for style in namer.styles:
        own = [row["object"] for row, plan in zip(rows, plans, strict=True) if plan.style == style]
        final[f"object_{style}"] = float(np.mean(own))
    return {key: round(value, 4) for key, value in final.items()}


class Truth(nn.Module):
    """Embeds what a scene is made of, and reads the same back from text states: the text tower's teacher."""

    def __init__(self, world: World, width: int = WIDTH) -> None:
        super().__init__()
        self.objects = {label: i for i, label in enumerate(world.concepts)}
        self.sizes = (len(self.objects) + 1, len(self.objects) + 1, len(world.styles), len(world.backgrounds))
        self.world = world
        self.tables = nn.ModuleList(nn.Embedding(size, 64) for size in self.sizes)
        self.mix = nn.Sequential(nn.Linear(256, 512), nn.GELU(), nn.Linear(512, WIDTH))
        # one more class in each: what the caption leaves open
        self.heads = nn.ModuleList(nn.Linear(width, size + 1) for size in self.sizes)

    def codes(self, plans: list[Plan]) -> Tensor:
        """Return [B, 4]: left object, right object (or none), style, background."""
        none, grounds = len(self.objects), list(self.world.backgrounds)
        return torch.tensor([
            [self.objects[p.objects[0]], self.objects[p.objects[1]] if len(p.objects) > 1 else none,
             self.world.styles.index(p.style), grounds.index(p.background)] for p in plans
        ])  # fmt: skip

    def forward(self, codes: Tensor) -> Tensor:
        """Return scene vectors [B, D]."""
        return self.mix(torch.cat([table(codes[:, i]) for i, table in enumerate(self.tables)], 1))

    def reading(self, states: Tensor, codes: Tensor, told: Tensor) -> Tensor:
        """Cross-entropy of the parts read from states [B, D]; `told` [B, 2]: are style and background said."""
        goal = codes.clone()
        for column, size in ((2, self.sizes[2]), (3, self.sizes[3])):
            goal[:, column] = torch.where(told[:, column - 2], goal[:, column], size)
        return sum((F.cross_entropy(head(states), goal[:, i]) for i, head in enumerate(self.heads)), torch.zeros(()))


def scenes(
    world: World,
    draw: np.random.Generator,
    groups: int,
    tier: float = 0.8,
    two: float = 0.3,
    jitter: Jitter | None = None,
) -> tuple[list[Plan], list[tuple[str, bool, bool]], Tensor]:
    """Choose about four scenes a group, their captions, and which caption [row] is true of which scene [column]."""
    plans: list[Plan] = []
    for _ in range(groups):
        pool = world.tier if draw.random() < tier else None
        plans += near(world, draw, world.plan(draw, pool, two=two, jitter=jitter or Jitter()))
    said = [world.say(draw, p.objects, p.style, p.background) for p in plans]
    true = [
        [
            p.objects == q.objects and (p.style == q.style or not n) and (p.background == q.background or not g)
            for q in plans
        ]
        for p, (_, n, g) in zip(plans, said, strict=True)
    ]
    return plans, said, torch.tensor(true)


def train_text(
    minutes: float = 3, groups: int = 40, lr: float = 1e-3, threads: int = 2, seed: int = 0
) -> dict[str, Any]:
    """Train the text tower against the truth of scenes, and ship it with vision still untrained."""
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    world = World.load()
    words = vocabulary(world)
    model, truth = build(words), Truth(world)
    both = nn.ModuleList([model.text_model, model.text_projection, truth])
    optimiser = torch.optim.AdamW(both.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.02)
    clock, due, step, samples = Clock(minutes), every(30), 0, 0
    log = Log({"recipe": "scorer, text", "groups": groups, "lr": lr, "minutes": minutes})
    while clock.part < 1:
        draw = np.random.default_rng((seed, step))
        plans, said, true = scenes(world, draw, groups)
        tokens, codes = ids(words, [text for text, _, _ in said]), truth.codes(plans)
        with torch.autocast("cpu", torch.bfloat16):
            out = model.text_model(input_ids=tokens)
            vectors = model.text_projection(out.pooler_output)
        kept = (tokens != words.eos_token_id).float()[..., None]
        states = (out.last_hidden_state.float() * kept).sum(1) / kept.sum(1)
        logits = 20 * F.normalize(vectors.float(), dim=-1) @ F.normalize(truth(codes), dim=-1).T
        read = truth.reading(states, codes, torch.tensor([[n, g] for _, n, g in said]))
        error = contrast(logits, true) + 0.5 * read
        optimiser.zero_grad()
        error.backward()
        torch.nn.utils.clip_grad_norm_(both.parameters(), 1.0)
        for group in optimiser.param_groups:
            group["lr"] = lr * clock.rate(step, 50)
        optimiser.step()
        step, samples = step + 1, samples + len(plans)
        if due() or clock.part >= 1:
            right = true.gather(1, logits.argmax(1, keepdim=True)).float().mean().item()
            log.add(step=step, seconds=clock.seconds, loss=error.item(), reading=read.item(), right=right)
    ship(model, words)
    share()
    (FOLDER / "training-text.json").unlink(missing_ok=True)
    log.write(FOLDER, step=step, samples=samples, seconds=round(clock.seconds))
    (FOLDER / "training.json").rename(FOLDER / "training-text.json")
    return log.curve[-1]


def train(
    minutes: float = 12, groups: int = 12, lr: float = 1e-3, tail: float = 0.4, threads: int = 1, seed: int = 0
) -> dict[str, Any]:
    """Train the vision tower (resuming) to agree with the shipped, frozen text tower, and ship both."""
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    world, words = World.load(), CLIPTokenizer.from_pretrained(FOLDER)
    model: Any = CLIPModel.from_pretrained(FOLDER).float()
    model.text_model.requires_grad_(False)
    model.text_projection.requires_grad_(False)
    truth = Truth(world, 192)
    vision = nn.ModuleList([model.vision_model, model.visual_projection, truth.heads])
    optimiser = torch.optim.AdamW(vision.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.02)
    past = resume("scorer", vision, optimiser)
    step, clock = past.get("step", 0), Clock(minutes, past.get("seconds", 0.0))
    log = Log({"recipe": "scorer, vision", "groups": groups, "lr": lr, "minutes": minutes}, past.get("curve", []))
    due, generator, samples = every(60), torch.Generator().manual_seed(seed), past.get("samples", 0)
    while clock.part < 1:
        plans, said, true = scenes(world, np.random.default_rng((seed + 1, step)), groups, 0.95, 0.2, CLOSE)
        pictures = spoil(signed([world.draw(p)[0] for p in plans]), generator)
        with torch.no_grad():
            texts = model.get_text_features(ids(words, [text for text, _, _ in said])).pooler_output
            full = [
                f"a {p.style} emoji of {' and '.join('a ' + o for o in p.objects)} on a {p.background} background"
                for p in plans
            ]
            goal = F.normalize(model.get_text_features(ids(words, full)).pooler_output, dim=-1)
        with torch.autocast("cpu", torch.bfloat16):
            states = model.vision_model(pixel_values=pictures).pooler_output
            seen = model.visual_projection(states)
        read = truth.reading(states.float(), truth.codes(plans), torch.ones(len(plans), 2, dtype=torch.bool))
        seen = F.normalize(seen.float(), dim=-1)
        # besides the contrast, the vector itself: the whole truth has one, and every sample then teaches all its parts
        error = contrast(20 * F.normalize(texts, dim=-1) @ seen.T, true) + 4 * (1 - (seen * goal).sum(1)).mean()
        error = error + 0.5 * read
        optimiser.zero_grad()
        error.backward()
        torch.nn.utils.clip_grad_norm_(vision.parameters(), 1.0)
        for group in optimiser.param_groups:
            group["lr"] = lr * clock.rate(step, 60, tail)
        optimiser.step()
        step, samples = step + 1, samples + len(plans)
        if due():
            likeness = (seen * goal).sum(1).mean().item()
            log.add(step=step, seconds=clock.seconds, loss=error.item(), reading=read.item(), likeness=likeness)
            keep("scorer", vision, optimiser, step=step, seconds=clock.seconds, samples=samples, curve=log.curve)
    keep("scorer", vision, optimiser, step=step, seconds=clock.seconds, samples=samples, curve=log.curve)
    final = measure(model, words, world)
    ship(model, words)
    share()
    log.write(FOLDER, **final, step=step, samples=samples, seconds=round(clock.seconds))
    return final


def wide(folder: Path) -> None:
    """Have transformers load a folder's half-precision weights as float32, as diffusers does with its own parts."""
    path = folder / "config.json"
    config = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**config, "dtype": "float32"}, indent=2) + "\n", encoding="utf-8")


def ship(model: Any, words: Any, folder: Path = FOLDER) -> None:
    """Save the CLIP folder in fp16, with the tokenizer and a processor whose pictures are -1..1."""
    for path in folder.glob("*"):
        if path.is_symlink():  # never write through to the denoiser's
            path.unlink()
    small = CLIPModel(model.config)
    small.load_state_dict(model.state_dict())
    # the temperature the towers were trained with
    torch.nn.init.constant_(small.logit_scale, float(np.log(20)))
    small.half().save_pretrained(folder)
    wide(folder)
    save_words(words, folder)
    side = {"height": 128, "width": 128}
    CLIPImageProcessor(
        size=side, do_center_crop=False, crop_size=side, image_mean=[0.5] * 3, image_std=[0.5] * 3
    ).save_pretrained(folder)


def share(folder: Path = FOLDER, tower: Path = TOWER) -> list[Path]:
    """Keep text tower and vocabulary once: where the denoiser has the same, its files are linked.

    The weights become two shards, the second a link to `tower`, as any program reads them. Returns what replaces them.
    """
    for name in ("tokenizer.json", "vocab.json", "merges.txt"):
        here, there = folder / name, tower.parent.parent / "tokenizer" / name
        if here.exists() and there.exists() and here.read_bytes() == there.read_bytes():
            link(here, there)
    whole = folder / "model.safetensors"
    if not whole.exists() or not tower.exists():
        return []
    own, other = load_file(whole), load_file(tower)
    if not all(name in own and torch.equal(own[name], other[name]) for name in other):
        return []
    rest, text = (f"model-0000{i}-of-00002.safetensors" for i in (1, 2))
    save_file({name: value for name, value in own.items() if name not in other}, folder / rest, {"format": "pt"})
    link(folder / text, tower)
    places = {name: text if name in other else rest for name in sorted(own)}
    size = sum(value.nbytes for value in own.values())
    index = json.dumps({"metadata": {"total_size": size}, "weight_map": places}, indent=2)
    table = folder / "model.safetensors.index.json"
    table.write_text(index + "\n", encoding="utf-8")
    whole.unlink()
    return [folder / rest, folder / text, table]


def link(here: Path, there: Path) -> None:
    """Put a link, relative so that the models can be moved together, in a file's place."""
    here.unlink(missing_ok=True)
    here.symlink_to(os.path.relpath(there.resolve(), here.parent.resolve()))
