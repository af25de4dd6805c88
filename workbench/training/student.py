"""Distil the shipped denoiser into a student of one, two and four steps, as a low-rank change of its matrices.

The teacher is the denoiser with guidance, so the student needs none. Two methods:

`consistency` (Song et al. 2023, arXiv 2303.01469; Luo et al. 2023, arXiv 2310.04378): from x at one time of a grid, the
teacher takes `hops` steps of guided DDIM, and the student's picture at the start is to equal its own, held constant,
where they end. With as many hops as the grid has points, the goal is the end of the teacher's own path.
`shortcut` (Frans et al. 2024, arXiv 2410.12557): one jump of the student is to equal two of half its length, and its
shortest the teacher's. The length is told through `timestep_cond`, the base-2 logarithm of the steps of a whole run.

`losses=slct` takes the parts of Dao et al. 2025 (arXiv 2502.01441) that fit a distillation: Cauchy loss with a scale
that falls as the grid grows, minibatch optimal transport between noise and pictures, and the plain error of denoising
at the lowest time. `noise=immiscible` gives each picture the nearest of four draws (Li et al. 2025, arXiv 2505.18521).
At the first time x is pure noise, as it will be in use; the goal there needs no picture.

Training multiplies the factors out once a step and calls the network with the sums, which costs no more than training
all of it; what ships is the average of the factors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.func import functional_call
from transformers import CLIPModel, CLIPTokenizer

from workbench.blocks.world import World
from workbench.core.ask import Ask
from workbench.core.catalog import find
from workbench.core.tape import ignore
from workbench.models.files import weight_files
from workbench.models.load import load
from workbench.models.weights import digest
from workbench.ops import consistency as flow
from workbench.ops.transport import coupled, nearest
from workbench.training import evaluate, scorer, unet
from workbench.training.factors import Factors
from workbench.training.loop import MODELS, Clock, Log, agree, diffusers, every, keep, resume, scratch, together
from workbench.training.paths import FEW, Paths

FOLDER = MODELS / "emoji-student"
DRAWS = 4  # of noise for one picture, with noise=immiscible
HUBER = 0.01


@dataclass(frozen=True)
class Wishes:
    """What is learnt and how; `train` says what each means."""

    method: Literal["consistency", "shortcut"] = "consistency"
    losses: Literal["lcm", "slct"] = "lcm"
    noise: Literal["plain", "immiscible"] = "plain"
    points: int = 4
    growth: int = 1
    hops: int = 1
    first: float = 0.4
    guidance: float = 5.0
    paths: int = 0
    fresh: float = 0.5

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Wishes:
        """Take what is ours from all settings of a recipe."""
        return cls(**{field.name: settings[field.name] for field in fields(cls)})


@dataclass
class Desk:
    """Teacher and student over one network: the teacher calls it as it is, the student with its weights changed."""

    net: Any
    student: Factors
    bars: Tensor
    wishes: Wishes

    def __post_init__(self) -> None:
        self.frozen = dict(self.net.named_parameters())

    def level(self, t: Tensor) -> Tensor:
        """Return bar [B, 1, 1, 1] of timesteps [B]; below the lowest (-1) a picture is clean and bar 1."""
        return torch.where(t >= 0, self.bars[t.clamp(min=0)], 1.0)[:, None, None, None]

    @torch.no_grad()
    def teach(self, x: Tensor, t: Tensor, states: Tensor, none: Tensor) -> Tensor:
        """Return the teacher's guided velocity."""
        rows, twice = torch.cat([x, x]).contiguous(memory_format=torch.channels_last), torch.cat([t, t])
        with torch.autocast("cpu", torch.bfloat16):
            out = self.net(rows, twice, torch.cat([none.expand_as(states), states]), return_dict=False)[0]
        without, with_ = out.float().chunk(2)
        return without + self.wishes.guidance * (with_ - without)

    def learn(self, weights: Mapping[str, Tensor], x: Tensor, t: Tensor, states: Tensor, runs: float = -1) -> Tensor:
        """Return the student's velocity; `runs` is the base-2 logarithm of the steps of a whole run, -1 for untold."""
        told = {} if runs < 0 else {"timestep_cond": torch.full((len(x), 1), float(runs))}
        x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            out = functional_call(self.net, dict(weights), (x, t, states), {**told, "return_dict": False})[0]
        return out.float()

    def answer(self, weights: Mapping[str, Tensor], x: Tensor, t: Tensor, states: Tensor) -> Tensor:
        """Return the student's clean picture: c_skip x + c_out x0."""
        skip, out = flow.boundary(t.float())
        return skip * x + out * flow.parts(x, self.learn(weights, x, t, states), self.level(t))[0]


@dataclass(frozen=True)
class Batch:
    """Clean latents [B, 8, 16, 16], noise that belongs to them, their text and that of no text, and how far we are.

    With a teacher's `path` [B, points + 1, 8, 16, 16] the clean latents are its end.
    """

    clean: Tensor
    noise: Tensor
    states: Tensor
    none: Tensor
    part: float
    path: Tensor | None = None

    def noised(self, bar: Tensor, pure: Tensor) -> Tensor:
        """Return a x0 + s e at a level [B, 1, 1, 1], and e alone in the rows that are to be `pure` noise."""
        mixed = bar.sqrt() * self.clean + (1 - bar).sqrt() * self.noise
        return torch.where(pure[:, None, None, None], self.noise, mixed)


def consistency(desk: Desk, batch: Batch, draw: np.random.Generator) -> Tensor:
    """Return the loss of one batch: the student's pictures at times of the grid, against where the teacher leads."""
    wishes, count = desk.wishes, len(batch.clean)
    points = flow.grid_size(batch.part, wishes.points, wishes.points * wishes.growth)
    times = torch.tensor([*flow.grid(points), *[-1] * wishes.hops])
    chances = np.array([wishes.first, *[(1 - wishes.first) / (points - 1)] * (points - 1)])
    index = torch.from_numpy(draw.choice(points, count, p=chances))
    x = batch.noised(desk.level(times[index]), index == 0)
    weights = desk.student.merged(desk.frozen)
    if batch.path is None:
        goal = lead(desk, weights, x, index, times, batch)
    else:
        on_it = torch.from_numpy(draw.random(count) >= wishes.fresh) | (index == 0)
        x = torch.where(on_it[:, None, None, None], batch.path[torch.arange(count), index], x)
        goal = batch.clean
    made = desk.answer(weights, x, times[index], batch.states)
    if wishes.losses == "lcm":
        return flow.huber(made, goal, HUBER).mean()
    loss = flow.cauchy(made, goal, flow.cauchy_scale(points)).mean()
    low = index == points - 1
    return loss + (made - batch.clean)[low].square().sum() / batch.clean.numel()


@torch.no_grad()
def lead(desk: Desk, weights: Mapping[str, Tensor], x: Tensor, index: Tensor, times: Tensor, batch: Batch) -> Tensor:
    """Return the goals: `hops` guided jumps of the teacher, then the student's own picture where noise is left."""
    x = x.clone()
    for hop in range(desk.wishes.hops):
        live = (times[index + hop] >= 0).nonzero()[:, 0]
        if not len(live):
            break
        now, to = times[index[live] + hop], times[index[live] + hop + 1]
        v = desk.teach(x[live], now, batch.states[live], batch.none)
        x[live] = flow.jump(x[live], v, desk.level(now), desk.level(to))
    end = times[index + desk.wishes.hops]
    live = (end >= 0).nonzero()[:, 0]
    if len(live):
        still = {name: value.detach() for name, value in weights.items()}
        x[live] = desk.answer(still, x[live], end[live], batch.states[live])
    return x


def shortcut(desk: Desk, batch: Batch, draw: np.random.Generator) -> Tensor:
    """Return the loss of one batch of one length: the shortest jumps against the teacher, longer ones against two."""
    points, count = desk.wishes.points * desk.wishes.growth, len(batch.clean)
    length = 2 ** int(draw.integers(0, int(np.log2(points)) + 1))
    times = torch.tensor([*flow.grid(points), -1])
    starts = np.where(draw.random(count) < desk.wishes.first, 0, draw.integers(0, points // length, count))
    index = torch.from_numpy(starts * length)
    t, to = times[index], times[index + length]
    bar = desk.level(t)
    x = batch.noised(bar, index == 0)
    weights = desk.student.merged(desk.frozen)
    runs = float(np.log2(points // length))
    if length == 1:
        goal = desk.teach(x, t, batch.states, batch.none)
    else:
        middle = times[index + length // 2]
        still = {name: value.detach() for name, value in weights.items()}

        @torch.no_grad()
        def speak(rows: Tensor, half: int) -> Tensor:
            return desk.learn(still, rows, middle if half else t, batch.states, runs + 1)

        goal = flow.doubled(x, (bar, desk.level(middle), desk.level(to)), speak)
    made = desk.learn(weights, x, t, batch.states, runs)
    if desk.wishes.losses == "lcm":
        return flow.huber(made, goal, HUBER).mean()
    return flow.cauchy(made, goal, flow.cauchy_scale(points)).mean()


METHODS = {"consistency": consistency, "shortcut": shortcut}
#: The sampler that a student is for, and its settings.
USED: dict[str, str] = {"consistency": "lcm", "shortcut": "tcd"}
EXTRA: dict[str, dict[str, float]] = {"consistency": {}, "shortcut": {"eta": 0.0}}


def noise_for(clean: Tensor, wishes: Wishes, generator: torch.Generator) -> Tensor:
    """Draw the noise of a batch, matched to its pictures where that is wished for."""
    draws = DRAWS if wishes.noise == "immiscible" else 1
    noise = nearest(clean, torch.randn((len(clean), draws, *clean.shape[1:]), generator=generator))
    return coupled(clean, noise) if wishes.losses == "slct" else noise


class Class:
    """Batches: scenes of the pool with captions said anew, or paths of the teacher."""

    def __init__(self, settings: Mapping[str, Any], rank: int, step: int) -> None:
        self.size, self.pool, self.paths = settings["batch"], unet.Pool(World.load()), None
        clip: Any = CLIPModel.from_pretrained(scorer.FOLDER).float()
        self.texts = unet.Texts(clip, CLIPTokenizer.from_pretrained(scorer.FOLDER))
        self.draw = np.random.default_rng((settings["seed"], rank, step))
        self.generator = torch.Generator().manual_seed(1000 * step + 10 * settings["seed"] + rank)

    def gather(self, desk: Desk, rank: int, workers: int) -> None:
        """Get ready what is learnt from; each worker walks its share of the paths."""
        wishes = desk.wishes
        if not wishes.paths:
            return self.pool.refresh()
        files = -(-wishes.paths // FEW)
        self.paths = Paths(base(), guidance=wishes.guidance, steps=2 * wishes.points, points=wishes.points)
        self.paths.fill(desk.teach, self.texts, range(rank, files, workers))
        agree(desk.student, [])  # the others' share is there as well
        return self.paths.refresh(files)

    def batch(self, wishes: Wishes, part: float) -> Batch:
        """Draw a batch."""
        if self.paths is not None:
            rows = self.draw.integers(len(self.paths.captions), size=self.size)
            path, said = self.paths.states[rows].float(), [self.paths.captions[i] for i in rows]
            clean = path[:, -1]
        else:
            rows = self.draw.integers(len(self.pool.plans), size=self.size)
            plans = [self.pool.plans[i] for i in rows]
            said = [self.pool.world.caption(self.draw, p.objects, p.style, p.background) for p in plans]
            clean, path = self.pool.latents[rows].float(), None
        return Batch(clean, noise_for(clean, wishes, self.generator), self.texts(said), self.texts([""]), part, path)


def teacher() -> Any:
    """Load the shipped denoiser in float32, frozen, with attention whose backward is quick."""
    net: Any = diffusers.UNet2DConditionModel.from_pretrained(unet.FOLDER / "unet").float()
    net.set_attn_processor(AttnProcessor())
    return net.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def base() -> str:
    """Return the digest of the shipped default, as a loaded bundle has it."""
    return digest(weight_files(unet.FOLDER))


def work(rank: int, workers: int, settings: dict[str, Any]) -> None:
    """Train as one of several processes that average their factors every few seconds."""
    torch.manual_seed(settings["seed"] + rank)
    wishes, name = Wishes.of(settings), f"student-{settings['name'] or settings['method']}"
    net = teacher()
    student = Factors(net, settings["rank"], told=wishes.method == "shortcut")
    desk = Desk(net, student, unet.schedule().alphas_cumprod, wishes)
    optimiser = torch.optim.AdamW(student.parameters(), lr=settings["lr"], betas=(0.9, 0.99), weight_decay=0.0)
    past = resume(name, student, optimiser)
    average = unet.Average(student)
    if past:
        average.weights, average.count = load_file(scratch() / f"{name}-average.safetensors"), past["rounds"]
    step, samples = past.get("step", 0), past.get("samples", 0)
    lessons = Class(settings, rank, step)
    lessons.gather(desk, rank, workers)
    clock = Clock(settings["minutes"], past.get("seconds", 0.0))
    log = Log({"recipe": "student", **settings, "base": base()}, past.get("curve", []))
    due, save, meet, over, recent, seen, local = every(30), every(120), every(settings["every"]), False, [], 0, 0
    while not over:
        loss = METHODS[wishes.method](desk, lessons.batch(wishes, clock.part), lessons.draw)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        for group in optimiser.param_groups:
            group["lr"] = settings["lr"] * clock.rate(local, 20, settings["tail"])
        optimiser.step()
        local, seen = local + 1, seen + settings["batch"]
        recent.append(loss.item())
        if not meet():
            continue
        total, part, mean = agree(student, [float(seen), clock.part, float(np.mean(recent[-50:]))])
        meet = every(settings["every"])  # from now on, or the workers would wait for each other at every meeting
        step, samples, seen, over = local + past.get("step", 0), samples + int(total), 0, part / workers >= 1
        average.update(student)
        if rank == 0 and (due() or over):
            log.add(step=step, samples=samples, seconds=clock.seconds, loss=mean / workers)
        if rank == 0 and (save() or over):
            numbers = {"step": step, "samples": samples, "seconds": clock.seconds, "curve": log.curve}
            save_file(
                {k: v.contiguous() for k, v in average.weights.items()}, scratch() / f"{name}-average.safetensors"
            )
            keep(name, student, optimiser, rounds=average.count, **numbers)
    if rank == 0:
        ship(desk, average, log, settings, step=step, samples=samples, seconds=round(clock.seconds))


def ship(desk: Desk, average: Any, log: Log, settings: Mapping[str, Any], **spent: float) -> None:
    """Write the averaged factors and the log, with what the judge says of one, two and four steps."""
    folder = Path(settings["out"]) if settings["out"] else FOLDER
    desk.student.write(folder, average.weights, base())
    log.write(folder, **spent)  # says of which base it is, before it is measured
    log.write(folder, **spent, **measure(folder, desk.wishes.method, settings["judged"]))


def measure(folder: Path, method: str, count: int) -> dict[str, float]:
    """Ask the judge about 1, 2 and 4 steps at the first `count` of the fixed prompts of single, seen objects."""
    world, bundle, numbers = World.load(), load(str(unet.FOLDER)), dict[str, float]()
    rows = [row for row in evaluate.fixed(world) if row["kind"] == "seen"][:count]
    for steps in (1, 2, 4) if rows else ():
        sampler: Any = find(USED[method])(student=str(folder), steps=steps, **EXTRA[method])
        made: list[Tensor] = []
        for first in range(0, len(rows), 16):
            part = rows[first : first + 16]
            ask = Ask(prompts=[r["prompt"] for r in part], seeds=[r["seed"] for r in part])
            made.append(sampler.sample(bundle, ask, ignore))
        answers = evaluate.judged(world, torch.cat(made).permute(0, 2, 3, 1).numpy(), rows)
        for part in ("judge object", "judge style"):
            numbers[f"{steps} steps, {part}"] = round(float(np.mean([a[part] for a in answers])), 4)
    print(json.dumps(numbers), flush=True)
    return numbers


def train(
    *,
    method: str = "consistency",
    minutes: float = 25,
    losses: str = "lcm",
    noise: str = "plain",
    points: int = 4,
    growth: int = 1,
    hops: int = 1,
    first: float = 0.4,
    guidance: float = 5.0,
    paths: int = 0,
    fresh: float = 0.5,
    rank: int = 3,
    batch: int = 16,
    lr: float = 2e-3,
    tail: float = 0.3,
    workers: int = 2,
    threads: int = 1,
    every: float = 8,
    seed: int = 0,
    judged: int = 96,
    name: str = "",
    out: str = "",
) -> dict[str, Any]:
    """Distil until `minutes` are spent in all (resuming), then ship to assets/models/emoji-student, or to `out`.

    method, losses, noise: as above; points: times of the grid, in the end `growth` times as many; hops: guided steps of
    the teacher for one goal; first: share of the rows that start at pure noise; guidance: the teacher's; paths: how
    many whole paths of the teacher to learn from, over and over, 0 for hops from scenes of the pool; fresh: share of
    their later times at which the path's end is noised anew, as in use, instead of taken from the path; rank: of every
    factor; judged: pictures asked about at the end; name: of the checkpoint, the method's unless given.
    """
    given = dict(locals())
    together(work, workers, threads, {key: value for key, value in given.items() if key not in ("workers", "threads")})
    folder = Path(out) if out else FOLDER
    return json.loads((folder / "training.json").read_text("utf-8"))["final"]
