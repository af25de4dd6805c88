"""Parts of a page that are drawn anew while it runs."""

import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

_ALONE = threading.RLock()


def redrawn(inputs: Sequence[Any], triggers: Sequence[Any]) -> Callable[[Callable[..., None]], None]:
    """Decorate what draws a part of a page from `inputs`, at once, whenever one of `triggers` fires.

    One part is drawn at a time: a session's table of events is numbered and grown without a lock, and a page that
    opens draws several parts in threads of their own.
    """

    def place(draw: Callable[..., None]) -> None:
        @functools.wraps(draw)
        def alone(*values: Any) -> None:
            with _ALONE:
                draw(*values)

        gr.render(list(inputs), triggers=list(triggers), show_progress="hidden", queue=False)(alone)

    return place
