"""A scorer whose text and pictures live in the three colour channels, and a judge that looks names up."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from tests.tiny import tiny_sd
from workbench.core.bundle import Bundle, Images, Seams, Shapes, TextStates

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


def painted(*names: str, side: int = 4) -> Images:
    """One picture a name, in one colour, uint8 [B, 3, side, side]."""
    table = torch.tensor([COLOURS[name] for name in names], dtype=torch.uint8)
    return table[:, :, None, None].expand(-1, -1, side, side).contiguous()


def _none(*_: Any) -> Any:
    raise NotImplementedError


def _model(name: str, family: Any, read: Any, encode: Any, about: dict[str, Any]) -> Bundle:
    seams = Seams(read, _none, _none, _none, _none)
    parts = {family: nn.ParameterList([torch.zeros(1)])}
    model = Bundle(name, family, "0", parts, Shapes((0, 0, 0), (3, 4, 4)), seams, encoder=encode, about=about)
    return replace(tiny_sd(), opener=lambda _: model)


def colour_scorer() -> Bundle:
    """The tiny model with a scorer behind `open`: a text's first colour word and a picture's mean colour, in -1..1."""

    def read(prompts: Sequence[str]) -> TextStates:
        words = [next(word for word in prompt.split() if word in COLOURS) for prompt in prompts]
        pooled = torch.tensor([COLOURS[word] for word in words]).float() / 127.5 - 1
        return TextStates(pooled[:, None], pooled)

    return _model("colours", "clip", read, lambda pixels, _: pixels.mean((2, 3)), {})


def colour_judge(objects: list[str], styles: list[str], none: bool = True) -> Bundle:
    """The tiny model with a judge behind `open`: red stands for the first object, green for the second, blue for none;
    the style is always the first."""

    def encode(pixels: Tensor, _: Any) -> Tensor:
        red, green, blue = pixels.mean((2, 3)).unbind(1)
        rest = torch.full((len(pixels), len(objects) - 2), -5.0)
        seen = [red[:, None], green[:, None], rest] + ([blue[:, None]] if none else [])
        way = torch.full((len(pixels), len(styles) + none), -1.0)
        way[:, 0] = 1.0
        return torch.cat([*seen, way], 1)

    return _model("names", "judge", _none, encode, {"objects": objects, "styles": styles})
