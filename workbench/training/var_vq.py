"""Train the multi-scale VQ autoencoder of emoji-var on scenes drawn once: 64 px to token grids of sides 1 to 8.

The paper's own losses leave most codes of the coarse scales unused, so the code book is no parameter here: it starts
from k-means over residuals of all scales, follows them as a moving average in which every scale weighs the same, and
codes that nobody uses are moved to residuals. Now and then a picture is made from the first scales alone.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from workbench.blocks.world import Jitter, Plan, World
from workbench.models.var.vq import MultiScaleVQ, Quantised
from workbench.training.loop import MODELS, Clock, Log, every, keep, resume
from workbench.training.stage import Stage, coded
from workbench.training.unet import Average

FOLDER = MODELS / "emoji-var"
SIZE = 64
JITTER = Jitter(single=(0.82, 0.92), shift=0.02, loose=0.0)
PREFIX = 0.1
#: The same recipe at two sizes; "gpu" is the shape for a GPU of tens of minutes and all seen objects.
SHAPES: dict[str, dict[str, Any]] = {
    "cpu": {
        "patch_nums": (1, 2, 3, 4, 6, 8), "vocab_size": 512, "latent_channels": 16, "channels": 8,
        "decoder_channels": 12, "channel_mult": (1, 2, 3, 3), "layers_per_block": 1, "norm_groups": 4,
    },
    "gpu": {
        "patch_nums": (1, 2, 3, 4, 6, 8), "vocab_size": 1024, "latent_channels": 16, "channels": 32,
        "decoder_channels": 40, "channel_mult": (1, 2, 2, 4), "layers_per_block": 1, "norm_groups": 8,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Subject:
    """What is drawn: objects in styles, on every background."""

    objects: tuple[str, ...]
    styles: tuple[str, ...]


def subject(world: World, shape: str) -> Subject:
    """The objects and styles of a tier: a listed few for the CPU, all that training may see for a GPU."""
    if shape == "gpu":
        held = world.split["held_out_styles"]
        return Subject(tuple(t.label for t in world.objects if t.label not in world.split["held_out_objects"]),
                       tuple(s for s in world.styles if s not in held))  # fmt: skip
    listed = json.loads((FOLDER / "objects.json").read_text("utf-8"))
    return Subject(tuple(listed["objects"]), tuple(listed["styles"]))


def planned(world: World, about: Subject, seed: int, count: int) -> list[Plan]:
    """Scenes of one object each; the first k of a longer list are the list of k."""
    draws = (np.random.default_rng((seed, i)) for i in range(count))
    return [world.plan(draw, about.objects, about.styles, two=0.0, jitter=JITTER) for draw in draws]


def drawn(world: World, plans: list[Plan], device: torch.device) -> Tensor:
    """Pictures of plans, uint8 [N, 3, 64, 64] on a device; a GPU composes them from sprites that lie there."""
    if device.type == "cuda":
        stage = Stage(world, device, workers=8)
        parts = (stage.compose(coded(world, plans[i : i + 500], SIZE).to(device), SIZE)[0]
                 for i in range(0, len(plans), 500))  # fmt: skip
        return torch.cat([((part + 1) * 127.5).round().to(torch.uint8) for part in parts])
    return torch.from_numpy(np.stack([world.draw(plan, SIZE)[0] for plan in plans]).transpose(0, 3, 1, 2).copy())


def pictures(pool: Tensor, rows: Tensor) -> Tensor:
    """Rows of a pool as floats [B, 3, 64, 64] in -1..1, channels last."""
    return (pool[rows].float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


class Book:
    """The code book as a moving average of what each code stands for; every scale weighs the same.

    `counts` [V] and `sums` [V, C] are averages over batches; a code is sums / counts.
    """

    def __init__(self, model: MultiScaleVQ, decay: float = 0.99) -> None:
        self.weight, self.decay = model.quantize.embedding.weight, decay
        self.counts, self.sums = torch.ones_like(self.weight[:, 0]), self.weight.detach().clone()

    @torch.no_grad()
    def begin(self, model: MultiScaleVQ, true: Tensor, generator: torch.Generator) -> None:
        """Set the codes to k-means of the residuals of pictures, as if every scale said all it could."""
        f = model.encode(true)
        f_hat, rows = torch.zeros_like(f), []
        for k in range(len(model.patch_nums)):
            z = model.ask(k, f - f_hat)
            f_hat, _ = model.accumulate(k, f_hat, z)
            rows.append(_spread(z, 2000, generator))
        codes = kmeans(torch.cat(rows), len(self.weight), generator)
        self.weight.copy_(codes)
        self.counts.fill_(1.0)
        self.sums.copy_(codes)

    @torch.no_grad()
    def update(self, found: Quantised) -> None:
        """Move every code towards the mean of what it stood for in a batch."""
        counts, sums = torch.zeros_like(self.counts), torch.zeros_like(self.sums)
        for z, tokens in zip(found.asked, found.tokens, strict=True):
            rows, at = z.detach().permute(0, 2, 3, 1).reshape(-1, z.shape[1]), tokens.flatten()
            share = torch.full_like(rows[:, 0], 1 / len(rows))
            counts.index_add_(0, at, share)
            sums.index_add_(0, at, rows * share[:, None])
        # in units of the mean use, so that an unused code's count falls towards 0 and a common one's rises above 1
        scale = len(counts) / counts.sum()
        self.counts.lerp_(counts * scale, 1 - self.decay)
        self.sums.lerp_(sums * scale, 1 - self.decay)
        self.weight.copy_(self.sums / self.counts.clamp(min=1e-5)[:, None])

    @torch.no_grad()
    def revive(self, found: Quantised, generator: torch.Generator, least: float = 0.03) -> int:
        """Move codes of less than `least` of the mean use to residuals drawn evenly over the scales; say how many."""
        dead = (self.counts < least).nonzero().flatten()
        if len(dead) == 0:
            return 0
        each = -(-len(dead) // len(found.asked))
        rows = torch.cat([_spread(z, each, generator) for z in found.asked])
        chosen = rows[torch.randperm(len(rows), generator=generator)[: len(dead)]]
        dead = dead[: len(chosen)]
        self.counts[dead], self.sums[dead], self.weight[dead] = 1.0, chosen, chosen
        return len(dead)


def _spread(z: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Some places of latents [B, C, h, w] at random: [at most count, C]."""
    rows = z.detach().permute(0, 2, 3, 1).reshape(-1, z.shape[1])
    return rows[torch.randperm(len(rows), generator=generator)[:count]]


def kmeans(rows: Tensor, count: int, generator: torch.Generator, rounds: int = 10) -> Tensor:
    """Centres [count, C] of rows [N, C] by Lloyd's rounds from random rows; an empty centre stays where it is."""
    centres = rows[torch.randint(len(rows), (count,), generator=generator)].clone()
    for _ in range(rounds):
        at = torch.cdist(rows, centres).argmin(1)
        sums = torch.zeros_like(centres).index_add_(0, at, rows)
        counts = torch.bincount(at, minlength=count).to(rows)
        centres = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], centres)
    return centres


def likeness(made: Tensor, true: Tensor) -> Tensor:
    """L1 + squared error + the L1 of gradients at full and half size."""
    total = (made - true).abs().mean() + (made - true).square().mean()
    for _ in range(2):
        across, down = made.diff(dim=-1) - true.diff(dim=-1), made.diff(dim=-2) - true.diff(dim=-2)
        total = total + 0.5 * (across.abs().mean() + down.abs().mean())
        made, true = F.avg_pool2d(made, 2), F.avg_pool2d(true, 2)
    return total


@torch.no_grad()
def measure(model: MultiScaleVQ, world: World, about: Subject, count: int = 256) -> dict[str, Any]:
    """PSNR in dB over fixed scenes that were not trained on, share of codes used in all, and used by each scale."""
    device = model.quantize.embedding.weight.device
    pool = drawn(world, planned(world, about, 10_000, count), torch.device("cpu")).to(device)
    hits, errors = torch.zeros(len(model.patch_nums), model.config.vocab_size, device=device), []
    for rows in torch.arange(count).split(32):
        true = pictures(pool, rows)
        found = model.quantise(model.encode(true))
        made = model.decode(found.prefixes[-1])
        errors.append((made - true).div(2).square().mean((1, 2, 3)))
        for k, tokens in enumerate(found.tokens):
            hits[k] += torch.bincount(tokens.flatten(), minlength=hits.shape[1])
    model.quantize.ema_vocab_hit_SV.copy_(hits / hits.sum(1, keepdim=True))
    share = (hits > 0).float().mean(1)
    psnr, used = -10 * torch.cat(errors).log10().mean(), (hits.sum(0) > 0).float().mean()
    return {"psnr": float(psnr), "codes_used": float(used), "codes_used_by_scale": [round(float(s), 3) for s in share]}


def build(shape: str = "cpu") -> MultiScaleVQ:
    """An untrained autoencoder of a tier; the code book takes no gradient."""
    model = MultiScaleVQ(**SHAPES[shape])
    model.quantize.embedding.weight.requires_grad_(False)
    return model


def step_loss(
    model: MultiScaleVQ, true: Tensor, warm: bool, generator: torch.Generator
) -> tuple[Tensor, Quantised | None]:
    """The loss of a batch, and what was quantised; while `warm` nothing is, and the latent is held near unit size."""
    if warm:
        f = model.encode(true)
        made = model.decoder(model.post_quant_conv(f))
        made.register_hook(_last)
        return likeness(made, true) + 0.02 * (f.square().mean() - 1).square(), None
    count = len(model.patch_nums)
    early = torch.rand(len(true), generator=generator) < PREFIX
    stop = torch.where(early, torch.randint(0, count, (len(true),), generator=generator), count - 1)
    out = model(true, stop.to(true.device))
    out.pictures.register_hook(_last)
    return likeness(out.pictures, true) + out.loss, out.quantised


def _last(grad: Tensor) -> Tensor:
    # differences give gradients of another layout, and convolutions then take a slower path
    return grad.contiguous(memory_format=torch.channels_last)


def train(
    *,
    minutes: float = 45,
    batch: int = 8,
    lr: float = 2e-3,
    tail: float = 0.4,
    warm: int = 150,
    scenes: int = 4096,
    shape: str = "cpu",
    device: str = "cpu",
    threads: int = 1,
    seed: int = 0,
) -> dict[str, Any]:
    """Train until `minutes` are spent in all (resuming), then ship the averaged weights to assets/models/emoji-var/vq.

    With a GPU: `workbench train var-vq shape=gpu device=cuda minutes=6 batch=256 scenes=200000 threads=8`.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    settings = {"minutes": minutes, "batch": batch, "lr": lr, "tail": tail, "warm": warm, "scenes": scenes}
    world, place = World.load(), torch.device(device)
    about, name = subject(world, shape), f"var-vq-{shape}"
    model = moved(build(shape), place)
    wanted = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(wanted, lr=lr, betas=(0.9, 0.98), weight_decay=1e-3)
    past, book = resume(name, model, optimiser), Book(model)
    average = Average(model)
    if past:
        book.counts, book.sums, average.count = past["counts"].to(place), past["sums"].to(place), past["rounds"]
        average.weights = {key: value.to(place) for key, value in past["average"].items()}
    step, samples, revived = past.get("step", 0), past.get("samples", 0), 0
    pool = drawn(world, planned(world, about, 7, scenes), place).to(place)
    generator = torch.Generator().manual_seed(1000 + step)
    clock = Clock(minutes, past.get("seconds", 0.0))
    log = Log({"recipe": "var-vq", "shape": shape, **settings}, past.get("curve", []))
    due, local, recent = every(60), 0, list[float]()
    while clock.part < 1:
        true = pictures(pool, torch.randint(len(pool), (batch,), generator=generator))
        if step == warm:
            start = pictures(pool, torch.randint(len(pool), (min(256, len(pool)),), generator=generator))
            book.begin(model, start, generator)
            average = Average(model)
        error, found = step_loss(model, true, step < warm, generator)
        optimiser.zero_grad()
        error.backward()
        torch.nn.utils.clip_grad_norm_(wanted, 1.0)
        for group in optimiser.param_groups:
            group["lr"] = lr * clock.rate(local, 50, tail)
        optimiser.step()
        if found is not None:
            book.update(found)
            # new codes near the end would have no time to find their place
            revived += book.revive(found, generator) if step % 100 == 0 and clock.part < 0.7 else 0
        step, local, samples = step + 1, local + 1, samples + batch
        recent.append(error.item())
        if step % 20 == 0:
            average.update(model)
        if due() or clock.part >= 1:
            log.add(step=step, samples=samples, seconds=clock.seconds, loss=float(np.mean(recent)), revived=revived)
            recent, revived = [], 0
            keep(name, model, optimiser, step=step, samples=samples, seconds=clock.seconds, curve=log.curve,
                 counts=book.counts, sums=book.sums, average=average.weights, rounds=average.count)  # fmt: skip
    return ship(model, average, world, about, log, step=step, samples=samples, seconds=round(clock.seconds))


def ship(
    model: MultiScaleVQ, average: Average, world: World, about: Subject, log: Log, **spent: float
) -> dict[str, Any]:
    """Measure the averaged weights as they will be read, in halves, and write them."""
    small = MultiScaleVQ(**{k: v for k, v in model.config.items() if not k.startswith("_")})
    small.load_state_dict({key: value.half().float() for key, value in average.weights.items()})
    small.eval()
    final = measure(small, world, about)
    small.half().save_pretrained(FOLDER / "vq")
    log.write(FOLDER / "vq", **final, **spent)
    return {**final, **spent}


def shipped() -> MultiScaleVQ:
    """The shipped autoencoder, in float32, to be left as it is."""
    model: Any = MultiScaleVQ.from_pretrained(FOLDER / "vq")
    return model.float().eval().requires_grad_(False)


def moved(model: Any, place: torch.device) -> Any:
    """A model on a device, its convolutions channels-last."""
    return model.to(place, memory_format=torch.channels_last)


def notes() -> dict[str, Any]:
    """What the log beside the shipped autoencoder says of its first training."""
    said = json.loads((FOLDER / "vq" / "training.json").read_text("utf-8"))
    return said.get("tokens", said)
