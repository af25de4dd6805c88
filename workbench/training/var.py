"""Train the next-scale transformers of emoji-var, the drafter or the refiner, on latents encoded once.

Text reaches them as one vector, the scorer's embedding of a caption drawn anew at every step. Tokens are corrupted as
they are made: a code of another picture now and then takes a code's place, and the finer scales learn to say what is
then missing, so that a mistake when decoding is mended and not built upon.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPModel, CLIPTokenizer

from workbench.blocks.world import Plan, World
from workbench.core.errors import AskError
from workbench.models.var import MultiScaleVQ, VARPipeline, VARScheduler, VARTransformer
from workbench.training import scorer, var_vq
from workbench.training.loop import Clock, Log, every, keep, resume, scratch
from workbench.training.unet import Average

FOLDER = var_vq.FOLDER
PARTS = {"drafter": "transformer", "refiner": "refiner"}
DROP = 0.1
#: The drafter is the larger: coarse scales decide what is drawn, and they are few tokens.
SHAPES: dict[str, dict[str, dict[str, Any]]] = {
    "cpu": {
        "drafter": {"depth": 4, "width": 80, "heads": 5},
        "refiner": {"depth": 2, "width": 64, "heads": 4, "mlp_ratio": 2.0},
    },
    "gpu": {
        "drafter": {"depth": 6, "width": 384, "heads": 6, "drop_path": 0.02},
        "refiner": {"depth": 4, "width": 256, "heads": 4, "drop_path": 0.02},
    },
}


def build(part: str, shape: str = "cpu") -> VARTransformer:
    """An untrained drafter or refiner of a tier. Its gates start open, as a short training has no time to open them."""
    vq = var_vq.SHAPES[shape]
    model = VARTransformer(
        **SHAPES[shape][part], patch_nums=vq["patch_nums"], vocab_size=vq["vocab_size"],
        latent_channels=vq["latent_channels"], num_classes=0, pooled_dim=scorer.WIDTH, text_model="emoji-scorer",
        shared_aln=True)  # fmt: skip
    model.initialise(gamma=1.0)
    with torch.no_grad():  # unit vectors that differ little from one caption to the next
        model.text_emb.weight.mul_(4.0)
    return model


class Vectors:
    """The scorer's unit vectors of captions, each computed once."""

    def __init__(self, device: torch.device) -> None:
        clip: Any = CLIPModel.from_pretrained(scorer.FOLDER)
        self.clip, self.words = clip.float().eval().to(device), CLIPTokenizer.from_pretrained(scorer.FOLDER)
        self.device, self.known = device, dict[str, Tensor]()

    @torch.no_grad()
    def __call__(self, captions: list[str]) -> Tensor:
        """Return [B, E]."""
        new = list(dict.fromkeys(c for c in captions if c not in self.known))
        if new:
            pooled = self.clip.text_model(scorer.ids(self.words, new).to(self.device)).pooler_output
            vectors = F.normalize(self.clip.text_projection(pooled).float(), dim=-1)
            self.known.update(zip(new, vectors, strict=True))
        return torch.stack([self.known[c] for c in captions])


@torch.no_grad()
def latents(vq: MultiScaleVQ, world: World, plans: list[Plan], device: torch.device) -> Tensor:
    """Latents of scenes before quantisation, fp16 [N, C, h, w]; kept in the scratch folder by what made them."""
    made_by = [value for name, value in vq.state_dict().items() if name.startswith(("encoder", "quant_conv"))]
    state = b"".join(value.cpu().contiguous().numpy().tobytes() for value in made_by)
    mark = hashlib.sha256(state + repr(plans).encode()).hexdigest()[:16]
    path = scratch() / f"var-latents-{mark}.safetensors"
    if not path.exists():
        parts = []
        piece = 500 if device.type == "cpu" else len(plans)  # a GPU lays out its sprites once for all
        for first in range(0, len(plans), piece):
            pool = var_vq.drawn(world, plans[first : first + piece], device)
            rows = torch.arange(len(pool), device=device).split(50)
            parts += [vq.encode(var_vq.pictures(pool, at)).half().cpu() for at in rows]
        save_file({"latents": torch.cat(parts).contiguous()}, path)
    return load_file(path)["latents"].to(device)


@torch.no_grad()
def lesson(vq: MultiScaleVQ, f: Tensor, rates: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """What to predict and from what: tokens [B, L] and inputs [B, L - 1, C] of latents f [B, C, h, w].

    At each scale row i's codes give way, with probability rates[i], to those of another row at the same place; the
    tokens of the next scales are the nearest to what is then missing.
    """
    f_hat, tokens, inputs = torch.zeros_like(f), [], []
    for k in range(len(vq.patch_nums)):
        true = vq.nearest(vq.ask(k, f - f_hat))
        tokens.append(true)
        other = true[torch.randperm(len(true), generator=generator).to(true.device)]
        wrong = torch.rand(true.shape, generator=generator).to(true.device) < rates[:, None]
        f_hat, following = vq.accumulate(k, f_hat, vq.embed(k, torch.where(wrong, other, true)))
        inputs.append(following.flatten(2).transpose(1, 2))
    return torch.cat(tokens, 1), torch.cat(inputs[:-1], 1)


def by_scale(values: Tensor, patch_nums: tuple[int, ...]) -> list[float]:
    """Means of token values [B, L] over each scale."""
    return [round(float(part.mean()), 4) for part in values.split([p * p for p in patch_nums], 1)]


@torch.no_grad()
def measure(model: Any, vq: MultiScaleVQ, f: Tensor, vectors: Tensor) -> dict[str, Any]:
    """Cross-entropy in nats and share of tokens named rightly, teacher-forced, in all and by scale."""
    tokens, inputs = lesson(vq, f, torch.zeros(len(f), device=f.device), torch.Generator().manual_seed(0))
    logits = torch.cat([model(c, x) for c, x in zip(vectors.split(32), inputs.split(32), strict=True)])
    loss = F.cross_entropy(logits.transpose(1, 2), tokens, reduction="none")
    right = (logits.argmax(-1) == tokens).float()
    return {"cross_entropy": float(loss.mean()), "accuracy": float(right.mean()),
            "cross_entropy_by_scale": by_scale(loss, vq.patch_nums),
            "accuracy_by_scale": by_scale(right, vq.patch_nums)}  # fmt: skip


def plain(plan: Plan) -> str:
    """A scene in full words."""
    return f"a {plan.style} emoji of a {plan.objects[0]} on a {plan.background} background"


def decayed(model: VARTransformer, much: float) -> list[dict[str, Any]]:
    """Groups of parameters: matrices decay; biases, tables of places, scales and gates do not."""
    free = ("pos_start", "pos_1LC", "lvl_embed", "ada_gss", "scale_mul", "text_null")
    named = list(model.named_parameters())
    held = [p for n, p in named if p.ndim > 1 and not any(word in n for word in free)]
    rest = [p for n, p in named if p.ndim <= 1 or any(word in n for word in free)]
    return [{"params": held, "weight_decay": much}, {"params": rest, "weight_decay": 0.0}]


def train(
    *,
    part: str = "drafter",
    minutes: float = 30,
    batch: int = 16,
    lr: float = 2e-3,
    tail: float = 0.5,
    corrupt: float = 0.2,
    scenes: int = 4096,
    shape: str = "cpu",
    device: str = "cpu",
    threads: int = 1,
    seed: int = 0,
) -> dict[str, Any]:
    """Train the drafter or the refiner until `minutes` are spent in all (resuming); ship to assets/models/emoji-var.

    The autoencoder must be there: `workbench train var-vq`. With a GPU: `workbench train var part=drafter shape=gpu
    device=cuda minutes=8 batch=512 lr=0.001 scenes=200000 threads=8`, then part=refiner with minutes=3.
    """
    if part not in PARTS or shape not in SHAPES:
        raise AskError(f"part is {part!r} and shape {shape!r}; there are {', '.join(PARTS)} and {', '.join(SHAPES)}.")
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    settings = {"minutes": minutes, "batch": batch, "lr": lr, "tail": tail, "corrupt": corrupt, "scenes": scenes}
    world, place, name = World.load(), torch.device(device), f"var-{part}-{shape}"
    about, vq, vectors = var_vq.subject(world, shape), var_vq.moved(var_vq.shipped(), place), Vectors(place)
    plans = var_vq.planned(world, about, 7, scenes)
    f = latents(vq, world, plans, place)
    model = var_vq.moved(build(part, shape), place)
    optimiser = torch.optim.AdamW(decayed(model, 0.05), lr=lr, betas=(0.9, 0.95))
    past, average = resume(name, model, optimiser), Average(model, 0.99)
    if past:
        average.count = past["rounds"]
        average.weights = {key: value.to(place) for key, value in past["average"].items()}
    step, samples = past.get("step", 0), past.get("samples", 0)
    clock = Clock(minutes, past.get("seconds", 0.0))
    log = Log({"recipe": f"var, {part}", "shape": shape, **settings}, past.get("curve", []))
    draw, generator = np.random.default_rng((seed, step)), torch.Generator().manual_seed(1000 + step)
    due, local, recent = every(60), 0, list[float]()
    while clock.part < 1:
        rows = draw.integers(len(plans), size=batch)
        said = [world.caption(draw, plans[i].objects, plans[i].style, plans[i].background) for i in rows]
        rates = corrupt * torch.rand(batch, generator=generator).to(place)
        tokens, inputs = lesson(vq, f[torch.from_numpy(rows).to(place)].float(), rates, generator)
        dropped = torch.rand(batch, generator=generator).to(place) < DROP
        with torch.autocast(place.type, torch.bfloat16, enabled=place.type == "cuda"):
            logits = model(vectors(said), inputs, dropped=dropped)
        error = F.cross_entropy(logits.transpose(1, 2), tokens)
        optimiser.zero_grad()
        error.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 2.0)
        for group in optimiser.param_groups:
            group["lr"] = lr * clock.rate(local, 100, tail)
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
    return ship(part, shape, log, step=step, samples=samples, seconds=round(clock.seconds))


def ship(part: str, shape: str, log: Log, **spent: float) -> dict[str, Any]:
    """Measure the averaged weights of the last checkpoint as they will be read, in halves, and write them."""
    checkpoint = torch.load(scratch() / f"var-{part}-{shape}.pt", weights_only=True)["numbers"]
    small = build(part, shape)
    small.load_state_dict({key: value.cpu().half().float() for key, value in checkpoint["average"].items()})
    small.eval()
    world, vq, place = World.load(), var_vq.shipped(), torch.device("cpu")
    plans = var_vq.planned(world, var_vq.subject(world, shape), 10_000, 256)
    f = latents(vq, world, plans, place).float()
    final = measure(small, vq, f, Vectors(place)([plain(plan) for plan in plans]))
    folder: Path = FOLDER / PARTS[part]
    small.half().save_pretrained(folder)
    log.write(folder, **final, **spent)
    assemble()
    return {**final, **spent}


def assemble() -> None:
    """Put what has been shipped so far into a pipeline folder."""
    there = {name: FOLDER / name for name in ("vq", *PARTS.values()) if (FOLDER / name / "config.json").exists()}
    if not {"vq", "transformer"} <= set(there):
        return
    kinds: dict[str, Any] = {name: MultiScaleVQ if name == "vq" else VARTransformer for name in there}
    parts = {name: kinds[name].from_pretrained(path).half() for name, path in there.items()}
    scheduler = VARScheduler(patch_nums=parts["vq"].patch_nums)
    VARPipeline(**parts, scheduler=scheduler).save_pretrained(FOLDER)
    for config in FOLDER.glob("*/config.json"):  # diffusers notes the folder a part was read from
        said = {key: value for key, value in json.loads(config.read_text()).items() if key != "_name_or_path"}
        config.write_text(json.dumps(said, indent=2) + "\n")
