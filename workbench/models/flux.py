"""FLUX.1: a diffusers pipeline as a bundle; latents stay pictures outside, and are packed for the network alone."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from workbench.core.bundle import Bundle, Condition, Seams, Site, TextStates
from workbench.models import dit, reading, schedulers, vae
from workbench.models.unet import guide

PIPELINES = ("FluxPipeline", "FluxImg2ImgPipeline", "FluxInpaintPipeline")
T5_TOKENS = 512
PATCH = 2
SIDE = 128  # of the latent grid, where the autoencoder does not say
GUIDANCE = 3.5  # what a model that takes its guidance as an input is told when nobody says


def from_pipeline(pipe: Any, **given: Any) -> Bundle:
    """A bundle over the parts of a loaded FLUX pipeline; `given` is what `Bundle` takes of a name, digest and the like.

    Raises `UnsupportedFamily` for another transformer.
    """
    dit.refuse_other(pipe, given["name"], "FluxTransformer2DModel")
    config, scheduler, device = pipe.transformer.config, schedulers.config_of(pipe.scheduler), pipe.transformer.device
    length = reading.t5_length(pipe.tokenizer_2, T5_TOKENS)
    seams = Seams(
        read=_reader(pipe, length), predict=predictor(pipe.transformer), guide=guide, advance=schedulers.advance,
        decode=vae.decoder(pipe.vae))  # fmt: skip
    side = (pipe.vae.config.get("sample_size") or SIDE * vae.pixels_a_cell(pipe.vae)) // vae.pixels_a_cell(pipe.vae)
    shapes = dit.shapes(pipe, side, PATCH, (length, config.joint_attention_dim))
    cell = shapes.multiple

    def schedule(kind: str, steps: int, size: tuple[int, int]) -> Any:
        tokens = (size[0] // cell) * (size[1] // cell)
        return schedulers.make(kind, scheduler, steps, device, tokens, even=True)

    return dit.bundle(
        pipe, seams, given, family="mmdit", shapes=shapes, all_sites=tuple(sites(pipe.transformer, side)),
        schedule=schedule, facts={"guidance_input": bool(config.guidance_embeds)},
        lexicon=lambda: reading.lexicon(pipe.tokenizer_2))  # fmt: skip


def sites(transformer: Any, side: int) -> Iterator[Site]:
    """Every named place of a FluxTransformer2DModel at `side` latent cells; the text comes first in its attentions.

    Blocks of one stream have their attention's output and their mlp in one matrix, so neither is a handle.
    """
    common = {"part": dit.PART, "level": dit.level(PATCH), "tokens": (side // PATCH) ** 2}
    for i, block in enumerate(transformer.transformer_blocks):
        yield from dit.children(block, f"transformer_blocks.{i}", common, {"attn": "first"})
    for i, block in enumerate(transformer.single_transformer_blocks):
        yield from dit.children(block, f"single_transformer_blocks.{i}", common, {"attn": "first"})


def pack(x: Tensor) -> Tensor:
    """Latents [B, C, h, w] as tokens [B, h w / 4, 4 C], one for each 2x2 cells, channels outermost.

    >>> pack(torch.arange(8.0).view(1, 2, 2, 2))
    tensor([[[0., 1., 2., 3., 4., 5., 6., 7.]]])
    """
    b, c, h, w = x.shape
    return x.view(b, c, h // PATCH, PATCH, w // PATCH, PATCH).permute(0, 2, 4, 1, 3, 5).reshape(b, -1, c * PATCH**2)


def unpack(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """Tokens back to latents [B, C, h, w] of a size (h, w)."""
    h, w = size[0] // PATCH, size[1] // PATCH
    grid = tokens.view(len(tokens), h, w, -1, PATCH, PATCH).permute(0, 3, 1, 4, 2, 5)
    return grid.reshape(len(tokens), -1, *size)


def places(size: tuple[int, int], device: torch.device) -> Tensor:
    """Positions (0, row, column) of a picture's tokens [h w / 4, 3] for rotary embedding; the text's are all 0."""
    rows, columns = (torch.arange(side // PATCH, device=device, dtype=torch.float32) for side in size)
    grid = torch.cartesian_prod(rows, columns)
    return torch.cat([torch.zeros_like(grid[:, :1]), grid], 1)


def _reader(pipe: Any, length: int) -> Callable[[Sequence[str]], TextStates]:
    """T5's states, and CLIP's whole-text vector as the pooled one."""

    def read(prompts: Sequence[str]) -> TextStates:
        seen = reading.token_ids(pipe.tokenizer, prompts, pipe.text_encoder.device)
        pooled = pipe.text_encoder(seen, output_hidden_states=False).pooler_output
        ids, states, _ = reading.t5_states(pipe.tokenizer_2, pipe.text_encoder_2, prompts, length)
        return TextStates(states, pooled=pooled, ids=ids)

    return read


def predictor(transformer: Any) -> Callable[[Tensor, Tensor, Condition], Tensor]:
    """The network as a seam; latents are packed for it, and without word of its guidance it is told the usual one."""
    takes = bool(transformer.config.guidance_embeds)

    def predict(x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        size = (x.shape[-2], x.shape[-1])
        guidance = None
        if takes:
            guidance = cond.extra.get("guidance", torch.full((len(x),), GUIDANCE, device=x.device)).float()
        made = transformer(
            hidden_states=pack(x), timestep=t.to(x.dtype) / 1000, guidance=guidance,
            pooled_projections=cond.text.pooled, encoder_hidden_states=cond.text.states,
            txt_ids=torch.zeros(cond.text.states.shape[1], 3, device=x.device), img_ids=places(size, x.device),
            return_dict=False)[0]  # fmt: skip
        return unpack(made, size)

    return predict
