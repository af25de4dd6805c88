"""Plain diffusers pipelines: what a user would run without this workbench, to measure and to compare against."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from workbench.core.ask import Ask
from workbench.core.bundle import Bundle, Images
from workbench.core.errors import AskError, UnsupportedFamily
from workbench.models import placement, schedulers
from workbench.models.load import locate, pipeline
from workbench.models.pipeline import assemble, quiet

Draw = Callable[[Ask], Images]


def reference(
    source: Bundle | str, *, scheduler: str = "dpm++", steps: int = 20, guidance: float = 5.0, strength: float = 0.75
) -> Draw:
    """A callable that draws a request with the plain diffusers pipeline on the same files: uint8 [B, 3, H, W].

    `source` is a bundle (its files are read anew, onto its device and dtype) or whatever `load` takes. Settings mean
    what those of `diffuse` mean. Raises `UnsupportedFamily` for models that diffusers has no pipeline for here.
    """
    where = source.source if isinstance(source, Bundle) else source
    if isinstance(source, Bundle) and (source.family != "unet" or not where):
        raise UnsupportedFamily(f"{source.name} was not read from the files of a UNet model: it has no plain pipeline.")
    found = locate(where)
    if found.family != "unet":
        raise UnsupportedFamily(f"{found.name} is a {found.cls}; plain pipelines are made of UNet models.")
    place = placement.choose()
    if isinstance(source, Bundle):
        place = placement.choose(str(source.device), str(source.dtype))
    return from_pipe(pipeline(found, place), scheduler=scheduler, steps=steps, guidance=guidance, strength=strength)


def from_pipe(
    pipe: Any, *, scheduler: str = "dpm++", steps: int = 20, guidance: float = 5.0, strength: float = 0.75
) -> Draw:
    """The same for a pipeline at hand: text to image, image to image, or inpainting, as the request wants."""
    config = dict(pipe.scheduler.config)
    xl = getattr(pipe, "text_encoder_2", None) is not None

    def draw(ask: Ask) -> Images:
        plain = _plain(pipe, xl, ask, schedulers.make(scheduler, config, steps))
        given: dict[str, Any] = {
            "prompt": list(ask.prompts), "negative_prompt": list(ask.negatives), "num_inference_steps": steps,
            "guidance_scale": guidance, "generator": [torch.Generator().manual_seed(seed) for seed in ask.seeds],
            "output_type": "pt"}  # fmt: skip
        if xl and not any(ask.negatives):
            del given["negative_prompt"]  # then diffusers zeroes it where the model was trained so
        if ask.image is None and ask.size is not None:
            given["width"], given["height"] = ask.size
        if ask.image is not None:
            given |= _picture(ask) | {"strength": strength}
        with torch.no_grad():
            return _to_images(plain(**given).images)

    return draw


def _plain(pipe: Any, xl: bool, ask: Ask, scheduler: Any) -> Any:
    kind = "" if ask.image is None else "Img2Img" if ask.mask is None else "Inpaint"
    name = f"StableDiffusion{'XL' if xl else ''}{kind}Pipeline"
    parts = {**pipe.components, "scheduler": scheduler}
    with quiet():
        plain = assemble(name, parts, pipe.config)
    plain.set_progress_bar_config(disable=True)
    return plain


def _picture(ask: Ask) -> dict[str, Any]:
    from PIL import Image

    from workbench.blocks.pictures import open_picture

    if ask.image is None:
        raise AskError("There is no picture to start from.")
    given: dict[str, Any] = {"image": Image.fromarray(open_picture(ask.image))}
    if ask.mask is not None:
        given["mask_image"] = Image.fromarray(open_picture(ask.mask, mode="L"))
    return given


def _to_images(pixels: Tensor) -> Images:
    return (pixels.float().clamp(0, 1) * 255).round().to(torch.uint8)
