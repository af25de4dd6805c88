"""Train the GPU tier's denoiser on 32x32 latents of scenes composed, captioned and encoded as it goes.

v-prediction with the plain error, or with min-SNR's weight for v, min(SNR, gamma) / (SNR + 1) (Hang et al. 2023,
2303.09556), when `snr` is its gamma. With `near` = k > 1 each latent takes the nearest of k noises, the immiscible
noise of Li et al. 2025 (2505.18521). Encoded scenes wait in a ring on the device and serve in `again` batches on the
average, under a new noise and step each time, so that composing and encoding cost a fraction of a step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from workbench.training import gpu_scorer, gpu_vae, scorer, unet
from workbench.training.feed import Feed, steady, tokens
from workbench.training.gpu_loop import Course, Kit, learn, past, recipe, restore
from workbench.training.loop import diffusers

FAMILY = Path("emoji-unet")
BLANK = 0.1


def build(widths: tuple[int, ...] = (96, 160, 160)) -> Any:
    """Make an untrained denoiser of 32x32 latents: cross-attention there, at 16x16 and in the middle; heads 32 wide."""
    return diffusers.UNet2DConditionModel(
        sample_size=32,
        in_channels=gpu_vae.CHANNELS,
        out_channels=gpu_vae.CHANNELS,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=widths,
        layers_per_block=1,
        cross_attention_dim=scorer.WIDTH,
        # diffusers takes the number of heads under this name
        attention_head_dim=tuple(width // 32 for width in widths),
        norm_num_groups=32,
        resnet_time_scale_shift="scale_shift",
    )


class Ring:
    """The latest encoded scenes on a device: half-precision latents [N, 4, h, w] and text states [N, 77, D]."""

    def __init__(self, size: int) -> None:
        self.size, self.held, self.at = size, 0, 0
        self.latents, self.states = torch.zeros(0), torch.zeros(0)

    def put(self, latents: Tensor, states: Tensor) -> None:
        """Take in rows in place of the oldest."""
        if not self.held:
            self.latents = latents.new_zeros(self.size, *latents.shape[1:], dtype=torch.float16)
            self.states = states.new_zeros(self.size, *states.shape[1:], dtype=torch.float16)
        rows = (torch.arange(len(latents), device=latents.device) + self.at) % self.size
        self.latents[rows], self.states[rows] = latents.half(), states.half()
        self.at, self.held = (self.at + len(latents)) % self.size, min(self.held + len(latents), self.size)

    def take(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return latents and states, float32, of rows below `held`."""
        return self.latents[rows].float(), self.states[rows].float()


def nearest(clean: Tensor, noises: Tensor) -> Tensor:
    """Return for each latent [B, C, h, w] the nearest of its k noises [k, B, C, h, w], by squared distance."""
    far = (noises - clean).square().flatten(2).sum(2)
    return noises[far.argmin(0), torch.arange(len(clean), device=clean.device)]


def weight(bars: Tensor, snr: float) -> Tensor:
    """Return each row's weight [B] of the error of v: min-SNR with gamma `snr`, or 1 when `snr` is 0."""
    if not snr:
        return torch.ones_like(bars)
    return (bars / (1 - bars)).clamp(max=snr) * (1 - bars)  # SNR + 1 is 1 / (1 - bar)


def error(predict: Callable[..., Any], clean: Tensor, noise: Tensor, bars: Tensor, snr: float) -> Tensor:
    """Return the weighted error of v; `predict(noisy)` is v as seen from latents with `bars` [B] of signal power."""
    bar = bars[:, None, None, None]
    noisy = bar.sqrt() * clean + (1 - bar).sqrt() * noise
    goal = bar.sqrt() * noise - (1 - bar).sqrt() * clean
    made = predict(noisy.contiguous(memory_format=torch.channels_last))
    return (weight(bars, snr) * (made.float() - goal).square().mean((1, 2, 3))).mean()


class Source:
    """Fills the ring: the next scenes of the feed, composed, encoded, and their captions read by the frozen tower."""

    def __init__(self, kit: Kit, feed: Feed, size: int) -> None:
        self.kit, self.feed, self.ring = kit, feed, Ring(size)
        self.vae, self.tower = gpu_vae.opened(kit), gpu_scorer.opened(kit).text_model.eval()
        self.blank = self.read(tokens(kit.words, [""]).to(kit.device)).half().float()

    @torch.no_grad()
    def read(self, ids: Tensor) -> Tensor:
        """Return text states [B, 77, D] as a StableDiffusionPipeline computes them."""
        with self.kit.cast():
            return self.tower(input_ids=ids)[0]

    @torch.no_grad()
    def fill(self) -> None:
        """Put the next scenes into the ring."""
        row = next(self.feed)
        pictures, _ = self.kit.stage.compose(row.codes)
        self.ring.put(gpu_vae.encoded(self.kit, self.vae, pictures), self.read(row.ids))

    @torch.no_grad()
    def take(self, batch: int) -> tuple[Tensor, Tensor]:
        """Fill a little and draw a batch; one caption in ten is left out."""
        self.fill()
        while self.ring.held < min(batch, self.ring.size):
            self.fill()
        rows = (self.kit.rand(batch) * self.ring.held).long()
        clean, states = self.ring.take(rows)
        return clean, torch.where(self.kit.rand(batch, 1, 1) < BLANK, self.blank, states)


def fit(
    kit: Kit,
    *,
    minutes: float = 13.0,
    batch: int = 512,
    lr: float = 1e-3,
    tail: float = 0.5,
    snr: float = 0.0,
    near: int = 1,
    again: int = 4,
    ring: int = 65536,
    widths: tuple[int, ...] = (96, 160, 160),
    last: bool = False,
    reserve: float = 60.0,
) -> dict[str, Any]:
    """Train the denoiser for `minutes` in all; on the `last` call until it ends, its rate falling to 0 by then."""
    folder = kit.folder / FAMILY
    before = past(folder / "unet", "gpu-unet")
    model = build(tuple(widths))
    if before:
        restore(model, folder / "unet" / "diffusion_pytorch_model.safetensors")
    model.to(kit.device, memory_format=torch.channels_last)
    done = before.get("step", 0)
    source = Source(kit, kit.feed(steady, max(batch // again, 1), said=True, start=10**8 + done), ring)
    quick, bars = kit.quick(model), unet.schedule().alphas_cumprod.to(kit.device)

    def miss() -> Tensor:
        clean, states = source.take(batch)
        steps = (kit.rand(batch) * len(bars)).long()
        noise = nearest(clean, kit.randn(near, *clean.shape)) if near > 1 else kit.randn(*clean.shape)
        with kit.cast():
            return error(lambda x: quick(x, steps, states, return_dict=False)[0], clean, noise, bars[steps], snr)

    facts = {"recipe": "gpu-unet", "snr": snr, "near": near, "again": again, "widths": list(widths)}
    facts |= {"jitter": asdict(unet.JITTER), "two": unet.TWO}
    course = Course(minutes, lr, tail=tail, reserve=reserve, last=last)
    log, spent = learn(kit, course, model, miss, batch=batch, before=before, facts=facts, feed=source.feed)
    pipe = unet.pipeline(model.cpu(), kit.folder / gpu_scorer.PLACE, kit.folder / gpu_vae.PLACE)
    unet.save(pipe, folder)
    log.write(folder / "unet", **spent)
    return spent


train = recipe(fit)
