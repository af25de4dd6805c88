"""Erase: take a concept away with several methods at once, see it, measure it, attack it, and take the model along.

Knows the topic, the kinds and the roles of settings, never a method's name.
"""

import html
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from apps.controls import draw
from apps.desk import Desk, Ticket
from apps.pages.generate import Generate
from apps.panels import draw_report, empty, trouble
from apps.picker import card_line
from apps.show import over, running
from workbench.core.catalog import find
from workbench.core.errors import AskError, Stopped, WorkbenchError
from workbench.core.method import Edit, Lens
from workbench.core.plan import Plan
from workbench.core.report import Report
from workbench.core.tape import Tap
from workbench.runs.erasing import (
    FORMS,
    Wish,
    at_strength,
    attacks,
    circle,
    eraser,
    erasers,
    judged,
    packed,
    picture,
    prompts,
    reporter,
    warnings,
    words,
)
from workbench.runs.execute import run
from workbench.view.figures import data_uri
from workbench.view.forms import read_all

TITLE = "Erase"
PAGE = "erase"
MOST_METHODS, MOST_PICTURES = 6, 400
_START = ("Take a concept away", "Name a target, choose one or several methods, and press Erase and draw.")
_STYLE = """<style>.wb-before{overflow-x:auto}.wb-before table{border-collapse:collapse;width:auto;margin:0}
.wb-before th,.wb-before td{border:0!important;padding:3px 5px!important}
.wb-before th{font-weight:500;font-size:.8rem;text-align:left;vertical-align:middle}
.wb-before td{min-width:76px}.wb-before img{width:100%;max-width:160px;border-radius:6px;margin:0}</style>"""
_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


def page(desk: Desk, demo: gr.Blocks, generate: Generate) -> None:
    """The page's components and handlers."""
    Erase(desk, demo, generate).connect()


class Erase:
    """The page: a wish on the left; pictures, report and what to do next on the right."""

    def __init__(self, desk: Desk, demo: gr.Blocks, generate: Generate) -> None:
        self.desk, self.demo, self.generate = desk, demo, generate
        self.methods = [(f"{cls.card.title} ({cls.card.name}), {cls.card.cost}", cls.card.name) for cls in erasers()]
        with gr.Row(elem_classes=["wb-main"]):
            with gr.Column(scale=5, min_width=320):
                self._wish()
                self._choice()
            with gr.Column(scale=7, min_width=320):
                self.stage = gr.HTML(empty(*_START), elem_id="erase-stage")
                self.grid = gr.HTML("", elem_id="erase-grid")
                self.file = gr.DownloadButton("Download", visible=False, elem_id="erase-file")
                self.report, self.version = gr.State(None), gr.State(0)
                self._next()

                @gr.render([self.report], triggers=[self.version.change], show_progress="hidden", queue=False)
                def shape(found: Report | None) -> None:
                    if found is not None:
                        draw_report(found)

    def _wish(self) -> None:
        tags: dict[str, Any] = {"multiselect": True, "allow_custom_value": True}
        self.targets = gr.Dropdown([], value=[], label="Targets", elem_id="erase-targets",
                                   info="What should be gone; several are taken away at once", **tags)  # fmt: skip
        self.anchor = gr.Textbox(
            "", label="Anchor", elem_id="erase-anchor", info="What to draw instead; empty is nothing"
        )
        self.preserve = gr.Dropdown([], value=[], label="Preserve", elem_id="erase-preserve",
                                    info="What must stay; neighbours are the likeliest to suffer", **tags)  # fmt: skip
        self.synonyms = gr.Dropdown([], value=[], label="Synonyms", elem_id="erase-synonyms",
                                    info="Other words that should not bring it back", **tags)  # fmt: skip
        self.suggest = gr.Button("Suggest neighbours and synonyms", size="sm", elem_id="erase-suggest")

    def _choice(self) -> None:
        names = [name for _, name in self.methods]
        self.chosen = gr.Dropdown(self.methods, value=names[:1], multiselect=True, label="Methods",
                                  max_choices=MOST_METHODS, elem_id="erase-methods",
                                  info="Each works alone, on the same seeds")  # fmt: skip
        self.raws = gr.State({})
        with gr.Row(elem_id="erase-row"):
            self.go = gr.Button("Erase and draw", variant="primary", elem_id="erase-go", scale=3)
            self.cancel = gr.Button("Cancel", variant="stop", elem_id="erase-cancel", visible=False, scale=1)
        with gr.Accordion("Settings of the methods", open=False, elem_id="erase-settings") as folded:
            gr.Markdown("Concepts, anchor and what to preserve come from above.", elem_classes=["quiet"])

            @gr.render([self.chosen, self.raws], triggers=[folded.expand, self.chosen.change], show_progress="hidden",
                       queue=False)  # fmt: skip
            def forms(names: list[str], raws: dict[str, Any]) -> None:
                for name in names or ():
                    self._form(name, raws)

    def _form(self, name: str, raws: dict[str, Any]) -> None:
        cls = find(name)

        def keep(state: dict[str, Any], field: str, raw: Any) -> dict[str, Any]:
            state.setdefault(name, {})[field] = raw
            return state

        with gr.Accordion(cls.card.title, open=False):
            gr.HTML(card_line(cls))
            with gr.Column(elem_classes=["wb-body"]):
                draw(cls, raws.get(name, {}), keep, self.raws, f"erase-{name}")

    def _next(self) -> None:
        first = self.methods[0][1] if self.methods else None
        with gr.Tabs(elem_id="erase-next"):
            with gr.Tab("Report"):
                with gr.Row():
                    self.pictures = gr.Number(16, precision=0, minimum=1, maximum=MOST_PICTURES, min_width=140,
                                              label="Pictures a cell", elem_id="erase-pictures")  # fmt: skip
                    self.sweep = gr.Checkbox(False, label="Also at a quarter, half and three quarters of the strength",
                                             elem_id="erase-sweep", min_width=200)  # fmt: skip
                self.measure = gr.Button("Measure all methods", elem_id="erase-measure")
            with gr.Tab("Strength"):
                self.one = gr.Dropdown(self.methods, value=first, label="Method", elem_id="erase-one")
                self.strength = gr.Slider(0, 2, 0.5, step=0.05, label="Strength", elem_id="erase-strength",
                                          info="Blends what was fitted; nothing is fitted anew")  # fmt: skip
                self.blend = gr.Button("Draw at this strength", elem_id="erase-blend")
            with gr.Tab("Attack it"):
                found = [(f"{cls.card.title}, {cls.card.cost}", cls.card.name) for cls in attacks()]
                self.attack = gr.Dropdown(
                    found, value=found[0][1] if found else None, label="Attack", elem_id="erase-attack"
                )
                self.trials = gr.Number(8, precision=0, minimum=1, maximum=MOST_PICTURES, label="Trials")
                self.attacked = gr.Dropdown(self.methods, value=first, label="On the edit of")
                self.break_in = gr.Button("Attack this edit", elem_id="erase-break")
            with gr.Tab("Export"):
                self.form = gr.Radio(list(FORMS.items()), value=FORMS["Delta"], label="Form", elem_id="erase-form")
                self.exported = gr.Dropdown(self.methods, value=first, label="Edit of")
                self.export = gr.Button("Export", elem_id="erase-export")

    # -- what the components say ---------------------------------------------------------------------------------

    @property
    def inputs(self) -> list[Any]:
        """The wish and the methods, then the Generate page's recipe."""
        own = [self.targets, self.anchor, self.preserve, self.synonyms, self.chosen, self.raws]
        return [*own, *self.generate.inputs]

    @property
    def view(self) -> list[Any]:
        """What a running job sets."""
        return [self.stage, self.grid, self.report, self.version, self.file, self.go, self.cancel]

    def connect(self) -> None:
        """Attach the handlers."""
        jobs: dict[str, Any] = {"concurrency_limit": 32, "trigger_mode": "once", **_QUIET}
        self.go.click(self.draw, self.inputs, self.view, **jobs)
        self.measure.click(self.weigh, [self.pictures, self.sweep, *self.inputs], self.view, **jobs)
        self.blend.click(self.mix, [self.one, self.strength, *self.inputs], self.view, **jobs)
        self.break_in.click(self.force, [self.attack, self.trials, self.attacked, *self.inputs], self.view, **jobs)
        self.export.click(self.take, [self.exported, self.form, *self.inputs], self.view, **jobs)
        self.suggest.click(self.near, self.inputs, [self.stage, self.preserve, self.synonyms], **jobs)
        self.cancel.click(self.stop, None, None, queue=False, **_QUIET)
        self.demo.load(self.known, [self.generate.model], [self.targets, self.preserve], queue=False, **_QUIET)

    def known(self, model: str) -> tuple[Any, Any]:
        """Words to choose from, without loading a model."""
        found = words()
        return gr.Dropdown(choices=found), gr.Dropdown(choices=found)

    def _read(self, values: Sequence[Any]) -> "Request":
        targets, anchor, preserve, synonyms, chosen, raws, *recipe = values
        wish = Wish(tuple(_clean(targets)), str(anchor or "").strip(), tuple(_clean(preserve)))
        if not wish.targets:
            raise AskError("There is no target yet. Name what should be gone, for example: cat face.")
        found = {**self.generate.gather(*recipe), "stack": [], "count": 1}
        found["prompt"] = prompts(wish, (), ())[0]
        return Request(wish, _clean(synonyms), list(chosen or ()), raws or {}, self.generate.plan(found))

    # -- jobs ----------------------------------------------------------------------------------------------------

    def draw(self, request: gr.Request, *values: Any) -> Iterator[tuple[Any, ...]]:
        """The grid: a row without any edit and one a method, the same seed everywhere, as it fills."""
        try:
            asked = self._read(values)
            rows: list[tuple[str, tuple[Edit, ...]]] = [("unedited", ()), *asked.rows()]
            if len(rows) < 2:
                raise AskError("No method is chosen. Choose one or several under Methods.")
            yield from self._drawn(request, asked, rows)
        except WorkbenchError as error:
            yield self._trouble(error)

    def mix(self, request: gr.Request, name: str, strength: float, *values: Any) -> Iterator[tuple[Any, ...]]:
        """One method at another strength, beside no edit: what was fitted is scaled."""
        try:
            asked = self._read(values)
            edit = at_strength(asked.edit(name), float(strength))
            yield from self._drawn(request, asked, [("unedited", ()), (f"{name} at {strength:g}", (edit,))])
        except WorkbenchError as error:
            yield self._trouble(error)

    def _drawn(self, request: gr.Request, asked: "Request", rows: Sequence[tuple[str, tuple[Edit, ...]]]) -> Any:
        owner = self.desk.owner(request)
        lines = prompts(asked.wish, asked.synonyms, asked.wish.preserve)
        cells = [(line, edits) for _, edits in rows for line in lines]
        folders = tuple(self.desk.fresh(owner) for _ in cells)

        def work(tap: Tap) -> None:
            for (line, edits), folder in zip(cells, folders, strict=True):
                plan = asked.plan.but(edits=edits, ask=asked.plan.ask.but(prompts=(line,)))
                if run(plan, folder, tap, self.desk.run_plan(plan)).status == "stopped":
                    raise Stopped

        ticket = self.desk.submit(owner, PAGE, work, folders, "erase")

        seen: dict[Path, str] = {}

        def pictures() -> str:
            for path in ticket.drawn:
                seen[path] = seen.get(path) or data_uri(picture(path), 1)
            return table([name for name, _ in rows], lines, [seen[path] for path in ticket.drawn])

        done = f"{len(cells)} pictures, a row each way, all of the same seed"
        yield from self._follow(ticket, done, pictures)

    def weigh(self, request: gr.Request, pictures: Any, sweep: bool, *values: Any) -> Iterator[tuple[Any, ...]]:
        """The report on all chosen methods; what was drawn before is used again."""
        try:
            asked = self._read(values)
            edits = [edit for _, (edit,) in asked.rows()]
            if not edits:
                raise AskError("No method is chosen. Choose one or several under Methods.")
            more: dict[str, Any] = {"pictures": _count(pictures)} | ({"strengths": (0.25, 0.5, 0.75)} if sweep else {})
            lens = judged(reporter().card.name, asked.wish, edits if len(edits) > 1 else (), **more)
            yield from self._looked(request, asked, lens, edits if len(edits) == 1 else [])
        except WorkbenchError as error:
            yield self._trouble(error)

    def force(self, request: gr.Request, name: str, trials: Any, of: str, *values: Any) -> Iterator[tuple[Any, ...]]:
        """An attack on one method's edit; its prompts can be downloaded."""
        try:
            asked = self._read(values)
            yield from self._looked(request, asked, judged(name, asked.wish, trials=_count(trials)), [asked.edit(of)])
        except WorkbenchError as error:
            yield self._trouble(error)

    def _looked(self, request: gr.Request, asked: "Request", lens: Lens, edits: Sequence[Edit]) -> Any:
        owner = self.desk.owner(request)
        folder = self.desk.fresh(owner)
        plan = asked.plan.but(edits=tuple(edits), lenses=(lens,))

        def work(tap: Tap) -> tuple[Report, Path]:
            made = run(plan, folder, tap, self.desk.run_plan(plan), drawing=False)
            if made.status == "stopped":
                raise Stopped
            return next(iter(made.reports().values())), made.folder / "report.json"

        ticket = self.desk.submit(owner, PAGE, work, (folder,), lens.card.title)
        yield from self._follow(ticket, f"{lens.card.title} of {', '.join(asked.wish.targets)}")

    def take(self, request: gr.Request, name: str, form: Any, *values: Any) -> Iterator[tuple[Any, ...]]:
        """The edited model as a file."""
        try:
            asked = self._read(values)
            owner, edit = self.desk.owner(request), asked.edit(name)
            folder = self.desk.fresh(owner)

            def work(tap: Tap) -> tuple[None, Path]:
                folder.mkdir(parents=True)
                return None, packed(self.desk.run_plan(asked.plan), [edit], folder, form)

            ticket = self.desk.submit(owner, PAGE, work, (), "export")
            yield from self._follow(ticket, f"{name} as {form}")
        except WorkbenchError as error:
            yield self._trouble(error)

    def near(self, request: gr.Request, *values: Any) -> Iterator[tuple[Any, ...]]:
        """Neighbours and synonyms of the targets, by the model's own text encoder."""
        try:
            asked = self._read(values)

            def work(tap: Tap) -> Any:
                return circle(self.desk.run_plan(asked.plan), asked.wish.targets)

            ticket = self.desk.submit(self.desk.owner(request), PAGE, work, title="neighbours")
        except WorkbenchError as error:
            yield trouble(str(error)), gr.skip(), gr.skip()
            return
        for _ in self.desk.follow(ticket):
            yield running(ticket), gr.skip(), gr.skip()
        if ticket.job.state != "done":
            yield over(ticket, ""), gr.skip(), gr.skip()
            return
        found = ticket.job.result
        keep = list(dict.fromkeys((*asked.wish.preserve, *found.neighbours)))
        done = f"{len(found.neighbours)} neighbours, {len(found.synonyms)} synonyms"
        yield over(ticket, done), gr.Dropdown(value=keep), gr.Dropdown(value=list(found.synonyms))

    def _follow(self, ticket: Ticket, done: str, pictures: Callable[[], str] | None = None) -> Any:
        """Show a job until it is over: its line, its pictures as they come, its report, its file, its warnings."""
        keep = gr.skip()
        grid = "" if pictures else keep
        hide = gr.DownloadButton(visible=False)
        yield running(ticket), grid, keep, keep, hide, gr.Button(interactive=False), gr.Button(visible=True)
        count = 0
        for _ in self.desk.follow(ticket):
            fresh = pictures() if pictures and len(ticket.drawn) != count else keep
            count = len(ticket.drawn)
            yield running(ticket), fresh, keep, keep, keep, keep, keep
        report, file = ticket.job.result if ticket.job.state == "done" and ticket.job.result else (None, None)
        alarms = "".join(trouble(line) for line in warnings(report)) if report is not None else ""
        yield (
            alarms + over(ticket, done),
            pictures() if pictures else keep,
            keep if report is None else report,
            keep if report is None else time.time(),
            keep if file is None else gr.DownloadButton(value=str(file), visible=True),
            gr.Button(interactive=True),
            gr.Button(visible=False),
        )

    def _trouble(self, error: WorkbenchError) -> tuple[Any, ...]:
        return trouble(str(error)), *[gr.skip()] * (len(self.view) - 1)

    def stop(self, request: gr.Request) -> None:
        """Cancel this browser's job; what was drawn is kept."""
        self.desk.cancel(self.desk.owner(request), PAGE)


class Request:
    """What the page asks for, read from its components."""

    def __init__(self, wish: Wish, synonyms: list[str], chosen: list[str], raws: dict[str, Any], plan: Plan) -> None:
        self.wish, self.synonyms, self.chosen, self.raws, self.plan = wish, synonyms, chosen, raws, plan

    def edit(self, name: str | None) -> Edit:
        """A method with the wish and its settings. Raises `AskError`."""
        if not name:
            raise AskError("No method is chosen. Choose one under Methods.")
        cls = find(name)
        roles = {"concepts", "anchor", "preserve"}
        own = {field: raw for field, raw in self.raws.get(name, {}).items() if field not in roles}
        needed = {"concepts": list(self.wish.targets)} if "concepts" in cls.model_fields else {}
        settings = {key: value for key, value in read_all(cls, {**needed, **own}).items() if key in own}
        return eraser(name, self.wish, settings)

    def rows(self) -> list[tuple[str, tuple[Edit]]]:
        """The chosen methods, each alone."""
        return [(name, (self.edit(name),)) for name in self.chosen[:MOST_METHODS]]


def table(rows: Sequence[str], columns: Sequence[str], images: Sequence[str]) -> str:
    """Pictures as they come, row by row under their prompts, as a table that scrolls sideways where it must."""
    width = len(columns)
    head = "".join(f"<th>{html.escape(text)}</th>" for text in ("", *columns))
    body = ""
    for at, name in enumerate(rows):
        cells = [*images[at * width : (at + 1) * width], *[""] * width][:width]
        shown = (f'<td><img src="{uri}" alt="{html.escape(f"{name}: {text}")}"></td>' if uri else "<td></td>"
                 for uri, text in zip(cells, columns, strict=True))  # fmt: skip
        body += f"<tr><th>{html.escape(name)}</th>{''.join(shown)}</tr>"
    return f"{_STYLE}<div class='wb-before'><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def _clean(values: Any) -> list[str]:
    return [text for value in values or () if (text := str(value).strip())]


def _count(value: Any) -> int:
    if not isinstance(value, int | float) or not 1 <= value <= MOST_PICTURES:
        raise AskError(f"The number is {value!r}; it should be from 1 to {MOST_PICTURES}.")
    return int(value)
