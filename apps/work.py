"""What topic pages share: a job followed on the right, pictures in rows as they come, a report, a file to take."""

import html
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from apps.controls import draw
from apps.desk import Desk, Ticket
from apps.pages.generate import Generate
from apps.panels import draw_report, empty, trouble
from apps.picker import card_line
from apps.rendering import redrawn
from apps.show import busy, cancel_button, over, ready, running
from workbench.core.catalog import find
from workbench.core.errors import AskError, Stopped, WorkbenchError
from workbench.core.method import Edit, Lens, Method
from workbench.core.plan import Plan
from workbench.core.report import Report
from workbench.core.tape import Step, Tap
from workbench.runs.erasing import picture, warnings
from workbench.runs.execute import run
from workbench.runs.history import Run, read_run
from workbench.runs.topics import filled
from workbench.view.figures import data_uri
from workbench.view.forms import read_all

QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
MOST_CHOSEN = 6
_STYLE = """<style>.wb-before{overflow-x:auto}.wb-before table{border-collapse:collapse;width:auto;margin:0}
.wb-before table,.wb-before tr{border:0!important}
.wb-before th,.wb-before td{border:0!important;padding:3px 5px!important}
.wb-before th{font-weight:500;font-size:.8rem;text-align:left;vertical-align:middle}
.wb-before td{min-width:76px}.wb-before img{width:100%;max-width:160px;border-radius:6px;margin:0}
.wb-before i{display:block;width:min(128px,20vw);aspect-ratio:1;border-radius:6px;background:#8881}</style>"""

Made = tuple[Report | None, Path | None]
Rows = Sequence[tuple[str, Sequence[Plan]]]
Watch = Callable[[Any, Step], None]


class Work:
    """The result side of a topic page; `page` is what the desk files its jobs under."""

    def __init__(self, desk: Desk, generate: Generate, page: str, start: tuple[str, str]) -> None:
        self.desk, self.generate, self.page, self.start = desk, generate, page, start

    def buttons(self, label: str) -> None:
        """Place the button that starts the page's main job, and Cancel."""
        with gr.Row(elem_id=f"{self.page}-row"):
            self.go = gr.Button(label, variant="primary", elem_id=f"{self.page}-go", scale=3)
            self.cancel = cancel_button(f"{self.page}-cancel")

    def results(self) -> None:
        """Place the line of the job, its pictures and its file."""
        self.stage = gr.HTML(empty(*self.start), elem_id=f"{self.page}-stage")
        self.grid = gr.HTML("", elem_id=f"{self.page}-grid")
        self.file = gr.DownloadButton("Download", visible=False, elem_id=f"{self.page}-file")
        self.report, self.version = gr.State(None), gr.State(0)

    def reports(self) -> None:
        """Place what a job reports."""

        @redrawn([self.report], [self.version.change])
        def shape(found: Report | None) -> None:
            if found is not None:
                draw_report(found)

    @property
    def view(self) -> list[Any]:
        """What a running job sets."""
        return [self.stage, self.grid, self.report, self.version, self.file, self.go, self.cancel]

    def on(self, button: Any, handler: Callable[..., Any], inputs: Sequence[Any]) -> Any:
        """Let a button start a job of this page: `handler(request, *values)` yields what `view` shows."""

        def guarded(request: gr.Request, *values: Any) -> Iterator[tuple[Any, ...]]:
            try:
                yield from handler(request, *values)
            except WorkbenchError as error:
                yield trouble(str(error)), *[gr.skip()] * (len(self.view) - 1)

        return button.click(guarded, list(inputs), self.view, concurrency_limit=32, trigger_mode="once", **QUIET)

    def stops(self) -> Any:
        """Attach Cancel, and the event of a page that is loaded again, which goes on showing the job."""

        def stop(request: gr.Request) -> None:
            self.desk.cancel(self.desk.owner(request), self.page)

        self.cancel.click(stop, None, None, queue=False, **QUIET)
        return self.desk.reopen(
            self.generate.demo, self.page, self.view, lambda ticket: self.follow(ticket, *ticket.note)
        )

    # -- jobs ----------------------------------------------------------------------------------------------------

    def paint(
        self,
        request: gr.Request,
        rows: Rows,
        columns: Sequence[str],
        done: str,
        *,
        measured: Callable[[Sequence[tuple[str, Sequence[Run]]], Any], Report] | None = None,
    ) -> Iterator[tuple[Any, ...]]:
        """Every plan of every row; each is a run that is kept.

        Row by row, or, where they are `measured` in the end, column by column, so that the ways take turns.
        """
        owner = self.desk.owner(request)
        folders = [[self.desk.fresh(owner) for _ in plans] for _, plans in rows]
        order = [(i, j) for i in range(len(rows)) for j in range(len(columns))]
        if measured is not None:
            order.sort(key=lambda cell: cell[1])

        def work(tap: Tap) -> Made:
            for i, j in order:
                self.carry_out(rows[i][1][j], folders[i][j], tap)
            if measured is None:
                return None, None
            runs = [(name, [read_run(folder) for folder in folders[i]]) for i, (name, _) in enumerate(rows)]
            return measured(runs, self.desk.run_plan(rows[0][1][0])), None

        ticket = self.desk.submit(owner, self.page, work, tuple(folders[i][j] for i, j in order), self.page)
        seen: dict[Path, str] = {}

        def pictures() -> str:
            for path in ticket.drawn:
                seen[path.parent] = seen.get(path.parent) or data_uri(picture(path), 1)
            images = [seen.get(folder, "") for row in folders for folder in row]
            return table([name for name, _ in rows], columns, images)

        yield from self.follow(ticket, done, pictures)

    def examine(self, request: gr.Request, plan: Plan, lens: Lens, done: str) -> Iterator[tuple[Any, ...]]:
        """A lens on a plan: a run that is kept, with its report to take along."""
        owner = self.desk.owner(request)
        folder = self.desk.fresh(owner)

        def work(tap: Tap) -> Made:
            made = self.carry_out(plan.but(lenses=(lens,)), folder, tap, drawing=False)
            return next(iter(made.reports().values())), made.folder / "report.json"

        ticket = self.desk.submit(owner, self.page, work, (folder,), lens.card.title)
        yield from self.follow(ticket, done)

    def do(
        self, request: gr.Request, title: str, done: str, work: Callable[[Tap], Made], shown: Callable[[], str] | None
    ) -> Iterator[tuple[Any, ...]]:
        """Any other job; `shown` is what it shows while it is at work."""
        yield from self.follow(self.desk.submit(self.desk.owner(request), self.page, work, (), title), done, shown)

    def carry_out(self, plan: Plan, folder: Path, tap: Tap, drawing: bool = True, watch: Watch | None = None) -> Run:
        """One run inside a job; `watch` sees the model and each step. Raises `Stopped` when it was stopped."""
        bundle = self.desk.run_plan(plan)

        def both(step: Step) -> None:
            tap(step)
            if watch is not None:
                watch(bundle, step)

        made = run(plan, folder, both, bundle, drawing=drawing)
        if made.status == "stopped":
            raise Stopped
        return made

    def follow(self, ticket: Ticket, done: str, shown: Callable[[], str] | None = None) -> Iterator[tuple[Any, ...]]:
        """Show a job until it is over: its line, what it shows as it comes, its report, its file, its warnings."""
        ticket.note = (done, shown)
        keep = gr.skip()
        hide = gr.DownloadButton(visible=False)
        grid = "" if shown else keep
        yield running(ticket), grid, None, time.time(), hide, *busy()
        last = ""
        for _ in self.desk.follow(ticket):
            now = shown() if shown else ""
            yield running(ticket), keep if now == last else now, *[keep] * 3, *busy()
            last = now
        report, file = ticket.job.result if ticket.job.state == "done" and ticket.job.result else (None, None)
        alarms = "".join(trouble(line) for line in warnings(report)) if report is not None else ""
        yield (
            alarms + over(ticket, done),
            keep if shown is None else "" if ticket.job.state == "failed" and not ticket.drawn else shown(),
            report,
            time.time(),
            keep if file is None else gr.DownloadButton(value=str(file), visible=True),
            *ready(),
        )


class Choice:
    """Methods chosen from a list, several or one, each with its form folded below; some settings come from the page."""

    def __init__(
        self,
        found: Sequence[type[Method]],
        label: str,
        tag: str,
        *,
        info: str = "",
        several: bool = True,
        start: int = 1,
    ) -> None:
        self.tag, self.several = tag, several
        options = [(f"{cls.card.title} ({cls.card.name}), {cls.card.cost}", cls.card.name) for cls in found]
        names = [name for _, name in options]
        more: dict[str, Any] = {"multiselect": True, "max_choices": MOST_CHOSEN} if several else {}
        value = names[:start] if several else next(iter(names), None)
        self.names = gr.Dropdown(options, value=value, label=label, info=info or None, elem_id=f"{tag}-methods", **more)
        self.raws = gr.State({})

    def place(
        self,
        title: str = "Settings",
        without: Sequence[str] = (),
        suggest: Sequence[str] = (),
        demo: gr.Blocks | None = None,
    ) -> None:
        """Place the forms, unfolded where the blocks are given.

        Settings with the roles or names of `without` are not shown.
        """
        with gr.Accordion(title, open=demo is not None, elem_id=f"{self.tag}-settings") as folded:
            first = [folded.expand] if demo is None else [demo.load]  # type: ignore[attr-defined]

            @redrawn([self.names, self.raws], [*first, self.names.change])
            def forms(names: Any, raws: Mapping[str, Any]) -> None:
                for name in chosen(names):
                    title = find(name).card.title
                    with gr.Accordion(title, open=False) if self.several else gr.Column(elem_classes=["wb-body"]):
                        self._form(name, raws, without, suggest)

    def _form(self, name: str, raws: Mapping[str, Any], without: Sequence[str], suggest: Sequence[str]) -> None:
        cls = find(name)

        def keep(state: dict[str, Any], field: str, raw: Any) -> dict[str, Any]:
            state.setdefault(name, {})[field] = raw
            return state

        gr.HTML(card_line(cls))
        with gr.Column(elem_classes=["wb-body"]):
            draw(cls, raws.get(name, {}), keep, self.raws, f"{self.tag}-{name}", suggest, without=without)

    @property
    def inputs(self) -> list[Any]:
        """What `built` is read from."""
        return [self.names, self.raws]


def chosen(names: Any) -> list[str]:
    """The names of a drop-down, one or several."""
    return [str(name) for name in ([names] if isinstance(names, str) else names or ())][:MOST_CHOSEN]


def built(names: Any, raws: Mapping[str, Any], roles: Mapping[str, Any] | None = None) -> list[Method]:
    """The chosen methods with their settings and what the page knows by role. Raises `AskError`."""
    made: list[Method] = []
    for name in chosen(names):
        own = read_all(find(name), (raws or {}).get(name, {}))
        made.append(filled(name, own, roles or {}))
    return made


def only_edits(found: Sequence[Method]) -> tuple[Edit, ...]:
    """The edits among methods."""
    return tuple(method for method in found if isinstance(method, Edit))


def a_lens(found: Sequence[Method]) -> Lens:
    """The one lens that was chosen. Raises `AskError` where there is none."""
    lens = next((method for method in found if isinstance(method, Lens)), None)
    if lens is None:
        raise AskError("No lens is chosen. Choose one under Look.")
    return lens


def count(value: Any, name: str, most: int) -> int:
    """A whole number from 1. Raises `AskError`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value) or not 1 <= value <= most:
        raise AskError(f"{name} is {value!r}; it should be a whole number from 1 to {most}.")
    return int(value)


def table(rows: Sequence[str], columns: Sequence[str], images: Sequence[str]) -> str:
    """Pictures row by row, "" for one that is still to come, as a table that scrolls sideways where it must."""
    width = len(columns)
    head = "".join(f"<th>{html.escape(text)}</th>" for text in ("", *columns))
    body = ""
    for at, name in enumerate(rows):
        cells = [*images[at * width : (at + 1) * width], *[""] * width][:width]
        shown = (
            f'<td><img src="{uri}" alt="{html.escape(f"{name}: {text}")}"></td>' if uri else "<td><i></i></td>"
            for uri, text in zip(cells, columns, strict=True)
        )
        body += f"<tr><th>{html.escape(name)}</th>{''.join(shown)}</tr>"
    return f"{_STYLE}<div class='wb-before'><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
