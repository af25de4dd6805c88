"""The stack of edits: add from a searchable list, order, switch off, duplicate, remove; each with its form and card."""

import copy
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from apps.controls import draw
from apps.panels import empty
from apps.picker import built, card_line, card_text, choices, shown
from apps.rendering import redrawn
from workbench.core.catalog import find
from workbench.core.errors import AskError
from workbench.core.method import Edit, Method

Item = dict[str, Any]  # id, method, on, raws (the widgets' values)

MOST_EDITS = 16


def item(name: str, raws: Mapping[str, Any] | None = None, on: bool = True) -> Item:
    """A fresh entry of the stack."""
    return {"id": secrets.token_hex(4), "method": name, "on": on, "raws": dict(raws or {})}


def added(items: list[Item], name: str | None) -> list[Item]:
    """The stack with one more edit at its end. Raises `AskError` when it is full."""
    if not name:
        return items
    if len(items) >= MOST_EDITS:
        raise AskError(f"The stack holds {MOST_EDITS} edits, which is its limit. Remove one first.")
    return [*items, item(find(name).card.name)]


def moved(items: list[Item], which: str, by: int) -> list[Item]:
    """The stack with an entry moved up (-1) or down (+1); at the ends nothing happens."""
    at = next((i for i, entry in enumerate(items) if entry["id"] == which), None)
    if at is None or not 0 <= at + by < len(items):
        return items
    order = list(items)
    order[at], order[at + by] = order[at + by], order[at]
    return order


def duplicated(items: list[Item], which: str) -> list[Item]:
    """The stack with a copy of an entry right after it."""
    result: list[Item] = []
    for entry in items:
        result.append(entry)
        if entry["id"] == which and len(items) < MOST_EDITS:
            result.append(item(entry["method"], copy.deepcopy(entry["raws"]), entry["on"]))
    return result


def removed(items: list[Item], which: str) -> list[Item]:
    """The stack without an entry."""
    return [entry for entry in items if entry["id"] != which]


def edits(items: Sequence[Item]) -> tuple[Edit, ...]:
    """The edits that are switched on, with their settings, in order. Raises `AskError`."""
    made: list[Method] = [built(entry["method"], entry["raws"]) for entry in items if entry["on"]]
    return tuple(edit for edit in made if isinstance(edit, Edit))


def restored(entries: Sequence[Mapping[str, Any]]) -> list[Item]:
    """A stack from settings, `{"method": name, "on": bool, ...}` each. Raises `UnknownMethod` or `AskError`."""
    result: list[Item] = []
    for entry in list(entries)[:MOST_EDITS]:
        plain = {key: value for key, value in entry.items() if key != "on"}
        name, raws = shown(plain)
        if find(name).kind != "edit":
            raise AskError(f"{name} is not an edit, so it cannot stand in the stack.")
        result.append(item(name, raws, bool(entry.get("on", True))))
    return result


class Stack:
    """The stack's states and the list that shows them; `version` redraws the list."""

    def __init__(self) -> None:
        self.items = gr.State([])
        self.version = gr.State(0)

    def place(self, demo: gr.Blocks, suggest: Sequence[str] = ()) -> None:
        """Draw the stack here."""
        found = choices("edit")
        add = gr.Dropdown(
            found,
            value=None,
            label="Add an edit",
            elem_id="stack-add",
            filterable=True,
            info=f"{len(found)} methods; type to search by topic, title or name",
        )

        def append(items: list[Item], name: str | None) -> tuple[Any, ...]:
            try:
                return added(items, name), time.time(), None
            except AskError as error:
                gr.Warning(str(error))
                return items, gr.skip(), None

        add.select(
            append,
            [self.items, add],
            [self.items, self.version, add],
            concurrency_limit=None,  # queued: only then does a changed state redraw what depends on it
            show_progress="hidden",
            api_visibility="private",
        )

        @redrawn([self.items], [demo.load, self.version.change])
        def shape(items: list[Item]) -> None:
            if not items:
                gr.HTML(empty("No edits", "Pictures come from the model as it is."), elem_id="stack-empty")
            for index, entry in enumerate(items):
                with gr.Group(elem_classes=["wb-item"]):
                    self._entry(index, len(items), entry, suggest)

    def _entry(self, index: int, count: int, entry: Item, suggest: Sequence[str]) -> None:
        cls, which = find(entry["method"]), entry["id"]
        with gr.Row(elem_classes=["wb-item-head"]):
            on = gr.Checkbox(
                entry["on"],
                label=f"{index + 1}. {cls.card.title}",
                interactive=True,  # of itself a part that is drawn anew takes no clicks
                container=False,
                min_width=120,
                elem_classes=["wb-on"],
                elem_id=f"on-{which}",
                key=f"on-{which}-{index}",
            )
            with gr.Row(elem_classes=["wb-tools"]):
                self._tool("Up", lambda items: moved(items, which, -1), index > 0)
                self._tool("Down", lambda items: moved(items, which, 1), index + 1 < count)
                self._tool("Duplicate", lambda items: duplicated(items, which))
                self._tool("Remove", lambda items: removed(items, which))

        def switch(items: list[Item], value: bool) -> list[Item]:
            for other in items:
                if other["id"] == which:
                    other["on"] = bool(value)
            return items

        on.input(switch, [self.items, on], [self.items], queue=False, show_progress="hidden", api_visibility="private")

        def keep(items: list[Item], field: str, raw: Any) -> list[Item]:
            for other in items:
                if other["id"] == which:
                    other["raws"][field] = raw
            return items

        with gr.Column(elem_classes=["wb-body"]):
            draw(cls, entry["raws"], keep, self.items, f"edit-{which}", suggest)
            with gr.Accordion("About", open=False):
                gr.HTML(card_line(cls))
                gr.Markdown(card_text(cls))

    def _tool(self, label: str, change: Any, enabled: bool = True) -> None:
        button = gr.Button(
            label, size="sm", variant="secondary", min_width=0, scale=0, interactive=enabled, elem_classes=["wb-tool"]
        )
        button.click(
            lambda items: (change(items), time.time()),
            [self.items],
            [self.items, self.version],
            concurrency_limit=None,
            show_progress="hidden",
            api_visibility="private",
        )
