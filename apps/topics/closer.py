"""Look closer: click a place of a picture, look at one seed twice (without and with the edits, or on two models), and
take the arrays along. The Inspect page does the rest.

Knows the kinds and the roles of settings, never a method's name.
"""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from apps.desk import Desk, Ticket
from apps.pages.generate import Generate
from apps.panels import draw_report, empty, trouble
from apps.picker import Picker
from apps.rendering import redrawn
from apps.show import busy, cancel_button, over, ready, running
from workbench.core.errors import AskError, Stopped, WorkbenchError
from workbench.core.fields import controls
from workbench.core.method import Lens, Method
from workbench.core.plan import Plan
from workbench.core.report import Report
from workbench.core.tape import Tap
from workbench.runs.execute import run
from workbench.runs.topics import leading

TITLE = "Look closer"
PAGE = "closer"
ONE, EDITS, MODELS = "One look", "Without and with the edits", "Two models"
_START = ("Look closer", "Draw the picture, click a place in it, or press Look.")
_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
Sides = list[tuple[str, Plan]]


def page(desk: Desk, demo: gr.Blocks, generate: Generate) -> None:
    """The page's components and handlers."""
    Closer(desk, demo, generate).connect()


class Closer:
    """The picture to click and a lens on the left, what it reports on the right."""

    def __init__(self, desk: Desk, demo: gr.Blocks, generate: Generate) -> None:
        self.desk, self.generate = desk, generate
        with gr.Row(elem_classes=["wb-main"]):
            with gr.Column(scale=5, min_width=320):
                self.draw = gr.Button("Draw the Generate page's picture", elem_id="closer-draw")
                self.picture = gr.Image(
                    label="Click a place", interactive=False, type="filepath", format="png", elem_id="closer-picture",
                    buttons=["download", "fullscreen"])  # fmt: skip
                self.place = gr.State(None)
                self.said = gr.Markdown("No place is chosen.", elem_classes=["quiet"])
                self.how = gr.Radio([ONE, EDITS, MODELS], value=ONE, label="Compare", elem_id="closer-how")
                self.second = gr.Dropdown(
                    desk.names(), value=None, label="The second model", allow_custom_value=True, visible=False,
                    elem_id="closer-second")  # fmt: skip
                with gr.Row(elem_id="closer-row"):
                    self.go = gr.Button("Look", variant="primary", elem_id="closer-go", scale=3)
                    self.cancel = cancel_button("closer-cancel")
                with gr.Accordion("Lens", open=True):
                    self.picker = Picker("lens", "Lens", "closer", leading("lens", "pixel"))
                    self.picker.place(demo)
            with gr.Column(scale=7, min_width=320, elem_classes=["wb-result"]):
                self.stage = gr.HTML(empty(*_START), elem_id="closer-stage")
                self.files = gr.File(label="Arrays and report", visible=False, file_count="multiple")
                self.reports, self.version = gr.State([]), gr.State(0)

                @redrawn([self.reports], [self.version.change])
                def shape(found: Sequence[tuple[str, Report]]) -> None:
                    with gr.Row():
                        for name, report in found or ():
                            with gr.Column(min_width=320):
                                if name:
                                    gr.Markdown(f"### {name}")
                                draw_report(report)

    @property
    def view(self) -> list[Any]:
        """What a running look sets."""
        return [self.stage, self.picture, self.files, self.reports, self.version, self.go, self.cancel]

    def connect(self) -> None:
        """Attach the handlers."""
        jobs: dict[str, Any] = {"concurrency_limit": 32, "trigger_mode": "once", **_QUIET}
        asked = [self.place, self.how, self.second, self.picker.name, self.picker.raws, *self.generate.inputs]
        self.draw.click(self.paint, self.generate.inputs, self.view, **jobs)
        self.go.click(self.look, asked, self.view, **jobs)
        self.picture.select(self.choose, None, [self.place, self.said], queue=False, **_QUIET).then(
            self.look, asked, self.view, **jobs
        )
        self.how.change(
            lambda how: gr.Dropdown(visible=how == MODELS), [self.how], [self.second], queue=False, **_QUIET
        )
        self.cancel.click(self.stop, None, None, queue=False, **_QUIET)
        self.desk.reopen(self.generate.demo, PAGE, self.view, self._follow)

    def choose(self, event: gr.SelectData) -> tuple[Any, str]:
        """The place that was clicked: column and row in pixels."""
        x, y = (int(value) for value in event.index)
        return (x, y), f"The chosen place: column {x}, row {y}."

    def paint(self, request: gr.Request, *recipe: Any) -> Iterator[tuple[Any, ...]]:
        """Draw the picture to click."""
        try:
            plan = self._plan(recipe)
            owner = self.desk.owner(request)
            folder = self.desk.fresh(owner)

            def work(tap: Tap) -> None:
                if run(plan, folder, tap, self.desk.run_plan(plan)).status == "stopped":
                    raise Stopped

            ticket = self.desk.submit(owner, PAGE, work, (folder,), "look closer", "Click a place in the picture.")
        except WorkbenchError as error:
            yield self._trouble(error)
            return
        yield from self._follow(ticket)

    def look(
        self, request: gr.Request, place: Any, how: str, second: Any, name: str, raws: Any, *recipe: Any
    ) -> Iterator[tuple[Any, ...]]:
        """One look, or two side by side; each is kept as a run of its own."""
        try:
            lens = aimed(Picker.read(name, raws), place)
            found = sides(self._plan(recipe).but(lenses=(lens,)), how, str(second or ""))
            for _, plan in found:
                self.desk.allow(plan.model)
            owner = self.desk.owner(request)
            folders = tuple(self.desk.fresh(owner) for _ in found)

            def work(tap: Tap) -> list[tuple[str, Report, Path]]:
                made: list[tuple[str, Report, Path]] = []
                for (side, plan), folder in zip(found, folders, strict=True):
                    done = run(plan, folder, tap, self.desk.run_plan(plan), drawing=False)
                    if done.status == "stopped":
                        raise Stopped
                    made.append((side, next(iter(done.reports().values())), done.folder))
                return made

            title = lens.card.title
            ticket = self.desk.submit(owner, PAGE, work, folders, title, f"{title} · kept in the gallery")
        except WorkbenchError as error:
            yield self._trouble(error)
            return
        yield from self._follow(ticket)

    def _plan(self, recipe: Sequence[Any]) -> Plan:
        return self.generate.plan({**self.generate.gather(*recipe), "count": 1})

    def _follow(self, ticket: Ticket) -> Iterator[tuple[Any, ...]]:
        keep = gr.skip()
        yield running(ticket), keep, keep, keep, keep, *busy()
        for _ in self.desk.follow(ticket):
            yield running(ticket), *[keep] * 4, *busy()
        picture = str(ticket.drawn[0]) if ticket.drawn else keep
        made = ticket.job.result if ticket.job.state == "done" else None
        files = [str(path) for _, _, folder in made or () for path in sorted(folder.glob("*.npz"))]
        files += [str(folder / "report.json") for _, _, folder in made or ()]
        yield (
            over(ticket, ticket.note),
            picture,
            gr.File(files, visible=True) if files else keep,
            [(side, report) for side, report, _ in made] if made else keep,
            time.time() if made else keep,
            *ready(),
        )

    def _trouble(self, error: WorkbenchError) -> tuple[Any, ...]:
        return trouble(str(error)), *[gr.skip()] * (len(self.view) - 1)

    def stop(self, request: gr.Request) -> None:
        """Cancel this browser's look."""
        self.desk.cancel(self.desk.owner(request), PAGE)


def aimed(lens: Method, place: Any) -> Lens:
    """The lens with the chosen place in the setting of that role, where it has one. Raises `AskError`."""
    if not isinstance(lens, Lens):
        raise AskError(f"{lens.card.name} is not a lens.")
    names = [control.name for control in controls(type(lens)) if control.role == "pixel"]
    return lens.but(**dict.fromkeys(names, tuple(place))) if names and place else lens


def sides(plan: Plan, how: str, second: str) -> Sides:
    """The plans to look at, each with what it is called. Raises `AskError` when there is nothing to compare."""
    if how == EDITS:
        if not plan.edits:
            raise AskError("The Generate page's stack is empty, so there is nothing to look at with and without.")
        return [("Without", plan.but(edits=())), ("With", plan)]
    if how == MODELS:
        if not second:
            raise AskError("There is no second model. Choose one, or give a folder or a hub id.")
        return [(plan.model or "The default", plan), (second, plan.but(model=second))]
    return [("", plan)]
