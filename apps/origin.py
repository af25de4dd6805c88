"""The picture and the mask that a plan started from, found again and put back on the canvas."""

from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from apps.desk import Desk
from workbench.core.plan import Plan

#: The colour that masks are painted with.
BRUSH = "#ff4f8b"


def own_files(desk: Desk, owner: str, plan: Plan) -> tuple[Path | None, Path | None]:
    """Picture and mask of a plan where they lie in the browser's own folder, which no picture from elsewhere names."""
    paths = (plan.ask.image, plan.ask.mask)
    image, mask = (p if p is not None and desk.owns(owner, p) and p.is_file() else None for p in paths)
    return image, mask if image is not None else None


def on_canvas(desk: Desk, owner: str, plan: Plan) -> dict[str, Any] | None:
    """What the canvas shows for a plan; None, with a word when something is missing, for an empty one."""
    image, mask = own_files(desk, owner, plan)
    if image is None:
        if plan.ask.image is not None:
            gr.Warning("The picture this one was started from is not in this browser's folder; drop it yourself.")
        return None
    layers = [] if mask is None else [str(_painted(mask))]
    return {"background": str(image), "layers": layers, "composite": str(image)}


def _painted(mask: Path) -> Path:
    """A mask as a layer, painted where the mask is white; a file beside it."""
    layer = mask.with_name("layer.png")
    with Image.open(mask) as image:
        alpha = image.convert("L")
    ink = Image.new("RGBA", alpha.size, BRUSH)
    ink.putalpha(alpha)
    ink.save(layer)
    return layer
