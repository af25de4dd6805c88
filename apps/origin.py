"""The picture and the mask that a plan started from, found again and put back on the canvas.

Gradio's editor loses a layer that is put into it from here: it places it by the size of an empty canvas and then asks
for it without end. So the mask is painted onto the picture that the canvas shows, and taken off again when drawing.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from apps.desk import Desk
from workbench.core.plan import Plan
from workbench.runs.shelf import alike

#: The colour that masks are painted with.
BRUSH = "#ff4f8b"

#: What a shown picture stands for: `image` and `layer` behind `shown`, all paths.
Painted = dict[str, str]


def own_files(desk: Desk, owner: str, plan: Plan) -> tuple[Path | None, Path | None]:
    """Picture and mask of a plan where they lie in the browser's own folder, which no picture from elsewhere names."""
    paths = (plan.ask.image, plan.ask.mask)
    image, mask = (p if p is not None and desk.owns(owner, p) and p.is_file() else None for p in paths)
    return image, mask if image is not None else None


def on_canvas(desk: Desk, owner: str, plan: Plan) -> tuple[dict[str, Any] | None, Painted | None]:
    """What the canvas shows for a plan, and what of it is a mask; (None, None) for a plan that starts from nothing.

    Says a word when the picture is missing.
    """
    image, mask = own_files(desk, owner, plan)
    if image is None:
        if plan.ask.image is not None:
            gr.Warning("The picture this one was started from is not in this browser's folder; drop it yourself.")
        return None, None
    if mask is None:
        return canvas(image), None
    painted = _paint(image, mask)
    return canvas(Path(painted["shown"])), painted


def canvas(picture: Path | str) -> dict[str, Any]:
    """The canvas's value with a picture and nothing painted on it."""
    return {"background": str(picture), "layers": [], "composite": str(picture)}


def behind(painted: Painted | None, background: str, layers: Sequence[str]) -> tuple[str, list[str]]:
    """Picture and layers that a canvas stands for: the mask comes off where the canvas still shows what we painted."""
    if painted is None or not alike(background, painted["shown"]):
        return background, list(layers)
    return painted["image"], [painted["layer"], *layers]


def _paint(image: Path, mask: Path) -> Painted:
    """A layer that is inked where the mask is white, and the picture with it; files beside the mask."""
    layer, shown = mask.with_name("layer.png"), mask.with_name("shown.png")
    with Image.open(image) as under, Image.open(mask) as white:
        picture = under.convert("RGBA")
        alpha = white.convert("L").resize(picture.size)
    ink = Image.new("RGBA", picture.size, BRUSH)
    ink.putalpha(alpha)
    ink.save(layer)
    picture.alpha_composite(ink)
    picture.convert("RGB").save(shown)
    return {"image": str(image), "layer": str(layer), "shown": str(shown)}
