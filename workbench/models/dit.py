"""What the readers of diffusion transformers share: parts in order, the patch grid, and sites of a block's children."""

from collections.abc import Iterator, Mapping
from math import log2
from typing import Any, Literal

from torch import nn

from workbench.core.bundle import Bundle, Seams, Shapes, Site
from workbench.core.errors import UnsupportedFamily
from workbench.models import handles, vae

PART = "transformer"
End = Literal["first", "last"]
_TOWERS = {"text_encoder": "text", "text_encoder_2": "text2", "text_encoder_3": "text3"}
#: What diffusers calls the children of a transformer's block, in the order of its forward pass.
_CHILDREN = ("norm1", "norm1_context", "norm", "attn", "attn1", "attn2", "norm2", "ff", "norm2_context", "ff_context")


def parts(pipe: Any) -> dict[str, nn.Module]:
    """The transformer first, then the autoencoder and whatever text encoders there are, ready for use."""
    found = {PART: pipe.transformer, "vae": pipe.vae}
    found |= {ours: getattr(pipe, theirs, None) for theirs, ours in _TOWERS.items()}
    there = {name: module for name, module in found.items() if module is not None}
    for module in there.values():
        module.eval().requires_grad_(False)
    return there


def refuse_other(pipe: Any, name: str, kind: str) -> None:
    """Raise `UnsupportedFamily` when a pipeline's transformer is of another class than the reader's."""
    cls = type(getattr(pipe, PART, None)).__name__
    if cls != kind:
        raise UnsupportedFamily(f"{name} is a {type(pipe).__name__} with a {cls}; its reader takes a {kind}.")


def shapes(pipe: Any, side: int, patch: int, text: tuple[int, int]) -> Shapes:
    """Sizes of a transformer whose patches are `patch` latent cells a side, at `side` cells of its own."""
    factor = vae.pixels_a_cell(pipe.vae)
    channels = pipe.vae.config.latent_channels
    return Shapes((channels, side, side), (3, side * factor, side * factor), text, multiple=factor * patch)


def bundle(pipe: Any, seams: Seams, given: Mapping[str, Any], **own: Any) -> Bundle:
    """A bundle over a pipeline's parts: what the loader gave of it and what its architecture says of itself."""
    facts = {**own.pop("facts", {}), **(given.get("about") or {})}
    rest = {key: value for key, value in given.items() if key != "about"}
    return Bundle(parts=parts(pipe), seams=seams, encoder=vae.encoder(pipe.vae), about=facts, **rest, **own)


def level(patch: int) -> int:
    """Halvings of the latent grid that a patch makes."""
    return int(log2(patch))


def children(block: Any, path: str, common: Mapping[str, Any], text: Mapping[str, End] | None = None) -> Iterator[Site]:
    """A block of diffusers and its named children in the order of its forward pass.

    `text` names joint attentions and where the text stands in them; children that work on the text alone have no
    picture tokens.
    """
    text = text or {}
    yield Site(path=path, kind="block", module=block, **common)
    for child in _CHILDREN:
        module = getattr(block, child, None)
        if module is None:
            continue
        here = {**common, "path": f"{path}.{child}", "module": module}
        if child.endswith("_context"):
            here["tokens"] = None
        if child.startswith("norm"):
            yield Site(kind="norm", **here)
        elif child.startswith("ff"):
            yield Site(kind="mlp", handles=handles.mlp(f"{PART}:{path}.{child}", module), **here)
        else:
            kind = "cross-attention" if getattr(module, "is_cross_attention", False) else "self-attention"
            matrices = handles.attention(f"{PART}:{path}.{child}", module)
            yield Site(kind=kind, heads=module.heads, handles=matrices, text=text.get(child, ""), **here)
