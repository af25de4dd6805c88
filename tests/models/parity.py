"""Our loop beside a pipeline of diffusers on the same parts, seeds, texts, steps and size: latents and pixels."""

from typing import Any

import torch
from torch import Tensor

from workbench.blocks.denoise import Course, denoise
from workbench.core.ask import Ask
from workbench.core.bundle import Bundle
from workbench.core.tape import ignore

PROMPTS, NEGATIVES, SEEDS = ["the red cat", "a dog"], ["flat", "cat"], [3, 4]
SIZE = (24, 16)  # width, height: neither square nor the models' own


def ours(bundle: Bundle, course: Course, size: tuple[int, int] = SIZE, **more: Any) -> tuple[Tensor, Tensor]:
    """Latents and pixels of two images."""
    ask = Ask(**{"prompts": PROMPTS, "negatives": NEGATIVES, "seeds": SEEDS, "size": size, **more})
    with torch.no_grad():
        latents = denoise(bundle, ask, ignore, course, size)
        return latents, bundle.decode(latents)


def theirs(pipe: Any, steps: int, output: str, size: tuple[int, int] = SIZE, **given: Any) -> Tensor:
    """The pipeline's latents (`latent`) or pixels in 0..1 (`pt`) of the same two images."""
    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    return pipe(
        PROMPTS, negative_prompt=NEGATIVES, num_inference_steps=steps, generator=generators, width=size[0],
        height=size[1], output_type=output, **given).images  # fmt: skip


def equal(bundle: Bundle, pipe: Any, course: Course, unpacked: Any = None, **given: Any) -> None:
    """Latents agree to 1e-5 of values around 1, and pixels in 0..1 to 1e-5."""
    latents, pixels = ours(bundle, course)
    plain = theirs(pipe, course.steps, "latent", **given)
    plain = plain if unpacked is None else unpacked(plain)
    assert plain.std() > 0.5
    torch.testing.assert_close(latents, plain, atol=1e-5, rtol=1e-5)
    whole = theirs(pipe, course.steps, "pt", **given)
    torch.testing.assert_close((pixels / 2 + 0.5).clamp(0, 1), whole, atol=1e-5, rtol=0)


def alone(bundle: Bundle, course: Course) -> None:
    """The second of two images is the one drawn by itself, up to sums in another order."""
    both, _ = ours(bundle, course)
    single, _ = ours(bundle, course, prompts=PROMPTS[1:], negatives=NEGATIVES[1:], seeds=SEEDS[1:])
    torch.testing.assert_close(both[1:], single, atol=1e-5 * float(both.std()), rtol=0)
    other, _ = ours(bundle, course, prompts=PROMPTS[1:], negatives=NEGATIVES[1:], seeds=[5])
    assert (other - single).abs().max() > 0.1
