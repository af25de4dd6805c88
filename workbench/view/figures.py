"""Panels as plotly figures, made here once for the app and the notebooks.

One colour scale per meaning: amounts from nothing upwards are `AMOUNT`, values around zero are `SIGNED`, lines take
`LINES` in order. No figure reaches outside the page: no maps, no fonts, no remote script.
"""

import base64
import io
import textwrap
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, UInt8
from PIL import Image

from workbench.core.report import Curve, Film, Heat, Note, Panel, Picture, Table

#: Amounts: attention, relevance, probability. Dark is none.
AMOUNT = "Inferno"
#: Values around zero: blue takes away, red adds.
SIGNED = "RdBu_r"
#: Lines and bars, told apart also by colour-blind readers (Okabe and Ito).
LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#B8A800")

_INK = "#7d8590"  # readable on white and on near-black
_FONT = "Source Sans Pro, system-ui, sans-serif"  # the app brings the first
_GRID = "rgba(125,133,144,0.25)"
_WIDEST_TITLE = 44  # letters in a line: what fits beside a picture's axes on a phone
#: What plotly's sliders share: a quiet rail that shows on white and on near-black, no ticks, no labels.
_RAIL = {"pad": {"t": 8}, "ticklen": 0, "minorticklen": 0, "font": {"color": "rgba(0,0,0,0)"}, "borderwidth": 1,
         "bgcolor": _GRID, "bordercolor": _INK, "activebgcolor": _INK}  # fmt: skip
_SMALLEST = 256  # px: smaller pictures are enlarged by whole pixels, so that they stay sharp


def figure(panel: Panel) -> go.Figure:
    """The figure of a panel; sizes itself to its container."""
    match panel:
        case Picture():
            return _picture(panel)
        case Film():
            return _film(panel)
        case Heat():
            return _heat(panel)
        case Curve():
            return _curve(panel)
        case Table():
            return _table(panel)
        case Note():
            return _note(panel)


def data_uri(pixels: UInt8[np.ndarray, "H W C"], smallest: int = _SMALLEST) -> str:
    """uint8 pixels (RGB or RGBA) as a PNG in a `data:` address; small pictures are enlarged by whole pixels."""
    times = max(1, -(-smallest // max(pixels.shape[:2])))
    image = Image.fromarray(np.ascontiguousarray(pixels.repeat(times, 0).repeat(times, 1)))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=3)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def value_range(heat: Heat) -> tuple[float, float]:
    """The values at the two ends of a heat map's colour scale; symmetric for signed maps."""
    low = float(heat.values.min()) if heat.low is None else heat.low
    high = float(heat.values.max()) if heat.high is None else heat.high
    if heat.signed:
        reach = max(abs(low), abs(high)) or 1.0
        return -reach, reach
    return (low, high) if high > low else (low, low + 1.0)


def _layout(title: str, height: int, **more: Any) -> dict[str, Any]:
    lines = textwrap.wrap(title, _WIDEST_TITLE)
    over = 20 * max(len(lines) - 1, 0)
    margin = {"l": 48, "r": 24, "t": 44 if title else 16, "b": 44, **more.pop("margin", {})}
    return {
        "title": {"text": "<br>".join(map(_escape, lines)), "font": {"size": 15}}, "height": height + over,
        "margin": {**margin, "t": margin["t"] + over}, "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)", "font": {"color": _INK, "family": _FONT},
        "colorway": LINES, "template": None, **more}  # fmt: skip


def _bare(size: tuple[int, int]) -> dict[str, Any]:
    """Axes of a picture of (height, width): nothing drawn, square pixels, row 0 on top, no room for numbers."""
    plain = {"visible": False, "showgrid": False, "zeroline": False}
    return {
        "margin": {"l": 12, "r": 12, "t": 44, "b": 12},
        "xaxis": {**plain, "range": [-0.5, size[1] - 0.5], "constrain": "domain"},
        "yaxis": {**plain, "range": [size[0] - 0.5, -0.5], "scaleanchor": "x", "constrain": "domain"},
    }


def _under(pixels: UInt8[np.ndarray, "H W 3"], size: tuple[int, int]) -> dict[str, Any]:
    return {
        "source": data_uri(pixels), "xref": "x", "yref": "y", "x": -0.5, "y": -0.5, "sizex": size[1],
        "sizey": size[0], "sizing": "stretch", "layer": "below"}  # fmt: skip


def _picture(panel: Picture) -> go.Figure:
    made = go.Figure(layout=_layout(panel.title, 360, **_bare(panel.pixels.shape[:2])))
    made.add_layout_image(_under(panel.pixels, panel.pixels.shape[:2]))
    height, width = panel.pixels.shape[:2]
    made.add_trace(go.Scatter(x=[0, width - 1], y=[0, height - 1], mode="markers", opacity=0, hoverinfo="skip"))
    return made


def _heat(panel: Heat) -> go.Figure:
    size = panel.values.shape
    made = go.Figure(layout=_layout(panel.title, 380, **_bare(size)))
    opacity = 1.0
    if panel.over is not None:
        made.add_layout_image(_under(panel.over, size))
        opacity = 0.6
    made.add_trace(_map(panel.values, value_range(panel), panel.signed, panel.unit, opacity))
    if panel.over is not None:
        made.update_layout(sliders=[_strength_slider()], margin_b=84)
    return made


def _map(
    values: Float[np.ndarray, "h w"], ends: tuple[float, float], signed: bool, unit: str, opacity: float
) -> go.Heatmap:
    return go.Heatmap(
        z=np.asarray(values, np.float32), zmin=ends[0], zmax=ends[1], colorscale=SIGNED if signed else AMOUNT,
        opacity=opacity,
        colorbar={"title": {"text": _escape(unit), "side": "right"}, "thickness": 12, "outlinewidth": 0, "xpad": 6},
        hovertemplate="column %{x}, row %{y}<br>%{z:.4g} " + _escape(unit) + "<extra></extra>")  # fmt: skip


def _strength_slider() -> dict[str, Any]:
    steps = [
        {"method": "restyle", "args": [{"opacity": [value / 10]}], "label": f"{value * 10} %"} for value in range(11)
    ]
    return {"active": 6, "currentvalue": {"prefix": "overlay ", "font": {"size": 12, "color": _INK}}, "steps": steps,
            **_RAIL}  # fmt: skip


def _film(panel: Film) -> go.Figure:
    maps = panel.frames.ndim == 3
    size = panel.frames.shape[1:3]
    made = go.Figure(layout=_layout(panel.title, 440, **_bare(size)))
    if maps:
        ends = (float(panel.frames.min()), float(panel.frames.max()) or 1.0)
        if panel.over is not None:
            made.add_layout_image(_under(panel.over, size))
        opacity = 1.0 if panel.over is None else 0.6
        traces = [_map(frame, ends, signed=False, unit="", opacity=opacity) for frame in panel.frames]
    else:
        traces = [go.Image(source=data_uri(frame, smallest=0), hoverinfo="skip") for frame in panel.frames]
    for index, trace in enumerate(traces):
        trace.visible = index == len(traces) - 1
        made.add_trace(trace)
    shown = [[i == j for j in range(len(traces))] for i in range(len(traces))]
    steps = [
        {"method": "restyle", "args": [{"visible": row}], "label": _escape(label)}
        for row, label in zip(shown, panel.labels, strict=True)
    ]
    slider = {"active": len(traces) - 1, "steps": steps, "currentvalue": {"font": {"size": 12, "color": _INK}}, **_RAIL}
    made.update_layout(sliders=[slider], margin_b=84)
    return made


def _curve(panel: Curve) -> go.Figure:
    axis = {"gridcolor": _GRID, "zerolinecolor": _GRID, "linecolor": _GRID}
    made = go.Figure(
        layout=_layout(
            panel.title, 340,
            xaxis={**axis, "title": {"text": _escape(panel.units[0])}},
            yaxis={**axis, "title": {"text": _escape(panel.units[1])}},
            legend={"orientation": "h", "y": -0.25}, margin_b=72,
            showlegend=len(panel.names) > 1)
    )  # fmt: skip
    mode = "lines+markers" if len(panel.x) <= 60 else "lines"
    for name, ys in zip(panel.names, panel.ys, strict=True):
        made.add_trace(go.Scatter(x=panel.x, y=ys, mode=mode, name=_escape(name), marker={"size": 5}))
    return made


def _table(panel: Table) -> go.Figure:
    columns = list(zip(*panel.rows, strict=True)) if panel.rows else [()] * len(panel.columns)
    cells = [[_cell(value) for value in column] for column in columns]
    made = go.Figure(layout=_layout(panel.title, 96 + 28 * max(len(panel.rows), 1)))
    line = {"color": _GRID}
    made.add_trace(
        go.Table(
            header={"values": [_escape(name) for name in panel.columns], "align": "left", "line": line,
                    "fill": {"color": "rgba(125,133,144,0.15)"}},
            cells={"values": cells, "align": "left", "line": line, "height": 26, "fill": {"color": "rgba(0,0,0,0)"}})
    )  # fmt: skip
    return made


def _note(panel: Note) -> go.Figure:
    made = go.Figure(layout=_layout(panel.title, 120, xaxis={"visible": False}, yaxis={"visible": False}))
    made.add_annotation(text=_escape(panel.text), showarrow=False, align="left", x=0, xanchor="left", xref="paper")
    return made


def _cell(value: str | int | float) -> str:
    return f"{value:.4g}" if isinstance(value, float) else _escape(str(value))


def _escape(text: str) -> str:
    """plotly reads a little HTML in its texts, links among it; none of it is meant here."""
    return str(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
