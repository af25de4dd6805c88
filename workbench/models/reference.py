"""Plain diffusers pipelines: what a user would run without this workbench, to measure and to compare against."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from workbench.core.ask import Ask
from workbench.core.bundle import Bundle, Images
from workbench.core.errors import AskError, UnsupportedFamily
from workbench.models import kinds, placement, schedulers
from workbench.models.load import from_pipeline, locate, pipeline
from workbench.models.pipeline import assemble, quiet

Draw = Callable[[Ask], Images]
FAMILIES = ("unet", "dit", "mmdit")


def reference(source: Bundle | str, **settings: Any) -> Draw:
    """A callable that draws a request with the plain diffusers pipeline on the same files: uint8 [B, 3, H, W].

    `source` is a bundle (its files are read anew, onto its device and dtype) or whatever `load` takes. Settings are
    those of `from_pipe`. Raises `UnsupportedFamily` for models that diffusers has no pipeline for here.
    """
    where = source.source if isinstance(source, Bundle) else source
    if isinstance(source, Bundle) and (source.family not in FAMILIES or not where):
        raise UnsupportedFamily(f"{source.name} was not read from the files of a pipeline: it has no plain pipeline.")
    found = locate(where)
    if found.family not in FAMILIES:
        raise UnsupportedFamily(f"{found.name} is a {found.cls}; plain pipelines are made of diffusion models.")
    place = placement.choose()
    if isinstance(source, Bundle):
        place = placement.choose(str(source.device), str(source.dtype))
    return from_pipe(pipeline(found, place), **settings)


def from_pipe(
    pipe: Any,
    *,
    scheduler: str = "dpm++",
    steps: int = 20,
    guidance: float = 5.0,
    strength: float = 0.75,
    true_guidance: float = 1.0,
) -> Draw:
    """The same for a pipeline at hand; settings mean what those of `diffuse` mean.

    Text to image; of UNet models image to image and inpainting as well, as the request wants.
    """
    kind = kinds.kind_of(type(pipe).__name__) or kinds.SD
    config = schedulers.config_of(pipe.scheduler)
    _refuse_unfit(type(pipe).__name__, scheduler, config)
    xl = kind is kinds.SD and getattr(pipe, "text_encoder_2", None) is not None
    shapes = from_pipeline(pipe, name=type(pipe).__name__, digest="").shapes

    def draw(ask: Ask) -> Images:
        plain = _plain(pipe, kind, ask, schedulers.make(scheduler, config, steps))
        given: dict[str, Any] = {
            "prompt": list(ask.prompts), "negative_prompt": list(ask.negatives), "num_inference_steps": steps,
            "guidance_scale": guidance, "generator": [torch.Generator().manual_seed(seed) for seed in ask.seeds],
            "output_type": "pt"}  # fmt: skip
        if xl and not any(ask.negatives):
            del given["negative_prompt"]  # then diffusers zeroes it where the model was trained so
        if ask.image is None:
            given["width"], given["height"] = ask.size or (shapes.image[2], shapes.image[1])
        else:
            given |= _picture(ask) | {"strength": strength}
        if kind is kinds.PIXART:  # exactly the size and the words asked for
            given |= {"use_resolution_binning": False, "clean_caption": False, "max_sequence_length": shapes.text[0]}
        if kind is kinds.SD3 and pipe.text_encoder_3 is not None:
            given["max_sequence_length"] = shapes.text[0] - pipe.tokenizer.model_max_length
        if kind is kinds.FLUX:
            given["max_sequence_length"] = shapes.text[0]
            given["true_cfg_scale"] = true_guidance if pipe.transformer.config.guidance_embeds else guidance
        with torch.no_grad():
            return _to_images(plain(**given).images)

    return draw


def _refuse_unfit(name: str, scheduler: str, config: Mapping[str, Any]) -> None:
    """Raise `UnsupportedFamily` for schedulers with which diffusers' pipelines of flow matching do not compare."""
    if not schedulers.is_flow(config):
        return
    if scheduler == "lcm":
        raise UnsupportedFamily(f"{name} would draw lcm's noise from the global generator. Compare with euler.")
    if scheduler == "dpm++" and name in kinds.FLUX.pipelines and not config.get("use_dynamic_shifting"):
        raise UnsupportedFamily(f"{name} does not take dpm++ where noise levels do not follow the size. Take euler.")


def _plain(pipe: Any, kind: kinds.Kind, ask: Ask, scheduler: Any) -> Any:
    if kind is kinds.SD:
        xl = getattr(pipe, "text_encoder_2", None) is not None
        task = "" if ask.image is None else "Img2Img" if ask.mask is None else "Inpaint"
        name = f"StableDiffusion{'XL' if xl else ''}{task}Pipeline"
    elif ask.image is None:
        name = type(pipe).__name__ if kind is kinds.PIXART else kind.pipelines[0]
    else:
        raise UnsupportedFamily(f"{type(pipe).__name__} is compared from text alone. Ask without a picture.")
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
