"""Train the denoiser of the default family on latents drawn and encoded once, under captions drawn anew at every step.

v-prediction on the scaled-linear schedule with the plain error: a min-SNR weight for v falls like the signal-to-noise
ratio towards pure noise, and those are the steps where the caption decides what is drawn. The text tower is the
scorer's, frozen, and reaches the denoiser through cross-attention alone.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.attention_processor import AttnProcessor
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

from workbench.blocks.world import Jitter, Plan, World
from workbench.training import scorer
from workbench.training.loop import MODELS, Clock, Log, agree, diffusers, every, keep, resume, scratch, signed, together

FOLDER = MODELS / "emoji-unet"
TWO = 0.3
JITTER = Jitter(single=(0.8, 0.9), shift=0.02, loose=0.06)
CHUNK = 500


def build() -> Any:
    """Make an untrained denoiser for 16x16 latents: cross-attention at 16x16, 8x8 and in the middle, heads 32 wide."""
    return diffusers.UNet2DConditionModel(
        sample_size=16,
        in_channels=8,
        out_channels=8,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(96, 160, 160),
        layers_per_block=1,
        cross_attention_dim=scorer.WIDTH,
        # diffusers takes the number of heads under this name
        attention_head_dim=(3, 5, 5),
        norm_num_groups=32,
        resnet_time_scale_shift="scale_shift",
    )


def schedule() -> Any:
    """Return the scheduler that ships: DPM-Solver++ on the schedule of training."""
    return diffusers.DPMSolverMultistepScheduler(
        num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        steps_offset=1, timestep_spacing="trailing",
    )  # fmt: skip


def planned(world: World, seed: int, count: int) -> list[Plan]:
    """List the scenes of the pool; the first k of a longer pool are the pool of k."""
    draws = (np.random.default_rng((seed, i)) for i in range(count))
    return [world.plan(draw, objects=world.tier, two=TWO, jitter=JITTER) for draw in draws]


@torch.no_grad()
def fill(scenes: int = 16000, seed: int = 7, threads: int = 1) -> int:
    """Encode the scenes of the pool that earlier runs have not, a file of 500 at a time; training may run meanwhile."""
    torch.set_num_threads(threads)
    world, folder = World.load(), scratch() / f"pool-{seed}"
    folder.mkdir(exist_ok=True)
    vae: Any = (
        diffusers.AutoencoderKL.from_pretrained(FOLDER / "vae").float().eval().to(memory_format=torch.channels_last)
    )
    plans = planned(world, seed, scenes)
    for first in range(0, scenes, CHUNK):
        path = folder / f"{first:06d}.safetensors"
        if path.exists():
            continue
        parts = []
        for low in range(first, first + CHUNK, 20):
            pictures = signed([world.draw(plan)[0] for plan in plans[low : low + 20]])
            with torch.autocast("cpu", torch.bfloat16):
                mean = vae.encode(pictures).latent_dist.mean
            parts.append((mean.float() * vae.config.scaling_factor).half())
        save_file({"latents": torch.cat(parts).contiguous()}, path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)
    return scenes


class Pool:
    """The encoded scenes so far, [N, 8, 16, 16] scaled latents, and what each one shows."""

    def __init__(self, world: World, seed: int = 7) -> None:
        self.world, self.seed, self.folder = world, seed, scratch() / f"pool-{seed}"
        self.latents, self.plans = torch.zeros(0, 8, 16, 16, dtype=torch.float16), list[Plan]()

    def refresh(self) -> None:
        """Take in the files written since."""
        while (path := self.folder / f"{len(self.latents):06d}.safetensors").exists():
            self.latents = torch.cat([self.latents, load_file(path)["latents"]])
        if len(self.plans) < len(self.latents):
            self.plans = planned(self.world, self.seed, len(self.latents))


class Texts:
    """Text states by caption, computed once each, exactly as StableDiffusionPipeline computes them."""

    def __init__(self, clip: Any, words: Any) -> None:
        self.tower, self.words = clip.text_model.eval(), words
        self.known: dict[str, Tensor] = {}

    @torch.no_grad()
    def __call__(self, captions: list[str]) -> Tensor:
        """Return [B, 77, D] float32."""
        new = list(dict.fromkeys(c for c in captions if c not in self.known))
        if new:
            ids = self.words(new, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
            with torch.autocast("cpu", torch.bfloat16):
                states = self.tower(input_ids=ids)[0]
            self.known.update(zip(new, states.half(), strict=True))
        return torch.stack([self.known[c] for c in captions]).float()


class Average:
    """An exponential moving average of a model's weights, updated when workers agree; the memory grows up to `most`."""

    def __init__(self, model: nn.Module, most: float = 0.97) -> None:
        self.weights, self.most, self.count = {k: v.detach().clone() for k, v in model.state_dict().items()}, most, 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move towards the model."""
        self.count += 1
        decay = min(self.most, self.count / (6 + self.count))
        state = model.state_dict()
        for name, mine in self.weights.items():
            mine.lerp_(state[name], 1 - decay)


def error(model: Any, clean: Tensor, states: Tensor, bars: Tensor, generator: torch.Generator) -> Tensor:
    """Return the v error of one batch of clean latents [B, 8, 16, 16]."""
    step = torch.randint(0, len(bars), (len(clean),), generator=generator)
    noise = torch.randn(clean.shape, generator=generator)
    bar = bars[step][:, None, None, None]
    noisy = bar.sqrt() * clean + (1 - bar).sqrt() * noise
    goal = bar.sqrt() * noise - (1 - bar).sqrt() * clean
    with torch.autocast("cpu", torch.bfloat16):
        made = model(noisy.contiguous(memory_format=torch.channels_last), step, states, return_dict=False)[0]
    return (made.float() - goal).square().mean()


def begin(model: Any, optimiser: torch.optim.Optimizer) -> tuple[Average, dict[str, Any]]:
    """Go on from the last checkpoint; where there is none, from the shipped weights; else from nothing."""
    past = resume("unet", model, optimiser)
    shipped = FOLDER / "unet"
    if past:
        average = Average(model)
        average.weights, average.count = load_file(scratch() / "unet-average.safetensors"), past["rounds"]
        return average, past
    if (shipped / "training.json").exists():
        notes = json.loads((shipped / "training.json").read_text("utf-8"))
        weights = load_file(shipped / "diffusion_pytorch_model.safetensors")
        model.load_state_dict({key: value.float() for key, value in weights.items()})
        past = {**notes["final"], "curve": notes["curve"]}
    return Average(model), past


def work(rank: int, workers: int, settings: dict[str, Any]) -> None:
    """Train as one of several processes that average their weights every few seconds."""
    torch.manual_seed(settings["seed"] + rank)
    batch, lr, clean = settings["batch"], settings["lr"], Pool(World.load())
    model = build().to(memory_format=torch.channels_last)
    # the fused attention's backward is slow in bf16 on a CPU; the plain one is the same function
    model.set_attn_processor(AttnProcessor())
    texts = Texts(CLIPModel.from_pretrained(scorer.FOLDER).float(), CLIPTokenizer.from_pretrained(scorer.FOLDER))
    optimiser = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    average, past = begin(model, optimiser)
    step, samples = past.get("step", 0), past.get("samples", 0)
    clock = Clock(settings["minutes"], past.get("seconds", 0.0))
    log = Log({"recipe": "unet", **settings, "jitter": asdict(JITTER), "two": TWO}, past.get("curve", []))
    due, save, meet, over = every(60), every(240), every(settings["every"]), False
    bars, draw = schedule().alphas_cumprod, np.random.default_rng((settings["seed"], rank, step))
    generator, recent, seen, local = torch.Generator().manual_seed(1000 * step + rank), [], 0, 0
    clean.refresh()
    while not over:
        rows = draw.integers(len(clean.plans), size=batch)
        plans = [clean.plans[i] for i in rows]
        said = [clean.world.caption(draw, p.objects, p.style, p.background) for p in plans]
        states = texts(["" if draw.random() < 0.1 else text for text in said])
        loss = error(model, clean.latents[rows].float(), states, bars, generator)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        # freshly (re)started moments want a warm-up of their own
        for group in optimiser.param_groups:
            group["lr"] = lr * clock.rate(local, 150, settings["tail"])
        optimiser.step()
        local, seen = local + 1, seen + batch
        recent.append(loss.item())
        if not meet():
            continue
        total, part, mean = agree(model, [float(seen), clock.part, float(np.mean(recent[-100:]))])
        meet = every(settings["every"])  # from now on, or the workers would wait for each other at every meeting
        step, samples, seen, over = local + past.get("step", 0), samples + int(total), 0, part / workers >= 1
        average.update(model)
        clean.refresh()
        if rank == 0 and due():
            log.add(step=step, samples=samples, seconds=clock.seconds, loss=mean / workers, pool=len(clean.plans))
        if rank == 0 and (save() or over):
            numbers = {"step": step, "samples": samples, "seconds": clock.seconds, "curve": log.curve}
            save_file({k: v.contiguous() for k, v in average.weights.items()}, scratch() / "unet-average.safetensors")
            keep("unet", model, optimiser, rounds=average.count, **numbers)
    if rank == 0:
        ship(log, step=step, samples=samples, seconds=round(clock.seconds))


def train(
    *,
    minutes: float = 64,
    batch: int = 16,
    lr: float = 1e-3,
    tail: float = 0.2,
    workers: int = 2,
    threads: int = 1,
    every: float = 8,
    seed: int = 0,
) -> dict[str, Any]:
    """Train until `minutes` are spent in all, then ship the averaged weights to assets/models/emoji-unet.

    It goes on from the last checkpoint, or from the shipped weights; without either it starts from nothing.
    `fill` must have encoded some scenes; `every` is the seconds between two averagings of the workers' weights.
    """
    settings = {"minutes": minutes, "batch": batch, "lr": lr, "tail": tail, "every": every, "seed": seed}
    together(work, workers, threads, settings)
    return json.loads((FOLDER / "unet" / "training.json").read_text())["final"]


def assemble() -> Any:
    """Put the last averaged weights, the scorer's text tower and the autoencoder into one pipeline."""
    model = build()
    model.load_state_dict(load_file(scratch() / "unet-average.safetensors"))
    return pipeline(model, scorer.FOLDER, FOLDER / "vae")


def pipeline(model: Any, towers: Path, vae: Path) -> Any:
    """Make a pipeline of a denoiser, the text tower of the scorer in `towers` and the autoencoder in `vae`."""
    clip: Any = CLIPModel.from_pretrained(towers).float()
    tower: Any = CLIPTextModel(clip.config.text_config)
    tower.load_state_dict(clip.text_model.state_dict() if not hasattr(tower, "text_model") else
                          {f"text_model.{k}": v for k, v in clip.text_model.state_dict().items()})  # fmt: skip
    return diffusers.StableDiffusionPipeline(
        vae=diffusers.AutoencoderKL.from_pretrained(vae),
        text_encoder=tower,
        tokenizer=CLIPTokenizer.from_pretrained(towers),
        unet=model,
        scheduler=schedule(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def ship(log: Log | None = None, **spent: float) -> dict[str, Any]:
    """Write the pipeline folder in fp16, and the log."""
    save(assemble(), FOLDER)
    if log is not None:
        log.write(FOLDER / "unet", **spent)
    return dict(spent)


def save(pipe: Any, folder: Path) -> None:
    """Write a pipeline in fp16, its text weights under the `text_model.` prefix; what its parts' logs say stays."""
    notes = {p: p.read_text() for p in folder.glob("*/training.json")}
    words = pipe.tokenizer
    pipe.to(dtype=torch.float16).save_pretrained(folder, safe_serialization=True)
    scorer.save_words(words, folder / "tokenizer")
    scorer.wide(folder / "text_encoder")
    path = folder / "text_encoder" / "model.safetensors"
    with safe_open(path, "pt") as held:
        names = list(held.keys())
    prefixed = all(name.startswith("text_model.") for name in names)
    if not prefixed:
        save_file({f"text_model.{k}": v for k, v in load_file(path).items()}, path, metadata={"format": "pt"})
    for config in folder.glob("*/config.json"):  # diffusers notes the folder a part was read from
        said = {key: value for key, value in json.loads(config.read_text()).items() if key != "_name_or_path"}
        config.write_text(json.dumps(said, indent=2) + "\n")
    for note, text in notes.items():
        note.write_text(text)
