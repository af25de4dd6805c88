"""One picked thing, a picture or a report's folder: its facts, its settings in other words, where it can be sent."""

from pathlib import Path
from typing import Any

import gradio as gr

from apps.desk import Desk
from apps.show import facts
from workbench.core.errors import WorkbenchError
from workbench.core.plan import Plan
from workbench.runs.history import read_run
from workbench.runs.prints import as_cell, as_command, as_python
from workbench.runs.shelf import facts_inside, plan_inside


def plan_of(path: str | Path) -> Plan:
    """The plan of a picture, or of a run's folder. Raises `AskError` where there is none."""
    return read_run(path).plan if Path(path).is_dir() else plan_inside(path)


def facts_of(path: str | Path) -> dict[str, Any]:
    """What a picture, or a run's folder, says of itself."""
    if not Path(path).is_dir():
        return facts_inside(path)
    run = read_run(path)
    return {"plan": run.plan.to_json(), "model": run.report.get("model")}


class Detail:
    """A panel under a gallery. `picked` holds the path, which never comes from the page."""

    def __init__(self, desk: Desk, tag: str) -> None:
        self.desk = desk
        self.picked = gr.State(None)
        with gr.Column(visible=False, elem_id=f"{tag}-detail") as self.box:
            with gr.Row(elem_classes=["wb-chips"]):
                self.previous = gr.Button("← Previous", size="sm", scale=0, elem_id=f"{tag}-previous", visible=False)
                self.next = gr.Button("Next →", size="sm", scale=0, elem_id=f"{tag}-next", visible=False)
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
        only_pictures = [self.start, self.left, self.right, self.file]
        return [self.box, self.picked, self.facts, self.python, self.command, self.cell, *only_pictures]

    @property
    def steps(self) -> list[Any]:
        """What `walk` sets."""
        return [self.previous, self.next]

    def show(self, path: str | None) -> tuple[Any, ...]:
        """The panel for a picture or a run's folder, or nothing."""
        if not path or not Path(path).exists():
            return gr.Column(visible=False), None, "", "", "", "", *[gr.skip()] * 4
        try:
            plan = plan_of(path)
            words = (as_python(plan), as_command(plan), as_cell(plan))
            about = facts(facts_of(path))
        except WorkbenchError as error:
            words, about = (f"# {error}",) * 3, ""
        picture = Path(path).is_file()
        sends = [gr.Button(visible=picture) for _ in range(3)]
        file = gr.DownloadButton(value=path if picture else None, visible=picture)
        return gr.Column(visible=True), path, about, *words, *sends, file

    @staticmethod
    def walk(paths: list[str], path: str | None) -> tuple[Any, Any]:
        """The two buttons that go along a list; each is there where it leads somewhere."""
        at = paths.index(path) if path in paths else -1
        return gr.Button(visible=at > 0), gr.Button(visible=-1 < at < len(paths) - 1)

    @staticmethod
    def beside(paths: list[str], path: str | None, by: int) -> str | None:
        """The path that lies `by` places on in the list, or the same at its ends."""
        at = paths.index(path) + by if path in paths else 0
        return paths[at] if 0 <= at < len(paths) else path

    def along(self, paths: list[str], path: str | None) -> tuple[Any, ...]:
        """The panel for one of a list, with the buttons that go along it."""
        return *self.show(path), *self.walk(paths, path)

    def first(self, paths: list[str]) -> tuple[Any, ...]:
        """The panel for the first of some pictures."""
        return self.along(paths, paths[0] if paths else None)

    def chosen(self, paths: list[str], event: gr.SelectData) -> tuple[Any, ...]:
        """The panel for the picture that was clicked."""
        at = event.index if isinstance(event.index, int) else 0
        return self.along(paths, paths[at] if 0 <= at < len(paths) else None)
