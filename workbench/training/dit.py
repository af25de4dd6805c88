"""Train `emoji-dit`: a small Stable Diffusion 3 of the emoji world, for whatever works on joint transformers alone.

An ordinary `StableDiffusion3Pipeline` folder. Pictures of 256 px through the autoencoder of the default family give
32x32 latents of 8 channels, and patches of one cell 1,024 picture tokens. The text is the scorer's tower, frozen, in
both places that the format has for CLIP, and no T5, so that the last 256 text tokens are zeros as diffusers has them.

Flow matching (Esser et al. 2024, arXiv 2403.03206): x = (1 - sigma) x0 + sigma noise, the network answers at t = 1000
sigma with the velocity noise - x0, the error is plain, and sigma = sigmoid(n), n standard normal, favours the middle.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPModel, CLIPTextModelWithProjection, CLIPTokenizer

from workbench.blocks.world import World
from workbench.training import scorer, unet
from workbench.training.loop import MODELS, Clock, Log, diffusers, every, keep, resume, scratch, signed

FOLDER = MODELS / "emoji-dit"
NAME = "dit"
ZEROS = 256  # text tokens that stand for the T5 that is not there
CHUNK = 100
POOL = 7  # the seed of the default family's scenes


@dataclass(frozen=True)
class Shape:
    """How large a model: width, blocks, and pixels a side of its pictures."""

    width: int = 192
    depth: int = 8
    pixels: int = 256


def build(shape: Shape, text: int = 2 * scorer.WIDTH, channels: int = 8) -> Any:
    """Make an untrained transformer on latents of an eighth of the pixels, patches of one cell, heads 64 wide or less.

    `text` is the width of the states and of the pooled text: both towers' side by side.
    """
    head = min(64, shape.width)
    side = shape.pixels // 8
    return diffusers.SD3Transformer2DModel(
        sample_size=side, patch_size=1, in_channels=channels, out_channels=channels, num_layers=shape.depth,
        attention_head_dim=head, num_attention_heads=shape.width // head, joint_attention_dim=text,
        caption_projection_dim=shape.width, pooled_projection_dim=text, pos_embed_max_size=side,
        qk_norm="rms_norm")  # fmt: skip


def schedule() -> Any:
    """Return the scheduler that ships: Euler on even noise levels."""
    return diffusers.FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0)


def autoencoder() -> Any:
    """Load the default family's autoencoder, told that its latents are not shifted, which SD3's pipeline asks."""
    vae: Any = diffusers.AutoencoderKL.from_pretrained(unet.FOLDER / "vae").float().eval()
    vae.register_to_config(shift_factor=0.0)
    return vae


def tower() -> Any:
    """Make the scorer's text tower with its projection, as SD3 reads it."""
    clip: Any = CLIPModel.from_pretrained(scorer.FOLDER).float()
    config = type(clip.config.text_config)(**{**clip.config.text_config.to_dict(), "projection_dim": scorer.WIDTH})
    made: Any = CLIPTextModelWithProjection(config)
    made.text_model.load_state_dict(clip.text_model.state_dict())
    made.text_projection.load_state_dict(clip.text_projection.state_dict())
    return made.eval().requires_grad_(False)


class Texts:
    """Text states and pooled text by caption, computed once each, exactly as StableDiffusion3Pipeline computes them."""

    def __init__(self, device: str) -> None:
        self.tower, self.words, self.device = tower().to(device), CLIPTokenizer.from_pretrained(scorer.FOLDER), device
        self.known: dict[str, tuple[Tensor, Tensor]] = {}

    @torch.no_grad()
    def __call__(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        """Return states [B, 77 + 256, D] and pooled [B, D]."""
        new = list(dict.fromkeys(caption for caption in captions if caption not in self.known))
        if new:
            words: Any = self.words
            ids = words(new, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
            out = self.tower(ids.to(self.device), output_hidden_states=True)
            for caption, states, pooled in zip(new, out.hidden_states[-2], out.text_embeds, strict=True):
                self.known[caption] = (states.cpu(), pooled.cpu())
        states, pooled = (torch.stack(rows) for rows in zip(*(self.known[c] for c in captions), strict=True))
        both = torch.cat([states, states], -1)
        both = torch.cat([both, both.new_zeros(len(both), ZEROS, both.shape[-1])], 1)
        return both.to(self.device), torch.cat([pooled, pooled], -1).to(self.device)


@torch.no_grad()
def pool(world: World, vae: Any, scenes: int, pixels: int, seed: int) -> Tensor:
    """Latents [N, 8, h, w] of the first scenes of the pool in float16, encoded a hundred at a time and kept on disk."""
    folder = scratch() / f"dit-pool-{seed}-{pixels}"
    folder.mkdir(exist_ok=True)
    plans, parts = unet.planned(world, seed, scenes), list[Tensor]()
    for first in range(0, scenes, CHUNK):
        path = folder / f"{first:06d}.safetensors"
        wanted = min(CHUNK, scenes - first)
        if not path.exists() or len(load_file(path)["latents"]) < wanted:
            made: list[Tensor] = []
            for low in range(first, first + wanted, 10):
                pictures = signed([world.draw(plan, pixels)[0] for plan in plans[low : min(low + 10, first + wanted)]])
                mean = vae.encode(pictures.to(vae.device)).latent_dist.mean
                made.append((mean * vae.config.scaling_factor).half().cpu())
            save_file({"latents": torch.cat(made).contiguous()}, path.with_suffix(".part"))
            path.with_suffix(".part").replace(path)
        parts.append(load_file(path)["latents"][:wanted])
    return torch.cat(parts)


def error(model: Any, clean: Tensor, states: Tensor, pooled: Tensor, generator: torch.Generator) -> Tensor:
    """Return the mean square error of the velocity for one batch of clean latents [B, 8, h, w]."""
    sigma = torch.randn(len(clean), generator=generator).sigmoid().to(clean)
    noise = torch.randn(clean.shape, generator=generator).to(clean)
    wide = sigma[:, None, None, None]
    with torch.autocast(clean.device.type, torch.bfloat16):
        made = model(
            hidden_states=(1 - wide) * clean + wide * noise, encoder_hidden_states=states, pooled_projections=pooled,
            timestep=1000 * sigma, return_dict=False)[0]  # fmt: skip
    return (made.float() - (noise - clean)).square().mean()


def train(
    *,
    minutes: float = 60,
    steps: int = 0,
    batch: int = 32,
    lr: float = 5e-4,
    scenes: int = 16000,
    seed: int = 0,
    width: int = 192,
    depth: int = 8,
    pixels: int = 256,
    device: str = "",
    folder: str = "",
) -> dict[str, Any]:
    """Train until `minutes` are spent in all, or for `steps` more steps, and write the pipeline folder with its log.

    It goes on from the last checkpoint of the same shape. "" writes to assets/models/emoji-dit and takes a GPU where
    there is one.
    """
    shape, device = Shape(width, depth, pixels), device or ("cuda" if torch.cuda.is_available() else "cpu")
    name = f"{NAME}-{width}x{depth}-{pixels}"
    torch.manual_seed(seed)
    model = build(shape).to(device)
    optimiser = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.99), weight_decay=0.01)
    past = resume(name, model, optimiser)
    average = unet.Average(model, most=0.999)
    if past:
        average.count = past["step"]
        average.weights = {k: v.to(device) for k, v in load_file(scratch() / f"{name}-average.safetensors").items()}
    facts = {"recipe": NAME, **asdict(shape), "batch": batch, "lr": lr, "scenes": scenes, "seed": seed}
    log, clock = Log(facts, past.get("curve", [])), Clock(minutes, past.get("seconds", 0.0))
    world, first = World.load(), past.get("step", 0)
    latents = pool(world, autoencoder().to(device), scenes, pixels, POOL + seed)
    plans, texts = unet.planned(world, POOL + seed, scenes), Texts(device)
    due, save, step, recent = every(60), every(240), first, list[float]()
    while (step < first + steps) if steps else clock.part < 1:
        draw, generator = np.random.default_rng((seed, step)), torch.Generator().manual_seed(1000 * step + seed)
        rows = draw.integers(len(plans), size=batch)
        said = [world.caption(draw, plans[i].objects, plans[i].style, plans[i].background) for i in rows]
        states, pooled = texts(["" if draw.random() < 0.1 else text for text in said])
        loss = error(model, latents[rows].float().to(device), states, pooled, generator)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimiser.param_groups:
            group["lr"] = lr * (min((step - first + 1) / 50, 1.0) if steps else clock.rate(step - first, 200, 0.3))
        optimiser.step()
        average.update(model)
        step, recent = step + 1, [*recent[-99:], loss.item()]
        if due():
            log.add(step=step, samples=step * batch, seconds=clock.seconds, loss=float(np.mean(recent)))
        if save():
            checkpoint(name, model, optimiser, average, step=step, seconds=clock.seconds, curve=log.curve)
    if recent:
        log.add(step=step, samples=step * batch, seconds=clock.seconds, loss=float(np.mean(recent)))
    checkpoint(name, model, optimiser, average, step=step, seconds=clock.seconds, curve=log.curve)
    final = {"step": step, "samples": step * batch, "seconds": round(clock.seconds)}
    final |= {"loss": log.curve[-1]["loss"]} if log.curve else {}
    ship(average.weights, shape, Path(folder) if folder else FOLDER, log, **final)
    return final


def checkpoint(name: str, model: nn.Module, optimiser: Any, average: unet.Average, **numbers: Any) -> None:
    """Write what a later run goes on from."""
    averaged = {k: v.cpu().contiguous() for k, v in average.weights.items()}
    save_file(averaged, scratch() / f"{name}-average.safetensors")
    keep(name, model, optimiser, **numbers)


def ship(weights: dict[str, Tensor], shape: Shape, folder: Path, log: Log, **final: Any) -> None:
    """Write the pipeline folder in fp16, and the log beside the transformer."""
    model = build(shape)
    model.load_state_dict({key: value.cpu() for key, value in weights.items()})
    words, text = CLIPTokenizer.from_pretrained(scorer.FOLDER), tower()
    pipe = diffusers.StableDiffusion3Pipeline(
        transformer=model, scheduler=schedule(), vae=autoencoder(), text_encoder=text, tokenizer=words,
        text_encoder_2=text, tokenizer_2=words, text_encoder_3=None, tokenizer_3=None)  # fmt: skip
    pipe.to(dtype=torch.float16).save_pretrained(folder, safe_serialization=True)
    for room in ("text_encoder", "text_encoder_2"):
        scorer.wide(folder / room)
    for room in ("tokenizer", "tokenizer_2"):
        scorer.save_words(words, folder / room)
    for config in folder.glob("*/config.json"):  # diffusers notes the folder a part was read from
        said = {key: value for key, value in json.loads(config.read_text()).items() if key != "_name_or_path"}
        config.write_text(json.dumps(said, indent=2) + "\n")
    log.write(folder / "transformer", **final)
