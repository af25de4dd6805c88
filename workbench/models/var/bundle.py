"""A VQ and a next-scale transformer as a bundle of family `var`: its seams and its sites."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from workbench.blocks.scales import Choice, Memory
from workbench.core.bundle import Bundle, Condition, Handle, Seams, Shapes, Site, TextStates
from workbench.core.errors import AskError, CheckpointMismatch, MissingPart
from workbench.models.var.engine import predictor
from workbench.models.var.transformer import VARTransformer, named
from workbench.models.var.vq import MultiScaleVQ

#: How `Bundle.open` names the transformer that takes over at late scales.
REFINER = "refiner"
_CLASS = "class:"


def from_parts(
    vq: MultiScaleVQ,
    net: VARTransformer,
    *,
    refiner: VARTransformer | None = None,
    name: str,
    source: str = "",
    digest: str = "",
    opener: Callable[[str], Bundle] | None = None,
    world: Any = None,
    about: Mapping[str, Any] | None = None,
) -> Bundle:
    """A bundle over a VQ and a transformer; with a `refiner`, `open("refiner")` is the same over that one.

    Raises `CheckpointMismatch` when they do not belong together.
    """
    for part in (vq, net, *([refiner] if refiner is not None else [])):
        part.eval().requires_grad_(False)
    check_pair(vq, net, name)
    common: dict[str, Any] = {"source": source, "world": world}
    second = None
    if refiner is not None:
        second = from_parts(vq, refiner, name=f"{name}/{REFINER}", digest=digest, opener=opener, about=about, **common)

    def other(model: str) -> Bundle:
        if model == REFINER and second is not None:
            return second
        if opener is None:
            raise MissingPart(f"{name} was made without a loader, so it cannot open {model!r}.")
        return opener(model)

    side, config = vq.patch_nums[-1], net.config
    pixels = side * vq.factor
    shapes = Shapes((config["latent_channels"], side, side), (3, pixels, pixels), (1, net.width), multiple=vq.factor)
    seams = Seams(
        read=_reader(net, name, other), predict=predictor(net), guide=guide, advance=_advancer(vq, net),
        decode=lambda latents: vq.decode(latents.to(vq.dtype)))  # fmt: skip
    facts = {
        "grids": [list(grid) for grid in net.grids], "vocab": config["vocab_size"], "classes": config["num_classes"],
        "prediction": config["prediction"], "any_schedule": config["position"] == "area",
        "refiner": refiner is not None}  # fmt: skip
    return Bundle(
        name=name, family="var", digest=digest, parts={"var": net, "vq": vq}, shapes=shapes, seams=seams,
        all_sites=tuple(sites(net)), sampler="var", opener=other,
        encoder=lambda pixels, generators=None: vq.encode(pixels.to(vq.device, vq.dtype)),
        about={**(about or {}), **facts}, **common)  # fmt: skip


def check_pair(vq: MultiScaleVQ, net: VARTransformer, name: str) -> None:
    """Raise `CheckpointMismatch` when a VQ and a transformer do not speak of the same tokens."""
    direct = net.config["prediction"] == "direct"
    pairs = {
        "codes in the vocabulary": (vq.config["vocab_size"], net.config["vocab_size"]),
        "channels of the latent": (vq.config["latent_channels"], net.config["latent_channels"]),
        "scales": (named([(p, p) for p in vq.patch_nums]), named(net.grids)),
        "prediction": ("residual" if vq.config["residual"] else "direct", "direct" if direct else "residual"),
    }
    for what, (theirs, ours) in pairs.items():
        if theirs != ours:
            raise CheckpointMismatch(
                f"{name}: the VQ and the transformer differ in their {what}: {theirs} and {ours}. They belong to "
                "different models; take both from the same one."
            )


def guide(positive: Tensor, negative: Tensor, scale: float | Tensor, cond: Condition) -> Tensor:
    """Guidance of logits, (1 + t) p - t n with t = scale - 1, the original's form; `scale` may be one an image."""
    return positive * scale - negative * (scale - 1)


def _reader(net: VARTransformer, name: str, opener: Callable[[str], Bundle]) -> Callable[[Sequence[str]], TextStates]:
    classes, words = net.config["num_classes"], net.config["text_model"]

    def one(prompt: str) -> Tensor:
        device = net.head.weight.device
        if not prompt:
            return net.null()[None]
        if prompt.startswith(_CLASS):
            return net.embed(torch.tensor([class_id(prompt, classes, name)], device=device))
        if not net.config["pooled_dim"]:
            raise AskError(
                f"The prompt is {prompt[:60]!r}; {name} draws classes. Ask for class:0 to class:{classes - 1}."
            )
        pooled = opener(words).read([prompt]).pooled
        if pooled is None or pooled.shape[-1] != net.config["pooled_dim"]:
            raise CheckpointMismatch(f"{name} reads texts through {words!r}, whose embedding is not the one it knows.")
        return net.embed(pooled.to(device, net.dtype))

    def read(prompts: Sequence[str]) -> TextStates:
        vectors = torch.cat([one(prompt) for prompt in prompts])
        return TextStates(vectors[:, None], pooled=vectors)

    return read


def class_id(prompt: str, classes: int, name: str) -> int:
    """The class that `class:207` names. Raises `AskError` for what is no class of the model."""
    text = prompt.removeprefix(_CLASS).strip()
    if not classes:
        raise AskError(f"The prompt is {prompt[:60]!r}; {name} reads words and has no classes. Say what to draw.")
    if not text.isdecimal() or len(text) > 9 or int(text) >= classes:
        raise AskError(f"The prompt is {prompt[:60]!r}; the classes of {name} are 0 to {classes - 1}. Ask for class:0.")
    return int(text)


def _advancer(vq: MultiScaleVQ, net: VARTransformer) -> Callable[..., tuple[Tensor, Tensor]]:
    residual = net.config["prediction"] == "residual"

    def advance(
        x: Tensor, logits: Tensor, t: Tensor, cond: Condition, choice: Choice, generators: Sequence[torch.Generator]
    ) -> tuple[Tensor, Tensor]:
        """Draw a scale's tokens [B, h w] from logits [B, V, h, w] and add what they say."""
        if cond.step is None:
            raise AskError("A scale is drawn within a run; the condition names no step.")
        k, (h, w) = cond.step.index, logits.shape[-2:]
        rows = logits.flatten(2).transpose(1, 2)
        rows = rows.to(torch.promote_types(rows.dtype, torch.float32)).contiguous()
        tokens, weights = choice.draw(rows, cond.step, generators)
        memory = cond.memory
        if isinstance(memory, Memory):
            memory.tokens[k] = tokens
        if weights is None:
            codes = vq.embed(k, tokens, (h, w))
        else:
            book = vq.quantize.embedding.weight
            codes = (weights.to(book) @ book).transpose(1, 2).reshape(len(x), -1, h, w)
        if choice.change is not None:
            codes = choice.change(k, codes, x)
        x = x + vq.rise(k, codes, (x.shape[-2], x.shape[-1])) if residual else codes
        return x, x

    return advance


def sites(net: VARTransformer) -> Iterator[Site]:
    """Blocks, their norm, attention and mlp, in the order of the forward pass; tokens are those of the last scale."""
    width = net.width
    tokens = net.grids[-1][0] * net.grids[-1][1]
    block: Any
    for b, block in enumerate(net.blocks):
        path = f"blocks.{b}"
        common: dict[str, Any] = {"part": "var", "tokens": tokens}
        yield Site(path=path, kind="block", module=block, **common)
        yield Site(path=f"{path}.norm", kind="norm", module=block.norm, **common)
        fused: Any = block.attn.mat_qkv
        handles = {
            ours: Handle(f"var:{path}.attn.mat_qkv.weight", fused, rows=slice(i * width, (i + 1) * width))
            for i, ours in enumerate(("query", "key", "value"))
        }
        handles["out"] = Handle(f"var:{path}.attn.proj.weight", block.attn.proj)
        yield Site(
            path=f"{path}.attn", kind="self-attention", module=block.attn, heads=net.heads, handles=handles,
            **common)  # fmt: skip
        mlp = {"up": block.ffn.fc1, "down": block.ffn.fc2}
        names = {"up": "fc1", "down": "fc2"}
        handles = {ours: Handle(f"var:{path}.ffn.{names[ours]}.weight", linear) for ours, linear in mlp.items()}
        yield Site(path=f"{path}.ffn", kind="mlp", module=block.ffn, handles=handles, **common)
