"""A method chosen from a list, with its generated form below and its card one click away."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from apps.controls import draw
from apps.rendering import redrawn
from workbench.core.catalog import catalog, find
from workbench.core.method import Kind, Method
from workbench.view import cards
from workbench.view.forms import form, read_all, show

Raws = dict[str, dict[str, Any]]


def choices(kind: Kind) -> list[tuple[str, str]]:
    """Label and name of each method of a kind, grouped by topic; the label holds what one would search for."""
    return [(f"{cls.topic()} · {cls.card.title} ({cls.card.name})", cls.card.name) for cls in catalog(kind=kind)]


def built(name: str, raws: Mapping[str, Any]) -> Method:
    """A method from what its form's widgets hold. Raises `UnknownMethod` or `AskError`."""
    cls = find(name)
    return cls(**read_all(cls, raws))


def shown(settings: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """A method's name and its widgets' values from `{"method": name, ...}`. Raises `UnknownMethod`."""
    cls = find(str(settings.get("method", "")))
    fields = {field.name: field for field in form(cls).fields}
    return cls.card.name, {name: show(fields[name], value) for name, value in settings.items() if name in fields}


def card_line(cls: type[Method]) -> str:
    """Where a method comes from and what it costs, as one line of HTML."""
    card = cls.card
    paper = html.escape(card.paper)
    number = next((word for word in card.paper.replace(",", " ").split() if word[:4].isdigit() and "." in word), "")
    if number:
        paper = f'<a href="https://arxiv.org/abs/{html.escape(number)}" target="_blank" rel="noreferrer">{paper}</a>'
    families = html.escape(", ".join(card.families))
    return f'<div class="wb-card-line">{paper} · {families} · {html.escape(card.cost)}</div>'


def card_text(cls: type[Method]) -> str:
    """A method's card as Markdown, without its heading and the line of facts, which `card_line` says with a link."""
    return cards.card(cls).partition("\n")[2].strip().partition("\n\n")[2]


class Picker:
    """One method of a kind: a drop-down, the widgets' values by method, and a count that redraws the form."""

    def __init__(self, kind: Kind, label: str, tag: str, default: str = "") -> None:
        found = choices(kind)
        names = [name for _, name in found]
        self.tag = tag
        start = default if default in names else (names[0] if names else None)
        self.name = gr.Dropdown(
            found,
            value=start,
            label=label,
            elem_id=f"{tag}-name",
            filterable=len(found) > 8,
            visible=len(found) > 1 or not found,
        )
        self.raws = gr.State({})
        self.version = gr.State(0)

    def place(self, demo: gr.Blocks, suggest: Sequence[str] = (), card: bool = True) -> None:
        """Draw the form of the chosen method here."""

        @redrawn([self.name, self.raws], [demo.load, self.name.change, self.version.change])
        def shape(name: str | None, raws: Raws) -> None:
            if not name:
                return
            cls = find(name)

            def keep(state: Raws, field: str, raw: Any) -> Raws:
                state.setdefault(cls.card.name, {})[field] = raw
                return state

            with gr.Column(elem_classes=["wb-body"]):
                draw(cls, raws.get(name, {}), keep, self.raws, f"{self.tag}-{name}", suggest)
            if card:
                with gr.Accordion(f"About {cls.card.title}", open=False):
                    gr.HTML(card_line(cls))
                    gr.Markdown(card_text(cls))

    @staticmethod
    def read(name: str | None, raws: Raws) -> Method:
        """The chosen method with its settings. Raises `AskError`."""
        return built(name or "", (raws or {}).get(name or "", {}))
