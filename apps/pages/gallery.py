"""Gallery: this browser's pictures and reports; search, look, restore, download, delete and bring back."""

import html
import time
from pathlib import Path
from typing import Any

import gradio as gr

from apps.controls import edited
from apps.desk import Desk
from apps.pages.detail import Detail, plan_of
from apps.pages.generate import Generate
from apps.panels import draw_report, empty, trouble
from apps.rendering import redrawn
from workbench.core.errors import WorkbenchError
from workbench.core.plan import Plan
from workbench.runs.history import Run, read_run
from workbench.runs.shelf import pack_zip, plan_inside

PAGE = "gallery"
PICTURES, REPORTS = "Pictures", "Reports"
MOST_SHOWN = 120
MOST_REPORTS = 3
_NOTHING = {
    PICTURES: ("No pictures here", "Pictures you draw in this browser appear here, newest first."),
    REPORTS: ("No reports here", "What a lens shows on the Inspect page is kept here, newest first."),
}
#: A download button only hands out what it held when it was pressed, so the page presses it once the file is there.
_FETCH = """() => { setTimeout(() => { const at = document.querySelector('#history-zip-file');
(at.tagName === 'BUTTON' ? at : at.querySelector('button') || at).click(); }, 150); }"""
_COLUMNS = ["When", "Lens", "Prompt", "Seed", "Model"]


class Gallery:
    """The page's components."""

    def __init__(self, desk: Desk, generate: Generate) -> None:
        self.desk, self.generate = desk, generate
        with gr.Row(elem_classes=["wb-main"]):
            with gr.Column(scale=7, min_width=320):
                with gr.Row():
                    self.query = gr.Textbox(
                        label="Search",
                        placeholder="prompt, method, model or date",
                        elem_id="history-search",
                        scale=4,
                        min_width=240,
                    )
                    self.kind = gr.Radio(
                        [PICTURES, REPORTS],
                        value=PICTURES,
                        label="Show",
                        elem_id="history-kind",
                        scale=2,
                        min_width=230,
                    )
                self.line = gr.HTML(empty(*_NOTHING[PICTURES]), elem_id="history-line")
                self.pictures = gr.Gallery(
                    label="Your pictures",
                    show_label=False,
                    visible=False,
                    columns=5,
                    object_fit="cover",
                    allow_preview=False,
                    elem_id="history",
                    format="png",
                    buttons=[],
                )
                self.reports = gr.Dataframe(
                    headers=_COLUMNS,
                    datatype="str",
                    interactive=False,
                    wrap=True,
                    label="Your reports",
                    show_label=False,
                    visible=False,
                    elem_id="history-reports",
                    buttons=[],
                )
                self.paths = gr.State([])
            with gr.Column(scale=4, min_width=320, elem_classes=["wb-side"]):
                self._side()

    def _side(self) -> None:
        self.big = gr.Image(
            label="Picture",
            type="filepath",
            format="png",
            interactive=False,
            visible=False,
            elem_id="history-picture",
            height=320,
            buttons=["download", "fullscreen"],
        )
        self.detail = Detail(self.desk, "history")
        with gr.Row(elem_classes=["wb-chips"]):
            self.delete = gr.Button(
                "Delete", size="sm", variant="stop", scale=0, visible=False, elem_id="history-delete"
            )
            self.undo = gr.Button("Undo delete", size="sm", scale=0, visible=False, elem_id="history-undo")
            self.all = gr.Button("Download all as zip", size="sm", scale=0, elem_id="history-zip")
            self.zip = gr.DownloadButton("Zip", visible="hidden", elem_id="history-zip-file")
        self.dropped = gr.File(
            label="Drop one of our PNGs to restore its settings",
            file_types=[".png"],
            type="filepath",
            elem_id="history-drop",
            height=150,
        )
        self.deleted = gr.State([])
        self.looked, self.version = gr.State([]), gr.State(0)

        @redrawn([self.looked], [self.version.change])
        def shape(folders: list[str]) -> None:
            for folder in folders[:MOST_REPORTS]:
                _draw(folder)

    def connect(self, tabs: gr.Tabs, tab: gr.Tab) -> None:
        """Attach the handlers."""
        quiet: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        # only a queued event tells the page that a state changed, which redraws what depends on it
        queued = {**quiet, "queue": True, "concurrency_limit": None}
        page, detail = self.generate, self.detail
        asked, listing = [self.query, self.kind], [self.line, self.pictures, self.reports, self.paths]
        shown = [*detail.outputs, *detail.steps, self.big, self.delete, self.looked, self.version]
        tab.select(self.find, asked, listing, **quiet)
        self.kind.change(self.switch, asked, [*listing, *shown], **queued)
        edited(self.query)(self.find, asked, listing, trigger_mode="always_last", **quiet)
        gr.on([self.pictures.select, self.reports.select], self.choose, [self.paths], shown, **queued)
        for button, by in ((detail.previous, -1), (detail.next, 1)):
            button.click(self.walk(by), [self.paths, detail.picked], [*shown, self.pictures], **queued)
        self.delete.click(
            self.throw,
            [detail.picked, self.paths, self.deleted, *asked],
            [*listing, self.deleted, self.undo, *shown],
            **queued,
        )
        self.undo.click(self.bring_back, [self.deleted, *asked], [*listing, self.deleted, self.undo], **queued)
        self.dropped.upload(page.restore, [self.dropped], page.restored(tabs), **queued)
        self.dropped.upload(self.foreign, [self.dropped], [self.line], **quiet)
        packed = self.all.click(self.pack, [self.paths], [self.zip], show_progress="hidden", api_visibility="private")
        packed.success(None, None, None, js=_FETCH, api_visibility="private")

    def find(self, query: str, kind: str, request: gr.Request) -> tuple[Any, Any, Any, list[str]]:
        """What matches, newest first, and where it lies: the line, the pictures, the table, the paths."""
        owner = self.desk.owner(request)
        runs = self.desk.history(owner)
        if kind == REPORTS:
            looks = [run for run in runs if run.report.get("reports")]
            found = [run for run in looks if _found(run, run.plan.ask.prompts[0], run.plan.ask.seeds[0], query)]
            paths, total = [str(run.folder) for run in found[:MOST_SHOWN]], len(found)
            rows = [_row(run) for run in found[:MOST_SHOWN]]
        else:
            every = [str(path) for run in runs for path in _matching(run, query)]
            paths, total, rows = every[:MOST_SHOWN], len(every), []
        table = gr.Dataframe({"headers": _COLUMNS, "data": rows}, visible=bool(rows))
        pictures = [] if kind == REPORTS else paths
        gallery = gr.Gallery(pictures, visible=bool(pictures), selected_index=None)
        if not paths:
            nothing = ("Nothing matches", "Try fewer words.") if query else _NOTHING.get(kind, _NOTHING[PICTURES])
            return empty(*nothing), gallery, table, []
        words = f"{total} {'report' if kind == REPORTS else 'picture'}{'s' * (total != 1)}"
        words += f", {len(paths)} shown" if len(paths) < total else ""
        where = self.desk.where(owner)
        place = f"<span>kept in <code>{html.escape(where)}</code></span>" if where else ""
        return f'<div class="wb-done"><span>{words}</span>{place}</div>', gallery, table, paths

    def switch(self, query: str, kind: str, request: gr.Request) -> tuple[Any, ...]:
        """The other list, with nothing picked yet."""
        return *self.find(query, kind, request), *self.show([], None, request)

    def choose(self, paths: list[str], event: gr.SelectData, request: gr.Request) -> tuple[Any, ...]:
        """One picture or report, large, with its facts; the settings on the Generate page stay as they are."""
        at = event.index[0] if isinstance(event.index, list | tuple) else event.index
        return self.show(paths, paths[at] if isinstance(at, int) and 0 <= at < len(paths) else None, request)

    def show(self, paths: list[str], path: str | None, request: gr.Request) -> tuple[Any, ...]:
        """What stands on the right for a path of the list, None for nothing."""
        picture = bool(path) and Path(str(path)).is_file()
        return (
            *self.detail.along(paths, path),
            gr.Image(path if picture else None, visible=picture),
            gr.Button(visible=bool(path)),
            self._reports_on(path, request),
            time.time(),
        )

    def walk(self, by: int) -> Any:
        """A handler that goes along the list."""

        def step(paths: list[str], picked: str | None, request: gr.Request) -> tuple[Any, ...]:
            path = self.detail.beside(paths, picked, by)
            picture = path in paths and Path(str(path)).is_file()
            marked = gr.Gallery(selected_index=paths.index(str(path))) if picture else gr.skip()
            return *self.show(paths, path, request), marked

        return step

    def _reports_on(self, path: str | None, request: gr.Request) -> list[str]:
        """The folders of the reports to show with a path: its own, or those that looked at the same request."""
        if not path:
            return []
        if Path(path).is_dir():
            return [path]
        try:
            wanted = _bare(plan_of(path))
        except WorkbenchError:
            return []
        runs = self.desk.history(self.desk.owner(request))
        return [str(run.folder) for run in runs if run.report.get("reports") and _bare(run.plan) == wanted]

    def throw(
        self, picked: str | None, paths: list[str], deleted: list[str], query: str, kind: str, request: gr.Request
    ) -> tuple[Any, ...]:
        """Move a picture or a report into the bin; the next one takes its place on the right."""
        after = self.detail.beside(paths, picked, 1)
        kept = self.desk.discard(self.desk.owner(request), picked) if picked else ""
        deleted = [*deleted, kept] if kept else deleted
        found = self.find(query, kind, request)
        rest = found[-1]
        path = after if after in rest else (rest[-1] if rest and picked else None)
        return *found, deleted, gr.Button(visible=bool(deleted)), *self.show(rest, path, request)

    def bring_back(self, deleted: list[str], query: str, kind: str, request: gr.Request) -> tuple[Any, ...]:
        """What was deleted last, back in its place."""
        try:
            if deleted:
                self.desk.bring_back(self.desk.owner(request), deleted[-1])
        except WorkbenchError as error:
            gr.Warning(str(error))
        rest = deleted[:-1]
        return *self.find(query, kind, request), rest, gr.Button(visible=bool(rest))

    @staticmethod
    def foreign(path: str | None) -> Any:
        """A line when a dropped picture holds no settings of ours."""
        try:
            if path:
                plan_inside(path)
        except WorkbenchError as error:
            return trouble(str(error))
        return gr.skip()

    def pack(self, paths: list[str], request: gr.Request) -> Any:
        """All of the list in one zip, byte for byte: the pictures, or the files of the reports."""
        owner = self.desk.owner(request)
        mine = [Path(path) for path in paths if self.desk.owns(owner, path)]
        files = [file for path in mine for file in (sorted(path.iterdir()) if path.is_dir() else [path])]
        files = [file for file in files if file.is_file()]
        if not files:
            raise gr.Error("There is nothing to download yet.", print_exception=False)
        return str(pack_zip(files, self.desk.bin(owner) / f"workbench-{time.strftime('%Y%m%d-%H%M%S')}.zip"))


def _draw(folder: str) -> None:
    """What a run's folder reports, one lens after the other."""
    try:
        run = read_run(folder)
        reports = run.reports()
    except (WorkbenchError, OSError, ValueError, KeyError) as error:
        gr.HTML(trouble(f"The report in {Path(folder).name} cannot be read: {error}"))
        return
    titles = {lens.card.name: lens.card.title for lens in run.plan.lenses}
    for name, report in reports.items():
        gr.HTML(f"<h3>{html.escape(titles.get(name, name))}</h3>", elem_classes=["wb-report-title"])
        draw_report(report)


def _found(run: Run, prompt: str, seed: Any, query: str) -> bool:
    """Whether every word of a search is in what a picture or report is found by."""
    plan = run.plan
    names = [part.card.name for part in (*plan.edits, *plan.lenses, *((plan.sampler,) if plan.sampler else ()))]
    about = [str(run.report.get("started", ""))[:16], _model(run), plan.model, *names, prompt, f"seed {seed}"]
    text = " ".join(about).lower()
    return all(word in text for word in (query or "").lower().split())


def _matching(run: Run, query: str) -> list[Path]:
    entries = run.report.get("pictures", ())
    return [
        path
        for entry, path in zip(entries, run.pictures, strict=True)
        if _found(run, str(entry.get("prompt", "")), entry.get("seed", ""), query)
    ]


def _model(run: Run) -> str:
    return str((run.report.get("model") or {}).get("name", ""))


def _row(run: Run) -> list[str]:
    plan = run.plan
    lenses = ", ".join(lens.card.title for lens in plan.lenses) or ", ".join(run.report.get("reports", ()))
    started = str(run.report.get("started", ""))[:16].replace("T", " ")
    return [started, lenses, plan.ask.prompts[0], str(plan.ask.seeds[0]), _model(run)]


def _bare(plan: Plan) -> Plan:
    return plan.but(lenses=(), metrics=())
