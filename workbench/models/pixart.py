"""PixArt-alpha and PixArt-Sigma: a diffusers pipeline as a bundle."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from workbench.core.bundle import Bundle, Condition, Seams, Site, TextStates
from workbench.models import dit, reading, schedulers, vae
from workbench.models.unet import guide

#: Pipeline -> how many tokens its T5 reads.
TOKENS = {"PixArtAlphaPipeline": 120, "PixArtSigmaPipeline": 300}
PIPELINES = tuple(TOKENS)


def from_pipeline(pipe: Any, **given: Any) -> Bundle:
    """A bundle over the parts of a loaded PixArt pipeline; `given` is what `Bundle` takes of a name, digest, the like.

    Raises `UnsupportedFamily` for another transformer.
    """
    dit.refuse_other(pipe, given["name"], "PixArtTransformer2DModel")
    config, scheduler, device = pipe.transformer.config, schedulers.config_of(pipe.scheduler), pipe.transformer.device
    length = reading.t5_length(pipe.tokenizer, TOKENS.get(type(pipe).__name__, 120))
    seams = Seams(
        read=_reader(pipe, length), predict=predictor(pipe.transformer), guide=guide, advance=schedulers.advance,
        decode=vae.decoder(pipe.vae))  # fmt: skip
    return dit.bundle(
        pipe, seams, given, family="dit",
        shapes=dit.shapes(pipe, config.sample_size, config.patch_size, (length, config.caption_channels)),
        all_sites=tuple(sites(pipe.transformer)),
        schedule=lambda kind, steps, size: schedulers.make(kind, scheduler, steps, device),
        extra=sizes if pipe.transformer.use_additional_conditions else None,
        lexicon=lambda: reading.lexicon(pipe.tokenizer))  # fmt: skip


def sites(transformer: Any) -> Iterator[Site]:
    """Every named place of a PixArtTransformer2DModel."""
    config = transformer.config
    common = {
        "part": dit.PART,
        "level": dit.level(config.patch_size),
        "tokens": (config.sample_size // config.patch_size) ** 2,
    }
    for i, block in enumerate(transformer.transformer_blocks):
        yield from dit.children(block, f"transformer_blocks.{i}", common)


def _reader(pipe: Any, length: int) -> Callable[[Sequence[str]], TextStates]:
    """T5's states and mask of prompts in lower case, as the model was trained on."""
    tokenizer, tower = pipe.tokenizer, pipe.text_encoder

    def read(prompts: Sequence[str]) -> TextStates:
        plain = [prompt.lower().strip() for prompt in prompts]
        ids, states, mask = reading.t5_states(tokenizer, tower, plain, length, masked=True)
        return TextStates(states, mask=mask.to(states), ids=ids)

    return read


def sizes(cond: Condition, size: tuple[int, int]) -> dict[str, Tensor]:
    """What the 1024-pixel PixArt-alpha is told of the picture: (height, width) and height / width."""
    width, height = size
    states = cond.text.states
    rows = len(states)
    resolution = torch.tensor([[height, width]], dtype=states.dtype, device=states.device)
    ratio = torch.tensor([[height / width]], dtype=states.dtype, device=states.device)
    return {"resolution": resolution.expand(rows, -1), "aspect_ratio": ratio.expand(rows, -1)}


def predictor(transformer: Any) -> Callable[[Tensor, Tensor, Condition], Tensor]:
    """The network as a seam."""
    config = transformer.config

    def predict(x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        told = {name: cond.extra.get(name) for name in ("resolution", "aspect_ratio")}
        made = transformer(
            x, encoder_hidden_states=cond.text.states, encoder_attention_mask=cond.text.mask, timestep=t,
            added_cond_kwargs=told, return_dict=False)[0]  # fmt: skip
        return made[:, : config.in_channels]  # the second half, where there is one, is a learned variance

    return predict
