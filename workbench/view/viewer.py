"""Films and word maps as one piece of HTML that needs no server: scrub the frames, hover the words.

The same text serves `gr.HTML` and a notebook's output. Its few handlers are attributes, since a `<script>` put in
through innerHTML never runs; labels are escaped and only ever set as text.
"""

import base64
import functools
import html
import io

import numpy as np
import plotly.colors
from jaxtyping import Float, UInt8
from PIL import Image

from workbench.core.report import Film
from workbench.view.figures import AMOUNT

#: At most so many maps go into a page; more are thinned evenly, and the caption says so.
MOST_MAPS = 40
#: A map's longer side in cells; finer ones are averaged down.
FINEST_MAP = 64
_WIDEST_FRAME = 512  # px
_MOST_FRAMES = 60

_STYLE = """<style>
.wb-film{max-width:30rem;font:inherit}
.wb-film .wb-stage{position:relative;aspect-ratio:var(--shape);border-radius:8px;overflow:hidden;background:#8882}
.wb-film .wb-stage img{position:absolute;inset:0;width:100%;height:100%;margin:0;object-fit:fill}
.wb-film .wb-stage img.wb-sharp{image-rendering:pixelated}
.wb-film .wb-stage img[hidden]{display:none!important}
.wb-film.wb-over img.wb-f{opacity:var(--strength)}
.wb-film .wb-row{display:flex;align-items:center;gap:.75rem;margin-top:.5rem;flex-wrap:wrap}
.wb-film input[type=range]{flex:1;min-width:8rem;accent-color:var(--slider-color,#4f7df3)}
.wb-film output{min-width:7rem;font-variant-numeric:tabular-nums}
.wb-film .wb-word{padding:.25rem .75rem!important;border-radius:1rem!important;border:1px solid #8886!important;
background:none;color:inherit;font:inherit!important;font-size:.875rem!important;margin:0!important;cursor:pointer}
.wb-film .wb-word[aria-pressed=true]{background:var(--primary-600,#4f7df3);border-color:transparent;color:#fff}
.wb-film .wb-title{font-weight:600;margin-bottom:.4rem}
</style>"""

_SHOW = (
    "(function(e,n){var r=e.closest('.wb-film');r.querySelectorAll('.wb-f').forEach(function(f,i){f.hidden=i!=n});"
    "r.querySelectorAll('.wb-word').forEach(function(w,i){w.setAttribute('aria-pressed',i==n)});"
    "var o=r.querySelector('output.wb-label');if(o)o.textContent=r.querySelectorAll('.wb-f')[n].alt})"
)
_STRENGTH = "this.closest('.wb-film').style.setProperty('--strength',this.value/100)"


def film_html(film: Film) -> str:
    """A viewer of the film: words to hover where maps lie over a picture, a step slider otherwise."""
    words = film.over is not None and film.frames.ndim == 3
    keep = _thin(len(film.frames), MOST_MAPS if film.frames.ndim == 3 else _MOST_FRAMES)
    labels = [film.labels[i] for i in keep]
    frames = film.frames[keep]
    images = _maps(frames, words) if frames.ndim == 3 else [_web_image(frame) for frame in frames]
    last = 0 if words else len(keep) - 1
    sharp = "" if words or frames.ndim == 4 else " wb-sharp"
    stack = "".join(
        f'<img class="wb-f{sharp}" src="{image}" alt="{html.escape(label)}"{"" if i == last else " hidden"}>'
        for i, (image, label) in enumerate(zip(images, labels, strict=True))
    )
    under = f'<img src="{_web_image(film.over)}" alt="the picture">' if film.over is not None else ""
    size = film.over.shape[:2] if film.over is not None else frames.shape[1:3]
    title = f'<div class="wb-title">{html.escape(film.title)}</div>' if film.title else ""
    tools = _words(labels) if words else _steps(labels)
    left = "" if len(keep) == len(film.frames) else f"<small>{len(keep)} of {len(film.frames)} shown</small>"
    over = " wb-over" if film.over is not None else ""
    return (
        f'{_STYLE}<div class="wb-film{over}" style="--shape:{size[1]}/{size[0]};--strength:.65">{title}'
        f'<div class="wb-stage">{under}{stack}</div>{tools}{_strength() if film.over is not None else ""}{left}</div>'
    )


def _thin(count: int, most: int) -> list[int]:
    if count <= most:
        return list(range(count))
    return sorted({round(i * (count - 1) / (most - 1)) for i in range(most)})


def _words(labels: list[str]) -> str:
    chips = "".join(
        f'<button type="button" class="wb-word" aria-pressed="{str(i == 0).lower()}" onmouseover="{_SHOW}(this,{i})" '
        f'onfocus="{_SHOW}(this,{i})" onclick="{_SHOW}(this,{i})">{html.escape(label)}</button>'
        for i, label in enumerate(labels)
    )
    return f'<div class="wb-row" role="group" aria-label="Words">{chips}</div>'


def _steps(labels: list[str]) -> str:
    last = len(labels) - 1
    return (
        f'<div class="wb-row"><input type="range" min="0" max="{last}" value="{last}" aria-label="Step" '
        f'oninput="{_SHOW}(this,+this.value)"><output class="wb-label">{html.escape(labels[last])}</output></div>'
    )


def _strength() -> str:
    return (
        '<label class="wb-row">Overlay <input type="range" min="0" max="100" value="65" aria-label="Overlay strength" '
        f'oninput="{_STRENGTH}"></label>'
    )


def _maps(frames: Float[np.ndarray, "T h w"], each: bool) -> list[str]:
    """Coloured maps; word maps are scaled one by one (where does this word look), steps share one scale."""
    low, high = float(frames.min()), float(frames.max())
    images: list[str] = []
    for frame in frames:
        ends = (float(frame.min()), float(frame.max())) if each else (low, high)
        unit = (frame - ends[0]) / ((ends[1] - ends[0]) or 1.0)
        image = Image.fromarray(_ramp()[(unit * 255).clip(0, 255).astype(np.uint8)])
        if max(image.size) > FINEST_MAP:
            scale = FINEST_MAP / max(image.size)
            image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BOX)
        images.append(_uri(image, "PNG"))
    return images


@functools.cache
def _ramp() -> UInt8[np.ndarray, "256 3"]:
    colours = plotly.colors.sample_colorscale(AMOUNT, [i / 255 for i in range(256)], colortype="tuple")
    return (np.asarray(colours) * 255).round().astype(np.uint8)


def _web_image(pixels: UInt8[np.ndarray, "H W 3"]) -> str:
    image = Image.fromarray(np.ascontiguousarray(pixels))
    image.thumbnail((_WIDEST_FRAME, _WIDEST_FRAME))
    return _uri(image, "WEBP", quality=90)


def _uri(image: Image.Image, kind: str, **options: int) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64," + base64.b64encode(buffer.getvalue()).decode()
