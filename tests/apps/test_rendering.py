"""Parts of a page are drawn one at a time."""

import threading
import time

import gradio as gr

from apps.rendering import redrawn


def test_two_parts_are_never_drawn_at_once() -> None:
    inside, most = 0, 0

    def draw(*_: object) -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(0.05)
        inside -= 1

    with gr.Blocks() as demo:
        first, second = gr.State(0), gr.State(1)
        redrawn([first], [first.change])(draw)
        redrawn([second], [second.change])(draw)
    threads = [threading.Thread(target=part.fn, args=(0,)) for part in demo.renderables]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(threads), most) == (2, 1)
