"""Parts of a page that are drawn anew while it runs, and how a built page is told of its events."""

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr


def redrawn(inputs: Sequence[Any], triggers: Sequence[Any]) -> Callable[[Callable[..., None]], None]:
    """Decorate what draws a part of a page from `inputs`, at once, whenever one of `triggers` fires."""

    def place(draw: Callable[..., None]) -> None:
        gr.render(list(inputs), triggers=list(triggers), show_progress="hidden", queue=False)(draw)

    return place


def settle(demo: Any) -> None:
    """Settle how the events of built blocks run; to be called once, at the end.

    Parts are drawn in the server's own loop, so one at a time: a session's tables of components and events grow without
    a lock while a page that opens draws several. Progress is told to no component: the page would first gather the
    values of all that lies in each, the whole app for its tabs, at every event (measured: 4 of 5 parts of the time
    from a click to its effect).
    """
    for event in demo.fns.values():
        event.show_progress_on = []
        if event.renderable:
            event.fn = _in_the_loop(event.fn)


def _in_the_loop(draw: Callable[..., None]) -> Callable[..., Any]:
    async def drawn(*values: Any) -> None:
        draw(*values)

    return drawn
