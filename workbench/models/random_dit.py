"""A transformer of PixArt's format with random weights, any size: what merging and caching save, measured anywhere.

random_dit()                                                        # 1,024 tokens of width 256, 8 blocks
random_dit(width=1152, depth=28, side=128, heads=16)                # PixArt at 1,024 px
"""

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from workbench.core.bundle import Bundle, Condition, Seams, Shapes, TextStates
from workbench.models import pixart, schedulers
from workbench.models.pipeline import quiet
from workbench.models.unet import guide
from workbench.ops.noise import row_noise

NOISE = {
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "_class_name": "DPMSolverMultistepScheduler",
}


def random_dit(
    width: int = 256,
    depth: int = 8,
    side: int = 64,
    *,
    heads: int = 4,
    words: int = 77,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Bundle:
    """A bundle of family dit whose latents of `side` x `side` make (side / 2)^2 tokens; prompts are read as noise.

    Its pictures are the first three latent channels, so that drawing costs what the network costs.
    """
    from diffusers import PixArtTransformer2DModel

    where = torch.device(device)
    with quiet(), torch.random.fork_rng(devices=[] if where.type != "cuda" else [where]):
        torch.manual_seed(seed)
        with where:
            model = PixArtTransformer2DModel(
                num_attention_heads=heads, attention_head_dim=width // heads, in_channels=4, out_channels=4,
                num_layers=depth, patch_size=2, cross_attention_dim=width, caption_channels=width, sample_size=side,
                use_additional_conditions=False)  # fmt: skip
            for weight in model.parameters():
                if weight.ndim > 1 and not weight.any():
                    torch.nn.init.normal_(weight, std=0.02)
        # diffusers wraps `to` so that its types lose the instance
        model = model.to(dtype).eval().requires_grad_(False)  # pyright: ignore[reportArgumentType]

    def predict(x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        sizes = {"resolution": None, "aspect_ratio": None}
        states = cond.text.states
        return model(x, encoder_hidden_states=states, timestep=t, added_cond_kwargs=sizes, return_dict=False)[0]

    read = noise_reader(words, width, None, where, dtype)
    seams = Seams(read, predict, guide, schedulers.advance, lambda latents: latents[:, :3].tanh())
    return Bundle(
        name=f"random-dit-{side // 2}x{side // 2}x{width}", family="dit",
        digest=f"random-dit-{width}-{depth}-{side}-{heads}-{seed}-{dtype}", parts={"transformer": model},
        shapes=Shapes((4, side, side), (3, side, side), (words, width), multiple=2), seams=seams,
        all_sites=tuple(pixart.sites(model)),
        schedule=lambda kind, steps, size: schedulers.make(kind, NOISE, steps, where))  # fmt: skip


def noise_reader(
    words: int, width: int, pooled: int | None, where: torch.device, dtype: torch.dtype
) -> Callable[[Sequence[str]], TextStates]:
    """A reader for a model without text encoders: each prompt is `words` states [width] of noise of its own.

    `pooled` is the width of the pooled vector, None for none.
    """

    def read(prompts: Sequence[str]) -> TextStates:
        seeds = [int.from_bytes(hashlib.blake2b(prompt.encode(), digest_size=4).digest(), "big") for prompt in prompts]
        states = row_noise(seeds, (words, width), "words").to(where, dtype)
        whole = None if pooled is None else row_noise(seeds, (pooled,), "pooled").to(where, dtype)
        return TextStates(states, whole, torch.ones(states.shape[:2], device=where, dtype=dtype))

    return read
