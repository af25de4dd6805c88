"""Methods: every one in the catalog, searchable, with its card."""

import html

import gradio as gr

from apps.controls import edited
from apps.panels import empty
from apps.picker import card_line, card_text
from apps.rendering import redrawn
from workbench.core.catalog import Failure, catalog, find

_COLUMNS = ["Topic", "Name", "Title", "Kind", "Paper", "Families", "Cost"]


def methods_page(demo: gr.Blocks) -> None:
    """Draw the page."""
    known = catalog()
    with gr.Row():
        query = gr.Textbox(
            label="Search", placeholder="topic, name, title, paper", elem_id="method-search", scale=3, min_width=260
        )
        kind = gr.Radio(
            ["all", "sampler", "edit", "lens", "metric"],
            value="all",
            label="Kind",
            scale=2,
            min_width=320,
            elem_id="method-kind",
        )
    names = gr.State([cls.card.name for cls in known])
    table = gr.Dataframe(
        _rows("", "all"),
        headers=_COLUMNS,
        datatype="str",
        interactive=False,
        wrap=True,
        label="Methods",
        show_label=False,
        elem_id="method-table",
    )
    card = gr.State(None)

    def search(text: str, wanted: str) -> tuple[list[list[str]], list[str]]:
        rows = _rows(text or "", wanted or "all")
        return rows, [row[1] for row in rows]

    gr.on(
        [edited(query), kind.input],
        search,
        [query, kind],
        [table, names],
        queue=False,
        show_progress="hidden",
        trigger_mode="always_last",
        api_visibility="private",
    )

    def choose(shown: list[str], event: gr.SelectData) -> str | None:
        row = event.index[0] if isinstance(event.index, list | tuple) else event.index
        return shown[row] if isinstance(row, int) and 0 <= row < len(shown) else None

    table.select(choose, [names], [card], concurrency_limit=None, show_progress="hidden", api_visibility="private")

    @redrawn([card], [demo.load, card.change])
    def shape(name: str | None) -> None:
        if not name:
            gr.HTML(empty("A method's card", "Choose a row to read what it does, its settings and its limits."))
            return
        cls = find(name)
        gr.Markdown(f"# {cls.card.title}")
        gr.HTML(card_line(cls))
        gr.Markdown(card_text(cls), elem_id="method-card")

    _failures(known.failures)


def _failures(found: tuple[Failure, ...]) -> None:
    if found:
        failed = "".join(
            f"<details><summary>{html.escape(f.name)}</summary><pre>{html.escape(f.trace)}</pre></details>"
            for f in found
        )
        gr.HTML(f"<b>Packages whose methods could not be imported</b>{failed}")


def _rows(text: str, kind: str) -> list[list[str]]:
    words = text.lower().split()
    rows = [
        [
            cls.topic(),
            cls.card.name,
            cls.card.title,
            cls.kind,
            cls.card.paper,
            ", ".join(cls.card.families),
            cls.card.cost,
        ]
        for cls in catalog()
        if kind in ("all", cls.kind)
    ]
    return [row for row in rows if all(word in " ".join(row).lower() for word in words)]
