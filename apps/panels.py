"""Panels of a report as Gradio components."""

import html
import math
from collections.abc import Mapping

import gradio as gr

from workbench.core.report import Curve, Film, Heat, Note, Panel, Picture, Report, Table
from workbench.view.figures import data_uri, figure
from workbench.view.viewer import film_html


def draw_panel(panel: Panel) -> gr.components.Component:
    """The component that shows a panel."""
    title = panel.title or None
    match panel:
        case Picture(pixels=pixels):
            name = html.escape(panel.title or "Picture")
            return gr.HTML(
                f'<figure class="wb-picture"><img src="{data_uri(pixels)}" alt="{name}">'
                f"<figcaption>{html.escape(panel.title)}</figcaption></figure>"
            )
        case Film():
            return gr.HTML(film_html(panel))
        case Heat() | Curve():
            return gr.Plot(figure(panel), label=title or type(panel).__name__, show_label=False)
        case Table(columns=columns, rows=rows):
            return gr.Dataframe(
                [[_cell(value) for value in row] for row in rows],
                headers=list(columns),
                datatype="str",
                label=title,
                interactive=False,
                wrap=True,
            )
        case Note(text=text):
            head = f"**{html.escape(panel.title)}**\n\n" if panel.title else ""
            return gr.Markdown(head + text, elem_classes=["wb-note"])


def draw_report(report: Report) -> None:
    """All of a report: its numbers as tiles, its panels below; several small panels stand side by side."""
    if report.numbers:
        gr.HTML(number_tiles(report.numbers))
    if not report.panels and not report.numbers:
        gr.HTML(empty("Nothing to show", "The lens found nothing to report."))
    with gr.Row(elem_classes=["wb-panels"]):
        for panel in report.panels:
            wide = isinstance(panel, Table | Note | Curve)
            with gr.Column(min_width=300 if not wide else 420, scale=1 if not wide else 2):
                draw_panel(panel)


def number_tiles(numbers: Mapping[str, float]) -> str:
    """Named numbers as a row of tiles."""
    tiles = "".join(
        f'<div class="wb-tile"><b>{_cell(float(value))}</b><span>{html.escape(name.replace("_", " "))}</span></div>'
        for name, value in numbers.items()
    )
    return f'<div class="wb-tiles">{tiles}</div>'


def empty(title: str, line: str) -> str:
    """What stands where there is nothing yet."""
    return f'<div class="wb-empty"><b>{html.escape(title)}</b><span>{html.escape(line)}</span></div>'


def trouble(line: str) -> str:
    """One readable line about what went wrong."""
    return f'<div class="wb-trouble" role="alert"><b>That did not work.</b> <span>{html.escape(line)}</span></div>'


def _cell(value: str | int | float) -> str:
    if isinstance(value, float):
        return "–" if math.isnan(value) else f"{value:.4g}".replace("inf", "∞")
    return str(value)
