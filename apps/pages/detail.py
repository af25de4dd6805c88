"""One picked picture: its facts, its settings in other words, and where it can be sent."""

from pathlib import Path
from typing import Any

import gradio as gr

from apps.desk import Desk
from apps.show import facts
from workbench.core.errors import WorkbenchError
from workbench.runs.prints import as_cell, as_command, as_python
from workbench.runs.shelf import facts_inside, plan_inside


class Detail:
    """A panel under a gallery. `picked` holds the picture's path, which never comes from the page."""

    def __init__(self, desk: Desk, tag: str) -> None:
        self.desk = desk
        self.picked = gr.State(None)
        with gr.Column(visible=False, elem_id=f"{tag}-detail") as self.box:
            with gr.Row(elem_classes=["wb-chips"]):
                self.restore = gr.Button("Restore settings", size="sm", scale=0, elem_id=f"{tag}-restore")
                self.start = gr.Button("Start from it", size="sm", scale=0, elem_id=f"{tag}-start")
                self.left = gr.Button("Compare as A", size="sm", scale=0, elem_id=f"{tag}-left")
                self.right = gr.Button("Compare as B", size="sm", scale=0, elem_id=f"{tag}-right")
                self.inspect = gr.Button("Inspect", size="sm", scale=0, elem_id=f"{tag}-inspect")
                self.file = gr.DownloadButton("Download", size="sm", scale=0, elem_id=f"{tag}-download")
            self.facts = gr.HTML("", elem_id=f"{tag}-facts")
            with gr.Accordion("Copy as", open=False, elem_id=f"{tag}-copy"), gr.Tabs():
                with gr.Tab("Python"):
                    self.python = gr.Code(
                        language="python", show_label=False, interactive=False, lines=3, elem_id=f"{tag}-python"
                    )
                with gr.Tab("Command"):
                    self.command = gr.Code(
                        language="shell",
                        show_label=False,
                        interactive=False,
                        lines=2,
                        elem_id=f"{tag}-command",
                        wrap_lines=True,
                    )
                with gr.Tab("Notebook cell"):
                    self.cell = gr.Code(
                        language="python", show_label=False, interactive=False, lines=3, elem_id=f"{tag}-cell"
                    )

    @property
    def outputs(self) -> list[Any]:
        """What `show` sets."""
        return [self.box, self.picked, self.facts, self.file, self.python, self.command, self.cell]

    def show(self, path: str | None) -> tuple[Any, ...]:
        """The panel for a picture, or nothing."""
        if not path or not Path(path).is_file():
            return gr.Column(visible=False), None, "", None, "", "", ""
        try:
            plan = plan_inside(path)
            words = (as_python(plan), as_command(plan), as_cell(plan))
        except WorkbenchError as error:
            words = (f"# {error}",) * 3
        return gr.Column(visible=True), path, facts(facts_inside(path)), path, *words

    def first(self, paths: list[str]) -> tuple[Any, ...]:
        """The panel for the first of some pictures."""
        return self.show(paths[0] if paths else None)

    def chosen(self, paths: list[str], event: gr.SelectData) -> tuple[Any, ...]:
        """The panel for the picture that was clicked."""
        at = event.index if isinstance(event.index, int) else 0
        return self.show(paths[at] if 0 <= at < len(paths) else None)
