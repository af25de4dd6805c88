"""The one denoising loop: text to image, image to image and inpainting over the seams of a bundle.

Row i draws all its randomness from a generator seeded with seed i, on the CPU and in float32, so an image does not
depend on its batch mates, on the device or on the global generator.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# torch.from_numpy carries no types

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from workbench.blocks.pictures import open_picture
from workbench.core.ask import Ask
from workbench.core.bundle import Bundle, Condition, Images, TextStates
from workbench.core.errors import AskError, CheckpointMismatch
from workbench.core.tape import Ended, Started, Step, Tap

Latents = Float[Tensor, "B C h w"]
After = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True)
class Course:
    """How to walk: a scheduler's name, the number of steps, the guidance scale, and how much of a picture to redraw.

    A model that was distilled to take its guidance as an input is told `guidance`, and guided by two calls with
    `true_guidance`; others know only the latter and take `guidance` for it.
    """

    scheduler: str = "dpm++"
    steps: int = 20
    guidance: float = 5.0
    strength: float = 0.75
    true_guidance: float = 1.0


@dataclass(frozen=True, eq=False)
class Walk:
    """One run of the loop: on what, under which condition, by which scheduler, with whose noise, and who watches.

    With guidance above 1, `cond` holds the unconditional rows first, then the conditional ones; `generators` has one an
    image.
    """

    bundle: Bundle
    cond: Condition
    scheduler: Any
    guidance: float
    generators: tuple[torch.Generator, ...]
    tap: Tap


@torch.no_grad()
def draw(bundle: Bundle, ask: Ask, tap: Tap, course: Course) -> Images:
    """Draw a request from noise, or from its picture and mask: uint8 [B, 3, H, W].

    Raises `AskError` for a size or a picture that the model cannot take; `Stopped` passes through from the tap.
    """
    size = picture_size(bundle, ask)
    latents = denoise(bundle, ask, tap, course, size)
    images = to_images(bundle.decode(latents))
    if ask.mask is not None:  # then there is a picture, too
        kept, mask = _source(ask, size)
        redrawn = mask.to(images.device) > 0.5  # pyright: ignore[reportOptionalMemberAccess]
        images = torch.where(redrawn, images, to_images(kept).to(images.device))
    return images


def denoise(bundle: Bundle, ask: Ask, tap: Tap, course: Course, size: tuple[int, int]) -> Latents:
    """The final latents of a request at a size (width, height)."""
    generators = tuple(torch.Generator("cpu").manual_seed(seed) for seed in ask.seeds)
    told = bool(bundle.about.get("guidance_input"))
    scale = course.true_guidance if told else course.guidance
    cond = condition(bundle, ask, scale > 1, size)
    if told:
        taken = torch.full((len(cond.roles),), course.guidance, device=cond.text.states.device)
        cond = replace(cond, extra={**cond.extra, "guidance": taken})
    scheduler = bundle.scheduler(course.scheduler, course.steps, size)
    walk = Walk(bundle, cond, scheduler, scale, generators, tap)
    if ask.image is None:
        return loop(walk, first_noise(bundle, generators, size) * _spread(scheduler))
    return _from_picture(walk, ask, course, size)


def loop(walk: Walk, x: Latents, *, timesteps: Tensor | None = None, after: After | None = None) -> Latents:
    """Walk `x` down the timesteps (the scheduler's own unless given); `after(x, index)` may correct every state."""
    bundle, cond, scheduler = walk.bundle, walk.cond, walk.scheduler
    steps = scheduler.timesteps if timesteps is None else timesteps
    total = len(steps)
    guided = len(cond.roles) > len(x)
    bundle.tell(Started(total, cond.seeds[: len(x)]))
    try:
        for index, t in enumerate(steps):
            now = replace(cond, step=Step(index, total, float(t), x))
            rows = torch.cat([x, x]) if guided else x
            if hasattr(scheduler, "scale_model_input"):  # a flow scheduler shows states as they are
                rows = scheduler.scale_model_input(rows, t)
            output = bundle.predict(rows, t.expand(len(rows)), now)
            if guided:
                negative, positive = output.chunk(2)
                output = bundle.seams.guide(positive, negative, walk.guidance, now)
            x, clean = bundle.seams.advance(x, output, t, now, scheduler, list(walk.generators))
            if after is not None:
                x = after(x, index)
            step = Step(index, total, float(t), x, clean)
            bundle.tell(step)
            walk.tap(step)
    finally:
        bundle.tell(Ended())
    if not torch.isfinite(x).all():
        raise CheckpointMismatch(
            f"{bundle.name} drew values that are not finite (dtype {str(x.dtype).removeprefix('torch.')}). "
            "Its weights may be damaged, or the dtype too narrow: try --dtype float32."
        )
    return x


def condition(bundle: Bundle, ask: Ask, guided: bool, size: tuple[int, int]) -> Condition:
    """Text, seeds and roles of every row; with guidance the unconditional rows come first.

    Each row is read alone, so that no prompt's states depend on another's.
    """
    positive = _read(bundle, ask.prompts)
    seeds, roles = ask.seeds, ("cond",) * len(ask)
    text = positive
    if guided:
        negative = _read(bundle, ask.negatives)
        if bundle.about.get("zero_empty_negative"):
            negative = _zero_empty(negative, ask.negatives)
        text = _join(negative, positive)
        seeds, roles = ask.seeds * 2, ("uncond",) * len(ask) + roles
    cond = Condition(text, seeds, roles)  # pyright: ignore[reportArgumentType]
    return cond if bundle.extra is None else replace(cond, extra=dict(bundle.extra(cond, size)))


def first_noise(bundle: Bundle, generators: Sequence[torch.Generator], size: tuple[int, int]) -> Latents:
    """Standard normal noise, row i from generator i."""
    width, height = size
    channels, factor = bundle.shapes.latent[0], bundle.shapes.factor
    shape = (1, channels, height // factor, width // factor)
    noise = torch.cat([torch.randn(shape, generator=generator) for generator in generators])
    return noise.to(bundle.device, bundle.dtype)


def noised(scheduler: Any, clean: Latents, noise: Latents, t: Float[Tensor, "n"] | Int[Tensor, "n"]) -> Latents:
    """Clean latents with noise as at timesteps t, one for all or one a row."""
    if hasattr(scheduler, "scale_noise"):  # of flow matching
        return scheduler.scale_noise(clean, t, noise)
    return scheduler.add_noise(clean, noise, t)


def to_images(pixels: Float[Tensor, "B 3 H W"]) -> Images:
    """Pixels in -1..1 to uint8, rounded as diffusers rounds."""
    return ((pixels.float() / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)


def picture_size(bundle: Bundle, ask: Ask) -> tuple[int, int]:
    """Width and height to draw: as asked, or the model's own, in the picture's shape where there is one.

    Raises `AskError` when a side is no multiple of the model's factor.
    """
    factor = bundle.shapes.multiple
    _, height, width = bundle.shapes.image
    if ask.size is None:
        if ask.image is None:
            return width, height
        wide, high = open_picture(ask.image).shape[1::-1]
        scale = (width * height / (wide * high)) ** 0.5
        return tuple(max(factor, round(side * scale / factor) * factor) for side in (wide, high))  # type: ignore[return-value]
    wrong = [side for side in ask.size if side % factor]
    if wrong:
        near = "x".join(str(max(factor, round(side / factor) * factor)) for side in ask.size)
        raise AskError(
            f"The size is {ask.size[0]}x{ask.size[1]}; {bundle.name} draws multiples of {factor} pixels. Try {near}."
        )
    return ask.size


def _spread(scheduler: Any) -> float | Tensor:
    """How widely a run's first state is spread: 1 for the schedulers of flow matching, which do not say."""
    return getattr(scheduler, "init_noise_sigma", 1.0)


def _from_picture(walk: Walk, ask: Ask, course: Course, size: tuple[int, int]) -> Latents:
    """Image to image, or inpainting where the request has a mask, in the order of diffusers' pipelines."""
    bundle, scheduler = walk.bundle, walk.scheduler
    picture, mask = _source(ask, size)
    pixels = picture.expand(len(ask), -1, -1, -1)
    clean = bundle.encode(pixels, walk.generators).to(bundle.dtype)
    noise = first_noise(bundle, walk.generators, size)
    skipped = max(course.steps - min(int(course.steps * course.strength), course.steps), 0)
    order = getattr(scheduler, "order", 1)
    timesteps = scheduler.timesteps[skipped * order :]
    if len(timesteps) == 0:
        raise AskError(
            f"Strength {course.strength} of {course.steps} steps leaves none to take. "
            f"Give at least {1 / course.steps:.2f}."
        )
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(skipped * order)
    start = timesteps[:1].expand(len(ask))
    whole = mask is not None and course.strength == 1.0
    x = noise * _spread(scheduler) if whole else noised(scheduler, clean, noise, start)
    if mask is None:
        return loop(walk, x, timesteps=timesteps)
    small = F.interpolate(mask, size=clean.shape[-2:]).to(clean)
    masked = bundle.encode(pixels * (mask < 0.5), walk.generators).to(clean)  # draws as diffusers draws, used or not
    if bundle.about.get("inpaint_channels"):
        shown = torch.cat([small.expand(len(ask), -1, -1, -1), masked], 1)
        cond = walk.cond
        extra = {**cond.extra, "inpaint": shown.repeat(len(cond.roles) // len(ask), 1, 1, 1)}
        return loop(replace(walk, cond=replace(cond, extra=extra)), x, timesteps=timesteps)

    def keep(x: Tensor, index: int) -> Tensor:
        """Put the picture, noised to the state's level, back outside the mask."""
        kept = clean
        if index + 1 < len(timesteps):
            kept = noised(scheduler, clean, noise, timesteps[index + 1 : index + 2])
        return (1 - small) * kept + small * x

    return loop(walk, x, timesteps=timesteps, after=keep)


def _source(ask: Ask, size: tuple[int, int]) -> tuple[Float[Tensor, "1 3 H W"], Float[Tensor, "1 1 H W"] | None]:
    """The picture in -1..1 and the mask in {0, 1}, if there is one, at a size; each file is read once."""
    from PIL import Image

    pixels = open_picture(ask.image)  # pyright: ignore[reportArgumentType]
    mask = None if ask.mask is None else open_picture(ask.mask, mode="L")
    if mask is not None and mask.shape[:2] != pixels.shape[:2]:
        raise AskError(
            f"The mask is {mask.shape[1]}x{mask.shape[0]} and the picture {pixels.shape[1]}x{pixels.shape[0]}. "
            "Give a mask of the picture's size."
        )
    if pixels.shape[1::-1] != size:
        pixels = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))
        if mask is not None:
            mask = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
    picture = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    return picture, None if mask is None else torch.from_numpy((mask >= 128).astype(np.float32))[None, None]


def _read(bundle: Bundle, prompts: Sequence[str]) -> TextStates:
    states = [bundle.read([prompt]) for prompt in dict.fromkeys(prompts)]
    rows = dict(zip(dict.fromkeys(prompts), states, strict=True))
    whole = rows[prompts[0]]
    for prompt in prompts[1:]:
        whole = _join(whole, rows[prompt])
    return whole


def _join(first: TextStates, second: TextStates) -> TextStates:
    pairs = {name: (getattr(first, name), getattr(second, name)) for name in ("states", "pooled", "mask", "ids")}
    return TextStates(**{name: None if a is None or b is None else torch.cat([a, b]) for name, (a, b) in pairs.items()})  # type: ignore[arg-type]


def _zero_empty(text: TextStates, prompts: Sequence[str]) -> TextStates:
    """SDXL's rule: an empty negative prompt is all zeros."""
    keep = torch.tensor([bool(prompt) for prompt in prompts], device=text.states.device)
    pooled = None if text.pooled is None else text.pooled * keep[:, None]
    return replace(text, states=text.states * keep[:, None, None], pooled=pooled)
