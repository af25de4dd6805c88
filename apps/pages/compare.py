"""Compare: with and without the stack at the same seed, or any two pictures; a slider, side by side, and numbers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from apps.desk import Desk, Ticket
from apps.pages.generate import Generate
from apps.panels import empty, trouble
from apps.show import busy, cancel_button, over, ready, running
from workbench.core.errors import AskError, Stopped, WorkbenchError
from workbench.core.plan import Plan
from workbench.core.report import Table
from workbench.core.tape import Tap
from workbench.runs.execute import run
from workbench.runs.shelf import plan_inside
from workbench.runs.weigh import weigh

PAGE = "compare"
_START = (
    "Two pictures, one slider",
    "Draw the Generate page's settings with and without the stack, or drop two pictures.",
)


class Compare:
    """The page's components."""

    def __init__(self, desk: Desk, generate: Generate) -> None:
        self.desk, self.generate = desk, generate
        with gr.Row(elem_classes=["wb-bar-row"]):
            self.go = gr.Button(
                "Draw without and with the stack", variant="primary", elem_id="compare-go", scale=2, min_width=260
            )
            self.measure = gr.Button("Measure A and B", elem_id="compare-measure", scale=1, min_width=160)
            self.cancel = cancel_button("compare-cancel")
        self.stage = gr.HTML(empty(*_START), elem_id="compare-stage")
        with gr.Row(elem_classes=["wb-main"]):
            with gr.Column(scale=3, min_width=320, visible=False) as self.seen:
                self.slider = gr.ImageSlider(
                    label="A | B",
                    show_label=False,
                    interactive=False,
                    type="filepath",
                    format="png",
                    elem_id="compare-slider",
                    max_height=640,
                )
                self.table = gr.Dataframe(
                    visible=False,
                    interactive=False,
                    wrap=True,
                    elem_id="compare-table",
                    datatype="str",
                    label="Measures",
                )
            with gr.Column(scale=2, min_width=320), gr.Row():
                self.left = gr.Image(
                    label="A",
                    type="filepath",
                    format="png",
                    elem_id="compare-left",
                    sources=["upload", "clipboard"],
                    image_mode=None,
                    min_width=140,
                    height=240,
                    buttons=["download", "fullscreen"],
                )
                self.right = gr.Image(
                    label="B",
                    type="filepath",
                    format="png",
                    elem_id="compare-right",
                    sources=["upload", "clipboard"],
                    image_mode=None,
                    min_width=140,
                    height=240,
                    buttons=["download", "fullscreen"],
                )

    def connect(self) -> None:
        """Attach the handlers."""
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        view = [self.stage, self.left, self.right, self.table, self.go, self.cancel]
        self.go.click(self.draw, self.generate.inputs, view, concurrency_limit=32, trigger_mode="once", **quiet)
        self.measure.click(
            self.numbers,
            [self.left, self.right, self.generate.prompt, self.generate.model],
            view,
            concurrency_limit=32,
            **quiet,
        )
        self.desk.reopen(self.generate.demo, PAGE, view, self._show)
        self.cancel.click(self.stop, None, None, queue=False, **quiet)
        gr.on(
            [self.left.change, self.right.change],
            self.lay,
            [self.left, self.right],
            [self.slider, self.seen],
            queue=False,
            **quiet,
        )

    def draw(self, request: gr.Request, *values: Any) -> Iterator[tuple[Any, ...]]:
        """Both pictures, one after the other, and what the metrics say of them."""
        owner = self.desk.owner(request)
        try:
            found = {**self.generate.gather(*values), "count": 1}
            plan: Plan = self.generate.plan(found)
            if not plan.edits:
                raise AskError(
                    "The stack is empty or switched off, so both pictures would be the same. Add an edit first."
                )
            folders = (self.desk.fresh(owner), self.desk.fresh(owner))
            ticket = self.desk.submit(owner, PAGE, self._both(plan, folders), folders, "compare")
        except WorkbenchError as error:
            yield trouble(str(error)), *[gr.skip()] * 5
            return
        yield from self._show(ticket)

    def _both(self, plan: Plan, folders: tuple[Path, Path]) -> Any:
        def work(tap: Tap) -> Table:
            bundle = self.desk.run_plan(plan)
            groups: list[list[Path]] = []
            for part, folder in zip((plan.but(edits=()), plan), folders, strict=True):
                made = run(part, folder, tap, bundle)
                if made.status == "stopped":
                    raise Stopped
                groups.append(list(made.pictures))
            return weigh(groups, plan.ask.prompts, ("A", "B"), bundle)

        return work

    def numbers(
        self, left: str | None, right: str | None, prompt: str, model: str, request: gr.Request
    ) -> Iterator[tuple[Any, ...]]:
        """The metrics on the two pictures that lie there."""
        try:
            if not left or not right:
                raise AskError("There are not two pictures to measure yet. Draw them, drop them, or send them here.")
            words = _prompt(left) or _prompt(right) or prompt or "a picture"
            plan = self.generate.plan({**_blank(words), "model": "" if model == "default" else model})

            def work(tap: Tap) -> Table:
                return weigh([[Path(left)], [Path(right)]], plan.ask.prompts, ("A", "B"), self.desk.run_plan(plan))

            ticket = self.desk.submit(self.desk.owner(request), PAGE, work, title="measure", note=(left, right))
        except WorkbenchError as error:
            yield trouble(str(error)), *[gr.skip()] * 5
            return
        yield from self._show(ticket)

    def _show(self, ticket: Ticket) -> Iterator[tuple[Any, ...]]:
        drawing = bool(ticket.folders)
        pictures: list[Any] = [None, None] if drawing else list(ticket.note)
        table: Any = gr.Dataframe(visible=False) if drawing else gr.skip()
        yield self._line(ticket), *pictures, table, *busy()
        for _ in self.desk.follow(ticket):
            yield self._line(ticket), *[gr.skip()] * 3, *busy()
        if drawing:
            files = [folder / "0000.png" for folder in ticket.folders]
            pictures = [str(path) if path.is_file() else None for path in files]
        note, shown = self._measured(ticket.job.result, drawing)
        yield over(ticket, note), *pictures, shown, *ready()

    def _line(self, ticket: Ticket) -> str:
        return running(ticket, self.desk.jobs.waiting(ticket.job))

    @staticmethod
    def _measured(table: Table | None, drawing: bool) -> tuple[str, Any]:
        """The line under the bar, and the table of measures where there is one."""
        note = "A is without the stack, B with it; the same seed." if drawing else "Measured."
        if table is None or not table.rows:
            return note, gr.Dataframe(visible=False)
        cells = [[f"{v:.4g}" if isinstance(v, float) else str(v) for v in row] for row in table.rows]
        note += f" {table.title}." if table.title else ""
        return note, gr.Dataframe({"headers": list(table.columns), "data": cells}, visible=True)

    @staticmethod
    def lay(left: str | None, right: str | None) -> tuple[Any, Any]:
        """The slider over two pictures, as soon as there are two."""
        both = bool(left and right)
        return (left, right) if both else None, gr.Column(visible=both)

    @staticmethod
    def take(path: str | None) -> tuple[Any, Any]:
        """A picked picture into one of the two places."""
        return (path, gr.Tabs(selected=PAGE)) if path else (gr.skip(), gr.skip())

    def stop(self, request: gr.Request) -> None:
        """Cancel this browser's comparison."""
        self.desk.cancel(self.desk.owner(request), PAGE)


def _prompt(path: str) -> str:
    try:
        return plan_inside(path).ask.prompts[0]
    except WorkbenchError:
        return ""


def _blank(prompt: str) -> dict[str, Any]:
    return {"prompt": prompt, "seed": 0, "count": 1, "size": "", "negative": "", "sampler": "", "stack": []}
