"""Stable Diffusion 1.x, 2.x and XL: a diffusers pipeline as a bundle, its seams and its sites."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from workbench.core.bundle import (
    Bundle,
    Condition,
    Handle,
    Seams,
    Shapes,
    Site,
    TextStates,
)
from workbench.core.errors import UnsupportedFamily
from workbench.models import handles, reading, schedulers, vae
from workbench.models.adapter_names import unet_names

PIPELINES = ("StableDiffusionPipeline", "StableDiffusionXLPipeline", "StableDiffusionInpaintPipeline",
             "StableDiffusionXLInpaintPipeline", "StableDiffusionImg2ImgPipeline",
             "StableDiffusionXLImg2ImgPipeline", "LatentConsistencyModelPipeline")  # fmt: skip


def from_pipeline(
    pipe: Any,
    *,
    name: str,
    source: str = "",
    digest: str = "",
    opener: Callable[[str], Bundle] | None = None,
    world: Any = None,
    about: Mapping[str, Any] | None = None,
) -> Bundle:
    """A bundle over the parts of a loaded SD or SDXL pipeline; the pipeline itself is not kept.

    Raises `UnsupportedFamily` when the pipeline has no UNet.
    """
    if not hasattr(pipe, "unet"):
        raise UnsupportedFamily(f"{name} is a {type(pipe).__name__}; UNet pipelines are read here: {PIPELINES[0]} ...")
    xl = getattr(pipe, "text_encoder_2", None) is not None
    parts: dict[str, nn.Module] = {"unet": pipe.unet, "vae": pipe.vae}
    for part, module in (
        ("text", pipe.text_encoder),
        ("text2", getattr(pipe, "text_encoder_2", None)),
    ):
        if module is not None:
            parts[part] = module
    for module in parts.values():
        module.eval().requires_grad_(False)
    config = schedulers.config_of(pipe.scheduler)
    seams = Seams(
        read=_reader_xl(pipe) if xl else _reader(pipe),
        predict=_predictor(pipe.unet),
        guide=guide,
        advance=schedulers.advance,
        decode=vae.decoder(pipe.vae),
    )
    device = pipe.unet.device
    facts = {
        "zero_empty_negative": bool(xl and pipe.config.get("force_zeros_for_empty_prompt", False)),
        "inpaint_channels": pipe.unet.config.in_channels > pipe.vae.config.latent_channels,
        "guidance_input": bool(pipe.unet.config.get("time_cond_proj_dim")),  # of a whole LCM, which reads its guidance
    }
    return Bundle(
        name=name, family="unet", digest=digest, parts=parts, shapes=_shapes(pipe), seams=seams,
        all_sites=tuple(sites(pipe.unet)),
        schedule=lambda kind, steps, size: schedulers.make(kind, config, steps, device),
        encoder=vae.encoder(pipe.vae), lexicon=lambda: reading.lexicon(pipe.tokenizer or pipe.tokenizer_2),
        aliases=lambda: unet_names(pipe.unet),
        extra=_time_ids if xl else None, opener=opener, world=world, source=source,
        about={**facts, **(about or {})})  # fmt: skip


def guide(positive: Tensor, negative: Tensor, scale: float, cond: Condition) -> Tensor:
    """Classifier-free guidance, n + scale (p - n), Ho and Salimans 2022 (arXiv 2207.12598) in diffusers' form."""
    return negative + scale * (positive - negative)


def _shapes(pipe: Any) -> Shapes:
    factor = vae.pixels_a_cell(pipe.vae)
    side = pipe.unet.config.sample_size
    h, w = (side, side) if isinstance(side, int) else side
    width = pipe.unet.config.cross_attention_dim
    width = width if isinstance(width, int) else max(width)
    tokens = pipe.tokenizer.model_max_length if pipe.tokenizer is not None else pipe.tokenizer_2.model_max_length
    latent = (pipe.vae.config.latent_channels, h, w)
    return Shapes(latent, (3, h * factor, w * factor), (tokens, width), multiple=factor)


def _reader(pipe: Any) -> Callable[[Sequence[str]], TextStates]:
    tokenizer, encoder = pipe.tokenizer, pipe.text_encoder

    def read(prompts: Sequence[str]) -> TextStates:
        ids = reading.token_ids(tokenizer, prompts, encoder.device)
        mask = ids.ne(tokenizer.pad_token_id).long() if getattr(encoder.config, "use_attention_mask", False) else None
        out = encoder(ids, attention_mask=mask)
        return TextStates(out[0], ids=ids)

    return read


def _reader_xl(pipe: Any) -> Callable[[Sequence[str]], TextStates]:
    pairs = [
        (t, e)
        for t, e in (
            (pipe.tokenizer, pipe.text_encoder),
            (pipe.tokenizer_2, pipe.text_encoder_2),
        )
        if e
    ]

    def read(prompts: Sequence[str]) -> TextStates:
        states: list[Tensor] = []
        pooled = ids = None
        for tokenizer, encoder in pairs:
            ids, said, pooled = reading.clip_states(tokenizer, encoder, prompts)  # pooled: the last encoder's
            states.append(said)
        return TextStates(torch.cat(states, -1), pooled=pooled, ids=ids)

    return read


def _time_ids(cond: Condition, size: tuple[int, int]) -> dict[str, Tensor]:
    """SDXL's micro-conditioning: original size, no crop, target size, each (height, width)."""
    width, height = size
    states = cond.text.states
    ids = torch.tensor([height, width, 0, 0, height, width], dtype=states.dtype, device=states.device)
    return {"time_ids": ids.expand(len(states), -1)}


def guidance_embedding(guidance: Float[Tensor, " R"], width: int) -> Float[Tensor, "R w"]:
    """The guidance scale as a guided-distilled network reads it: sines, then cosines, of 1000 (w - 1) f_i.

    f_i = 10000^(-i / (width / 2 - 1)), as in diffusers' latent-consistency pipelines; an odd width ends in a zero.
    """
    half = width // 2
    steps = torch.arange(half, device=guidance.device)
    angles = 1000.0 * (guidance.float() - 1)[:, None] * torch.exp(-math.log(10000.0) / max(half - 1, 1) * steps)
    return torch.cat([angles.sin(), angles.cos(), angles.new_zeros(len(angles), width % 2)], 1)


def _predictor(unet: Any) -> Callable[[Tensor, Tensor, Condition], Tensor]:
    width = unet.config.get("time_cond_proj_dim") or 0

    def predict(x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        added = None
        if "time_ids" in cond.extra:
            added = {
                "text_embeds": cond.text.pooled,
                "time_ids": cond.extra["time_ids"],
            }
        if "inpaint" in cond.extra:
            x = torch.cat([x, cond.extra["inpaint"].to(x)], 1)
        said = cond.extra.get("timestep_cond")
        if said is None and width and "guidance" in cond.extra:
            said = guidance_embedding(cond.extra["guidance"], width).to(x)
        return unet(
            x, t, encoder_hidden_states=cond.text.states, added_cond_kwargs=added, timestep_cond=said,
            return_dict=False)[0]  # fmt: skip

    return predict


def sites(unet: Any) -> Iterator[Site]:
    """Every named place of a UNet2DConditionModel, in the order of its forward pass."""
    paths = {id(module): path for path, module in unet.named_modules()}
    deepest = len(unet.down_blocks) - 1
    side = unet.config.sample_size
    grid = side * side if isinstance(side, int) else side[0] * side[1]
    stages = [(block, level, "down") for level, block in enumerate(unet.down_blocks)]
    stages += [(unet.mid_block, deepest, "mid")] if unet.mid_block is not None else []
    stages += [(block, deepest - i, "up") for i, block in enumerate(unet.up_blocks)]
    hidden = unet.config.block_out_channels[-1]
    for stage, level, half in stages:
        common = {
            "part": "unet",
            "level": level,
            "side": half,
            "tokens": grid >> (2 * level),
        }
        yield Site(path=paths[id(stage)], kind="stage", module=stage, **common)
        for module in _in_order(stage):
            if hasattr(module, "transformer_blocks"):
                for block in module.transformer_blocks:
                    yield from _transformer_sites(block, paths, common)
                continue
            path = paths[id(module)]
            if half == "up":
                yield Site(path=path, kind="skip", module=module, split=hidden, **common)
            yield Site(path=path, kind="residual", module=module, **common)
            for child in ("norm1", "norm2"):
                yield Site(
                    path=f"{path}.{child}",
                    kind="norm",
                    module=getattr(module, child),
                    **common,
                )
            for child in ("conv1", "conv2"):
                conv = getattr(module, child)
                handle = {"up" if child == "conv1" else "down": Handle(f"unet:{path}.{child}.weight", conv)}
                yield Site(
                    path=f"{path}.{child}",
                    kind="conv",
                    module=conv,
                    handles=handle,
                    **common,
                )
            hidden = module.out_channels


def _in_order(stage: Any) -> list[Any]:
    """Resnets and transformers of a stage as its forward visits them; the middle one starts with a lone resnet."""
    resnets, attentions = (
        list(stage.resnets),
        [a for a in getattr(stage, "attentions", []) if a is not None],
    )
    if len(resnets) > len(attentions) and attentions:
        return [
            resnets[0],
            *(m for pair in zip(attentions, resnets[1:], strict=False) for m in pair),
        ]
    if not attentions:
        return resnets
    return [m for pair in zip(resnets, attentions, strict=True) for m in pair]


def _transformer_sites(block: Any, paths: dict[int, str], common: dict[str, Any]) -> Iterator[Site]:
    path = paths[id(block)]
    yield Site(path=path, kind="block", module=block, **common)
    for child in ("attn1", "attn2"):
        attention = getattr(block, child, None)
        if attention is None:
            continue
        kind = "cross-attention" if attention.is_cross_attention else "self-attention"
        yield Site(
            path=f"{path}.{child}",
            kind=kind,
            module=attention,
            heads=attention.heads,
            handles=handles.attention(f"unet:{path}.{child}", attention, handles.OWN),
            **common,
        )
    if getattr(block, "ff", None) is not None:
        yield Site(
            path=f"{path}.ff",
            kind="mlp",
            module=block.ff,
            handles=handles.mlp(f"unet:{path}.ff", block.ff),
            **common,
        )
    for child in ("norm1", "norm2", "norm3"):
        if getattr(block, child, None) is not None:
            yield Site(
                path=f"{path}.{child}",
                kind="norm",
                module=getattr(block, child),
                **common,
            )
