"""Parts of a page are drawn one at a time, and events tell no component of their progress."""

import threading
from pathlib import Path
from typing import Any

import anyio
import gradio as gr
from gradio.context import LocalContext

from apps.rendering import redrawn, settle
from apps.studio import build


def test_parts_are_drawn_one_at_a_time_in_the_thread_that_serves() -> None:
    seen: list[tuple[str, int]] = []

    def draw(name: str) -> None:
        seen.append((name, threading.get_ident()))
        gr.Markdown(name)

    with gr.Blocks() as demo:
        first, second = gr.State("a"), gr.State("b")
        redrawn([first], [first.change])(draw)
        redrawn([second], [second.change])(draw)
    settle(demo)
    parts: list[Any] = [event for event in demo.fns.values() if event.renderable]

    async def both() -> None:
        LocalContext.blocks_config.set(demo.default_config)
        async with anyio.create_task_group() as group:
            for part, name in zip(parts, "ab", strict=True):
                group.start_soon(part.fn, name)

    anyio.run(both)
    assert sorted(seen) == [("a", threading.get_ident()), ("b", threading.get_ident())]


def test_no_event_of_the_app_tells_a_part_of_its_progress(tmp_path: Path) -> None:
    events = build(root=tmp_path).fns.values()
    assert len(events) > 100
    assert all(event.get_config()["show_progress_on"] == [] for event in events)
