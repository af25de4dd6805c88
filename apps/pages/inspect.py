"""Inspect: any lens on a new picture or on an earlier one, and what it reports."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from apps import recipe as recipes
from apps.desk import Desk, Ticket
from apps.origin import own_files
from apps.pages.detail import plan_of
from apps.pages.generate import Generate
from apps.panels import draw_report, empty, trouble
from apps.picker import Picker
from apps.rendering import redrawn
from apps.show import busy, cancel_button, over, ready, running
from workbench.core.errors import AskError, Stopped, WorkbenchError
from workbench.core.method import Lens
from workbench.core.plan import Plan
from workbench.core.report import Report
from workbench.core.tape import Tap
from workbench.runs.execute import run
from workbench.runs.topics import leading

PAGE = "inspect"
_START = ("Look inside", "Choose a lens, write a prompt, and press Look. Or send a picture here from another page.")
_OWN = "Looks with the Generate page's model, sampler, size and seed."


class Inspect:
    """The page's components."""

    def __init__(self, desk: Desk, demo: gr.Blocks, generate: Generate) -> None:
        self.desk, self.generate = desk, generate
        with gr.Row(elem_classes=["wb-main"]):
            with gr.Column(scale=5, min_width=320):
                self.prompt = gr.Textbox(
                    label="Prompt", lines=2, placeholder="empty: the Generate page's prompt", elem_id="inspect-prompt"
                )
                self.source = gr.Markdown(_OWN, elem_classes=["quiet"])
                self.base = gr.State(None)
                with gr.Row(elem_id="inspect-row"):
                    self.go = gr.Button("Look", variant="primary", elem_id="inspect-go", scale=3)
                    self.cancel = cancel_button("inspect-cancel")
                with gr.Row(elem_classes=["wb-chips"]):
                    self.stacked = gr.Checkbox(
                        True, label="With the stack of edits", container=False, elem_id="inspect-stack"
                    )
                    self.reset = gr.Button("Use the Generate page's settings", size="sm", scale=0, visible=False)
                with gr.Accordion("Lens", open=True):
                    self.picker = Picker("lens", "Lens", "lens", leading("lens", "word"))
                    self.picker.place(demo, desk.words())
            with gr.Column(scale=7, min_width=320, elem_classes=["wb-result"]):
                self.stage = gr.HTML(empty(*_START), elem_id="inspect-stage")
                self.report, self.version = gr.State(None), gr.State(0)

                @redrawn([self.report], [self.version.change])
                def shape(report: Report | None) -> None:
                    if report is not None:
                        draw_report(report)

    @property
    def outputs(self) -> list[Any]:
        """What `take` sets, the tabs apart."""
        return [self.prompt, self.base, self.source, self.reset]

    def connect(self) -> None:
        """Attach the handlers."""
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        view = [self.stage, self.report, self.version, self.go, self.cancel]
        gr.on(
            [self.go.click, self.prompt.submit],
            self.look,
            [self.prompt, self.stacked, self.base, self.picker.name, self.picker.raws, *self.generate.inputs],
            view,
            concurrency_limit=32,
            trigger_mode="once",
            **quiet,
        )
        self.desk.reopen(self.generate.demo, PAGE, view, self._show)
        self.cancel.click(self.stop, None, None, queue=False, **quiet)
        self.reset.click(
            lambda: (None, _OWN, gr.Button(visible=False)),
            None,
            [self.base, self.source, self.reset],
            queue=False,
            **quiet,
        )

    def look(
        self, request: gr.Request, prompt: str, stacked: bool, base: Any, name: str, raws: Any, *recipe: Any
    ) -> Iterator[tuple[Any, ...]]:
        """Run the lens, step by step, then show its report."""
        try:
            found = {**(base or self.generate.gather(*recipe)), "count": 1}
            found["prompt"] = (prompt or "").strip() or found["prompt"]
            if not stacked:
                found["stack"] = []
            if not name:
                raise AskError("There is no lens to look through: no method of that kind is installed.")
            lens = Picker.read(name, raws)
            if not isinstance(lens, Lens):
                raise AskError(f"{name} is not a lens.")
            plan = self._plan(found, request).but(lenses=(lens,))
            owner = self.desk.owner(request)
            folder = self.desk.fresh(owner)
            words = f"{lens.card.title}: “{plan.ask.prompts[0]}”, seed {plan.ask.seeds[0]} · kept in the gallery"
            work = self._work(plan, folder)
            ticket = self.desk.submit(owner, PAGE, work, (folder,), lens.card.title, words)
        except WorkbenchError as error:
            yield trouble(str(error)), *[gr.skip()] * 4
            return
        yield from self._show(ticket)

    def _show(self, ticket: Ticket) -> Iterator[tuple[Any, ...]]:
        def now() -> str:
            return running(ticket, self.desk.jobs.waiting(ticket.job))

        yield now(), None, time.time(), *busy()
        for _ in self.desk.follow(ticket):
            yield now(), *[gr.skip()] * 2, *busy()
        report = ticket.job.result if ticket.job.state == "done" else None
        yield over(ticket, ticket.note), report, time.time(), *ready()

    def _plan(self, found: recipes.Recipe, request: gr.Request) -> Plan:
        """The plan to look at, with the picture that a picture sent here was started from."""
        plan = self.generate.plan(found)
        source = found.get("source")
        if source is None:
            return plan
        image, mask = own_files(self.desk, self.desk.owner(request), source)
        return plan.but(ask=plan.ask.but(image=image, mask=mask))

    def _work(self, plan: Plan, folder: Path) -> Any:
        def work(tap: Tap) -> Report:
            made = run(plan, folder, tap, self.desk.run_plan(plan), drawing=False)
            if made.status == "stopped":
                raise Stopped
            return next(iter(made.reports().values()))

        return work

    def take(self, path: str | None) -> tuple[Any, ...]:
        """A picture's own settings to look with."""
        if not path:
            return (gr.skip(),) * 5
        try:
            source = plan_of(path)
            found = {**recipes.of_plan(source), "source": source}
        except WorkbenchError as error:
            gr.Warning(str(error))
            return (gr.skip(),) * 5
        line = f"Looks with the settings of the picture you sent here (seed {found['seed']})."
        return found["prompt"], found, line, gr.Button(visible=True), gr.Tabs(selected=PAGE)

    def stop(self, request: gr.Request) -> None:
        """Cancel this browser's look."""
        self.desk.cancel(self.desk.owner(request), PAGE)
