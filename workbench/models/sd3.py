"""Stable Diffusion 3 and 3.5: a diffusers pipeline as a bundle, with any of its three text encoders left out."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from workbench.core.bundle import Bundle, Condition, Seams, Site, TextStates
from workbench.core.errors import MissingPart
from workbench.models import dit, reading, schedulers, vae
from workbench.models.unet import guide

PIPELINES = ("StableDiffusion3Pipeline", "StableDiffusion3Img2ImgPipeline", "StableDiffusion3InpaintPipeline")
T5_TOKENS = 256
CLIP_TOKENS = 77


def from_pipeline(pipe: Any, **given: Any) -> Bundle:
    """A bundle over the parts of a loaded SD3 pipeline; `given` is what `Bundle` takes of a name, digest and the like.

    Raises `UnsupportedFamily` for another transformer and `MissingPart` without any text encoder.
    """
    dit.refuse_other(pipe, given["name"], "SD3Transformer2DModel")
    config, scheduler = pipe.transformer.config, schedulers.config_of(pipe.scheduler)
    if all(tower is None for _, tower in _towers(pipe)):
        raise MissingPart(f"{given['name']} has no text encoder. It needs one of text_encoder, _2 and _3.")
    seams = Seams(
        read=_reader(pipe), predict=predictor(pipe.transformer), guide=guide, advance=schedulers.advance,
        decode=vae.decoder(pipe.vae))  # fmt: skip
    shapes = dit.shapes(pipe, config.sample_size, config.patch_size, (_length(pipe), config.joint_attention_dim))
    device, cell = pipe.transformer.device, shapes.multiple

    def schedule(kind: str, steps: int, size: tuple[int, int]) -> Any:
        return schedulers.make(kind, scheduler, steps, device, (size[0] // cell) * (size[1] // cell))

    first = next(tokenizer for tokenizer, tower in _towers(pipe) if tower is not None)
    return dit.bundle(
        pipe, seams, given, family="mmdit", shapes=shapes, all_sites=tuple(sites(pipe.transformer)), schedule=schedule,
        lexicon=lambda: reading.lexicon(first))  # fmt: skip


def sites(transformer: Any) -> Iterator[Site]:
    """Every named place of an SD3Transformer2DModel; in its joint attentions the text comes last."""
    config = transformer.config
    common = {
        "part": dit.PART,
        "level": dit.level(config.patch_size),
        "tokens": (config.sample_size // config.patch_size) ** 2,
    }
    for i, block in enumerate(transformer.transformer_blocks):
        yield from dit.children(block, f"transformer_blocks.{i}", common, {"attn": "last"})


def _towers(pipe: Any) -> list[tuple[Any, Any]]:
    """Tokenizer and text encoder of CLIP, of CLIP-G and of T5; (None, None) for one that is not there."""
    rooms = ("", "_2", "_3")
    pairs = [(getattr(pipe, f"tokenizer{room}", None), getattr(pipe, f"text_encoder{room}", None)) for room in rooms]
    return [(None, None) if None in pair else pair for pair in pairs]


def _length(pipe: Any) -> int:
    clip, _, t5 = _towers(pipe)
    return _clip_length(clip[0]) + (reading.t5_length(t5[0], T5_TOKENS) if t5[0] is not None else T5_TOKENS)


def _clip_length(tokenizer: Any) -> int:
    return tokenizer.model_max_length if tokenizer is not None else CLIP_TOKENS


def _reader(pipe: Any) -> Callable[[Sequence[str]], TextStates]:
    """States [R, 77 + 256, D]: both CLIPs' side by side, then T5's; zeros stand for an encoder that is not there."""
    *clips, (t5_words, t5) = _towers(pipe)
    config, device = pipe.transformer.config, pipe.transformer.device
    width, pooled_width = config.joint_attention_dim, config.pooled_projection_dim
    known = sum(tower.config.projection_dim for _, tower in clips if tower is not None)
    dtype = pipe.transformer.dtype

    def clip_half(prompts: Sequence[str]) -> tuple[Tensor | None, Tensor, Tensor]:
        ids: Tensor | None = None
        states: list[Tensor] = []
        pooled: list[Tensor] = []
        for tokenizer, tower in clips:
            if tower is None:  # the one that is there tells how wide this one was
                gap = max(pooled_width - known, 0) if known else 0
                states.append(torch.zeros(len(prompts), CLIP_TOKENS, gap, device=device, dtype=dtype))
                pooled.append(torch.zeros(len(prompts), gap, device=device, dtype=dtype))
                continue
            seen, said, whole = reading.clip_states(tokenizer, tower, prompts)
            ids = seen if ids is None else ids
            states.append(said)
            pooled.append(whole)
        joined, told = torch.cat(states, -1), torch.cat(pooled, -1)
        return ids, F.pad(joined, (0, width - joined.shape[-1])), F.pad(told, (0, pooled_width - told.shape[-1]))

    def read(prompts: Sequence[str]) -> TextStates:
        ids, clip_said, pooled = clip_half(prompts)
        if t5 is None:
            t5_said = clip_said.new_zeros(len(prompts), T5_TOKENS, width)
            more = None if ids is None else ids[:, -1:].expand(-1, T5_TOKENS)
        else:
            more, t5_said, _ = reading.t5_states(t5_words, t5, prompts, reading.t5_length(t5_words, T5_TOKENS))
        # without CLIP the first states are nobody's, so no ids are told and words cannot be looked for
        ids = None if ids is None or more is None else torch.cat([ids, more], 1)
        return TextStates(torch.cat([clip_said, t5_said.to(clip_said)], 1), pooled=pooled, ids=ids)

    return read


def predictor(transformer: Any) -> Callable[[Tensor, Tensor, Condition], Tensor]:
    """The network as a seam."""

    def predict(x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        return transformer(
            hidden_states=x, timestep=t, encoder_hidden_states=cond.text.states, pooled_projections=cond.text.pooled,
            return_dict=False)[0]  # fmt: skip

    return predict
