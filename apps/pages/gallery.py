"""Gallery: this browser's pictures; search, look, restore, download, delete and bring back."""

import time
from pathlib import Path
from typing import Any

import gradio as gr

from apps.desk import Desk
from apps.pages.detail import Detail
from apps.pages.generate import Generate
from apps.panels import empty, trouble
from workbench.core.errors import WorkbenchError
from workbench.runs.history import Run
from workbench.runs.shelf import pack_zip, plan_inside, take_back, throw_away

PAGE = "gallery"
MOST_SHOWN = 120
_NOTHING = ("No pictures here", "Pictures you draw in this browser appear here, newest first.")


class Gallery:
    """The page's components."""

    def __init__(self, desk: Desk, generate: Generate) -> None:
        self.desk, self.generate = desk, generate
        with gr.Row(elem_classes=["wb-main"]):
            with gr.Column(scale=7, min_width=320):
                with gr.Row():
                    self.query = gr.Textbox(
                        label="Search",
                        placeholder="words of the prompt, method, model, date (2026-11-21)",
                        elem_id="history-search",
                        scale=4,
                    )
                    self.refresh = gr.Button("Refresh", size="sm", scale=0, min_width=90, elem_id="history-refresh")
                self.line = gr.HTML(empty(*_NOTHING), elem_id="history-line")
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
                self.paths = gr.State([])
            with gr.Column(scale=4, min_width=320):
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
                self.detail = Detail(desk, "history")
                with gr.Row(elem_classes=["wb-chips"]):
                    self.delete = gr.Button(
                        "Delete", size="sm", variant="stop", scale=0, visible=False, elem_id="history-delete"
                    )
                    self.undo = gr.Button("Undo delete", size="sm", scale=0, visible=False, elem_id="history-undo")
                    self.zip = gr.DownloadButton("Download all as zip", size="sm", scale=0, elem_id="history-zip")
                self.dropped = gr.File(
                    label="Drop one of our PNGs to restore its settings",
                    file_types=[".png"],
                    type="filepath",
                    elem_id="history-drop",
                    height=150,
                )
                self.deleted = gr.State([])

    def connect(self, tabs: gr.Tabs, tab: gr.Tab) -> None:
        """Attach the handlers."""
        quiet: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        listing = [self.line, self.pictures, self.paths]
        gr.on([tab.select, self.refresh.click], self.find, [self.query], listing, **quiet)
        self.query.input(self.find, [self.query], listing, trigger_mode="always_last", **quiet)
        shown = [*self.detail.outputs, self.big, self.delete]
        self.pictures.select(self.choose, [self.paths], shown, **quiet)
        self.delete.click(
            self.throw,
            [self.detail.picked, self.deleted, self.query],
            [*listing, self.deleted, self.undo, *shown],
            **quiet,
        )
        self.undo.click(self.bring_back, [self.deleted, self.query], [*listing, self.deleted, self.undo], **quiet)
        page = self.generate
        queued = {**quiet, "queue": True, "concurrency_limit": None}
        self.dropped.upload(page.restore, [self.dropped], [*page.outputs, page.roll, page.stage, tabs], **queued)
        self.dropped.upload(self.foreign, [self.dropped], [self.line], **quiet)
        self.zip.click(self.pack, [self.paths], [self.zip], show_progress="minimal", api_visibility="private")

    def find(self, query: str, request: gr.Request) -> tuple[Any, Any, list[str]]:
        """The pictures that match, newest first, and where they lie."""
        owner = self.desk.owner(request)
        runs = self.desk.history(owner)
        paths = [str(path) for run in runs for path in self._matching(run, query)]
        if not paths:
            none = empty("Nothing matches", "Try fewer words.") if query and runs else empty(*_NOTHING)
            return none, gr.Gallery([], visible=False), []
        shown = paths[:MOST_SHOWN]
        more = f", {len(shown)} shown" if len(shown) < len(paths) else ""
        words = f"{len(paths)} picture{'s' * (len(paths) != 1)}{more} · kept in {self.desk.folder(owner)}"
        return f'<div class="wb-done">{words}</div>', gr.Gallery(shown, visible=True, selected_index=None), shown

    @staticmethod
    def _matching(run: Run, query: str) -> list[Path]:
        words = (query or "").lower().split()
        plan = run.plan
        names = [edit.card.name for edit in plan.edits] + ([plan.sampler.card.name] if plan.sampler else [])
        about = [
            str(run.report.get("started", ""))[:16],
            str((run.report.get("model") or {}).get("name", "")),
            plan.model,
            *names,
        ]
        entries = list(run.report.get("pictures", ()))
        found: list[Path] = []
        for entry, path in zip(entries, run.pictures, strict=True):
            text = " ".join([*about, str(entry.get("prompt", "")), f"seed {entry.get('seed', '')}"]).lower()
            if all(word in text for word in words):
                found.append(path)
        return found

    def choose(self, paths: list[str], event: gr.SelectData) -> tuple[Any, ...]:
        """One picture, large, with its facts; the settings on the Generate page stay as they are."""
        at = event.index if isinstance(event.index, int) else -1
        path = paths[at] if 0 <= at < len(paths) else None
        return *self.detail.show(path), gr.Image(path, visible=bool(path)), gr.Button(visible=bool(path))

    def throw(self, picked: str | None, deleted: list[Any], query: str, request: gr.Request) -> tuple[Any, ...]:
        """Move a picture into the bin."""
        owner = self.desk.owner(request)
        if picked and self.desk.owns(owner, picked) and Path(picked).is_file():
            deleted = [*deleted, str(throw_away(Path(picked), self.desk.bin(owner)))]
        after = (*self.detail.show(None), gr.Image(visible=False), gr.Button(visible=False))
        return *self.find(query, request), deleted, gr.Button(visible=bool(deleted)), *after

    def bring_back(self, deleted: list[Any], query: str, request: gr.Request) -> tuple[Any, ...]:
        """The picture deleted last, back in its run."""
        owner = self.desk.owner(request)
        try:
            if deleted:
                take_back(Path(deleted[-1]), self.desk.folder(owner))
        except WorkbenchError as error:
            gr.Warning(str(error))
        rest = deleted[:-1]
        return *self.find(query, request), rest, gr.Button(visible=bool(rest))

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
        """All pictures of the list in one zip, byte for byte."""
        owner = self.desk.owner(request)
        mine = [Path(path) for path in paths if self.desk.owns(owner, path) and Path(path).is_file()]
        if not mine:
            gr.Warning("There is nothing to download yet.")
            return gr.skip()
        return str(pack_zip(mine, self.desk.bin(owner) / f"pictures-{time.strftime('%Y%m%d-%H%M%S')}.zip"))
