"""Grid: two settings against each other; cells appear one by one, and each is a run of its own that is kept."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from apps.axes import axes, axis, caption, values, varied
from apps.desk import Desk, Ticket
from apps.pages.generate import Generate
from apps.panels import empty, trouble
from apps.show import busy, cancel_button, over, ready, running
from workbench.core.errors import AskError, Stopped, WorkbenchError
from workbench.core.plan import Plan
from workbench.core.tape import Tap
from workbench.runs.execute import run

PAGE = "grid"
MOST_CELLS = 64
_START = (
    "One setting against another",
    "The Generate page's settings are the middle; choose what varies and press Draw the grid.",
)


class Grid:
    """The page's components."""

    def __init__(self, desk: Desk, generate: Generate) -> None:
        self.desk, self.generate = desk, generate
        with gr.Row(elem_classes=["wb-bar-row"]):
            with gr.Column(min_width=280):
                self.x = gr.Dropdown([("Seed", "seed")], value="seed", label="Across", elem_id="grid-x")
                self.xs = gr.Textbox(
                    "0..2",
                    label="Values across",
                    lines=1,
                    max_lines=6,
                    elem_id="grid-xs",
                    info="1, 2, 3 or 1..3; texts one a line",
                )
            with gr.Column(min_width=280):
                self.y = gr.Dropdown([("Nothing", "")], value="", label="Down", elem_id="grid-y")
                self.ys = gr.Textbox(
                    "",
                    label="Values down",
                    lines=1,
                    max_lines=6,
                    elem_id="grid-ys",
                    info="1, 2, 3 or 1..3; texts one a line",
                )
        with gr.Row():
            self.go = gr.Button("Draw the grid", variant="primary", elem_id="grid-go", scale=3)
            self.cancel = cancel_button("grid-cancel")
        self.stage = gr.HTML(empty(*_START), elem_id="grid-stage")
        self.cells = gr.Gallery(
            label="Grid",
            show_label=False,
            visible=False,
            object_fit="contain",
            fit_columns=False,
            elem_id="grid-cells",
            format="png",
            buttons=["download", "fullscreen"],
        )

    def connect(self) -> None:
        """Attach the handlers."""
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        page, view = self.generate, [self.stage, self.cells, self.go, self.cancel]
        gr.on(
            [page.demo.load, page.stack.version.change, page.picker.name.change],
            self.choices,
            [self.x, self.y, *page.inputs],
            [self.x, self.y],
            queue=False,
            **quiet,
        )
        self.go.click(
            self.draw,
            [self.x, self.xs, self.y, self.ys, *page.inputs],
            view,
            concurrency_limit=32,
            trigger_mode="once",
            **quiet,
        )
        self.desk.reopen(page.demo, PAGE, view, self._show)
        self.cancel.click(self.stop, None, None, queue=False, **quiet)

    def choices(self, x: str | None, y: str | None, *recipe: Any) -> tuple[Any, Any]:
        """What can be varied now, keeping what was chosen."""
        found = [(entry.label, entry.key) for entry in axes(self.generate.gather(*recipe))]
        keys = [key for _, key in found]
        return (
            gr.Dropdown(found, value=x if x in keys else "seed"),
            gr.Dropdown([("Nothing", ""), *found], value=y if y in keys else ""),
        )

    def draw(self, request: gr.Request, x: str, xs: str, y: str, ys: str, *recipe: Any) -> Iterator[tuple[Any, ...]]:
        """The cells, row by row, as they are finished."""
        owner = self.desk.owner(request)
        try:
            base = {**self.generate.gather(*recipe), "count": 1}
            across, down = axis(base, x), axis(base, y)
            cells = [((across, a), (down, d)) for d in values(down, ys) for a in values(across, xs)]
            width = len(values(across, xs))
            if len(cells) > MOST_CELLS:
                raise AskError(f"The grid has {len(cells)} cells; {MOST_CELLS} are drawn at most. Give fewer values.")
            plans = [self.generate.plan(varied(base, cell)) for cell in cells]
            folders = [self.desk.fresh(owner) for _ in cells]
            work = self._all(plans, folders)
            ticket = self.desk.submit(owner, PAGE, work, tuple(folders), "grid", (cells, width))
        except WorkbenchError as error:
            yield trouble(str(error)), *[gr.skip()] * 3
            return
        yield from self._show(ticket)

    def _show(self, ticket: Ticket) -> Iterator[tuple[Any, ...]]:
        cells, width = ticket.note
        yield (
            running(ticket, self.desk.jobs.waiting(ticket.job)),
            gr.Gallery([], visible=False, columns=width),
            *busy(),
        )
        count = 0
        for _ in self.desk.follow(ticket):
            fresh = gr.skip() if len(ticket.drawn) == count else self._gallery(ticket.drawn, cells)
            count = len(ticket.drawn)
            yield running(ticket, self.desk.jobs.waiting(ticket.job)), fresh, *busy()
        words = f"{len(ticket.drawn)} of {len(cells)} cells; each is a run of its own in the gallery."
        yield (
            over(ticket, words),
            self._gallery(ticket.drawn, cells),
            *ready(),
        )

    def _all(self, plans: list[Plan], folders: list[Path]) -> Any:
        def work(tap: Tap) -> None:
            for plan, folder in zip(plans, folders, strict=True):
                if run(plan, folder, tap, self.desk.run_plan(plan)).status == "stopped":
                    raise Stopped

        return work

    @staticmethod
    def _gallery(drawn: Sequence[Path], cells: list[Any]) -> Any:
        shown = [(str(path), caption(cell)) for path, cell in zip(drawn, cells, strict=False)]
        return gr.Gallery(shown, visible=bool(shown), selected_index=None)

    def stop(self, request: gr.Request) -> None:
        """Cancel this browser's grid; the finished cells are kept."""
        self.desk.cancel(self.desk.owner(request), PAGE)
