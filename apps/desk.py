"""The app's side that no page owns: who is asking, their folder, their jobs, and the previews of a running one."""

import base64
import io
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import gradio as gr
import torch
from PIL import Image

from apps.guard import browser_id
from workbench.core.bundle import Bundle
from workbench.core.errors import AskError, ResourceError, WorkbenchError
from workbench.core.plan import Plan
from workbench.core.tape import Step
from workbench.runs.erasing import words
from workbench.runs.history import REPORT, Run, read_run
from workbench.runs.jobs import Job, Jobs
from workbench.runs.shelf import model_names, take_back, throw_away

#: Waiting and running jobs of one browser.
MOST_JOBS = 8
#: Share of the time that previews may take; decoding an unfinished picture is not free.
PREVIEW_SHARE = 0.03
#: Seconds of drawing before the first preview: what is done sooner is its own preview.
PREVIEW_AFTER = 1.0
_PREVIEW_SIDE = 256  # px
_PREVIEWS = 4
_DAY = 24 * 3600  # s
_FOLDERS = "folders"  # in the bin: what was deleted as a whole


@dataclass(eq=False)
class Preview:
    """The latest unfinished pictures of a job as `data:` addresses, made in the worker between two steps."""

    images: list[str] = field(default_factory=list[str])
    spent: float = 0.0
    began: float | None = None  # at the first step

    def watch(self, bundle: Bundle, step: Step) -> None:
        """Decode this step's clean prediction if that keeps within the share of time."""
        start = time.monotonic()
        self.began = self.began or start
        elapsed = start - self.began
        if step.x0 is None or step.index + 1 >= step.total or self.spent > PREVIEW_SHARE * elapsed:
            return
        if not self.spent and (elapsed < PREVIEW_AFTER or step.index < max(1, step.total // 4)):
            return  # the first is the one whose price is not known yet, and says least
        try:
            with torch.no_grad():
                pixels = bundle.decode(step.x0[:_PREVIEWS])
            levels = ((pixels.float() + 1) * 127.5).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
            self.images = [_small(image) for image in levels]
        except Exception:  # a preview is a courtesy: whatever goes wrong here must not end the run
            self.spent = float("inf")
            return
        self.spent += time.monotonic() - start


def _small(pixels: Any) -> str:
    image = Image.fromarray(pixels)
    image.thumbnail((_PREVIEW_SIDE, _PREVIEW_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=80)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


@dataclass(eq=False)
class Ticket:
    """A browser's job with its preview, the folders it draws into, and the pictures that are there so far."""

    job: Job
    preview: Preview
    page: str
    folders: tuple[Path, ...]
    began: float = field(default_factory=time.monotonic)
    drawn: tuple[Path, ...] = ()
    stopping: bool = False
    note: Any = None  # what the page needs to show the job again after a reload

    def look(self) -> None:
        """See which pictures are there: they appear whole or not at all."""
        self.drawn = tuple(path for folder in self.folders for path in sorted(folder.glob("[0-9]*.png")))

    @property
    def over(self) -> bool:
        """Whether the page need not wait: it is over, or is to stop and still loads its model, which nothing stops."""
        return self.job.over or (self.stopping and self.job.progress is None)


class Desk:
    """Jobs and folders by browser. The cookie alone says whose things these are, never what a page sends."""

    def __init__(self, root: Path, models: Path | None = None, public: bool = False) -> None:
        self.root = root.resolve()
        self.models = models
        self.public = public
        self.jobs = Jobs(self.root, models)
        self._tickets: dict[str, list[Ticket]] = {}
        self._runs: dict[Path, tuple[tuple[int, int], Run]] = {}
        self._lock = threading.Lock()
        self._empty_bins()

    def owner(self, request: gr.Request | None) -> str:
        """The browser's name: a hash that nobody else can work out."""
        if request is None:
            return browser_id(None, None)
        return browser_id(dict(request.cookies or {}), request.session_hash)

    def folder(self, owner: str) -> Path:
        """Where a browser's runs lie."""
        return self.root / owner

    def fresh(self, owner: str) -> Path:
        """A folder for one more run, not made yet."""
        return self.folder(owner) / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"

    def submit(
        self, owner: str, page: str, work: Any, folders: tuple[Path, ...] = (), title: str = "", note: Any = None
    ) -> Ticket:
        """Queue a plan, or a function of a tap, that draws into folders; the ticket keeps `note` for the page.

        Raises `ResourceError` when this browser has too many jobs waiting.
        """
        with self._lock:
            mine = [ticket for ticket in self._tickets.get(owner, []) if not ticket.job.over]
            if len(mine) >= MOST_JOBS:
                raise ResourceError(f"{MOST_JOBS} of your jobs are waiting already. Cancel some, or wait for them.")
            preview = Preview()
            out = folders[0] if folders else None
            job = self.jobs.submit(work, out=out, title=title, watch=preview.watch)
            ticket = Ticket(job, preview, page, folders, note=note)
            last = {old.page: old for old in self._tickets.get(owner, []) if old.job.state == "done"}
            self._tickets[owner] = [*last.values(), *mine, ticket]
            return ticket

    def current(self, owner: str, page: str) -> Ticket | None:
        """The browser's newest job on a page: one at work, or else the last that went well."""
        mine = [t for t in self._tickets.get(owner, []) if t.page == page]
        shown = [t for t in mine if not t.over] or [t for t in mine if t.job.state == "done"]
        return shown[-1] if shown else None

    def reopen(self, demo: gr.Blocks, page: str, view: Sequence[Any], show: Callable[[Ticket], Iterator[Any]]) -> Any:
        """Let a page that is loaded again go on showing its job: `show` yields what `view` shows. The event."""

        def attach(request: gr.Request) -> Iterator[Any]:
            ticket = self.current(self.owner(request), page)
            if ticket is None:
                yield (gr.skip(),) * len(view)  # a generator that yields nothing would empty its outputs
            else:
                yield from show(ticket)

        return demo.load(  # type: ignore[attr-defined]
            attach, None, list(view), concurrency_limit=32, show_progress="hidden", api_visibility="private"
        )

    def cancel(self, owner: str, page: str) -> int:
        """Cancel the browser's jobs on a page; how many there were."""
        mine = [t for t in self._tickets.get(owner, []) if t.page == page and not t.job.over]
        for ticket in mine:
            ticket.stopping = True
            ticket.job.cancel()
        return len(mine)

    def follow(self, ticket: Ticket, rhythm: float = 0.25) -> Iterator[Ticket]:
        """The ticket whenever something changed, until its job is over, at most once in `rhythm` seconds."""
        seen: Any = None
        while not ticket.over:
            ticket.look()
            now = (ticket.job.progress, len(ticket.drawn), int(time.monotonic() - ticket.began))
            if now != seen:
                seen = now
                yield ticket
            ticket.job.wait(rhythm)
        ticket.look()

    def run_plan(self, ticket_plan: Plan) -> Bundle:
        """The model of a plan, for work inside a job."""
        return self.jobs.bundle(ticket_plan)

    def allow(self, model: str) -> None:
        """Raise `AskError` when strangers may ask here and the model is not one of the list or on the hub."""
        if self.public and model and (Path(model).expanduser().exists() or model.startswith(("/", "~", ".", "\\"))):
            raise AskError(
                "Here models are chosen from the list or by their hub id; files of this computer are not read."
            )

    def names(self) -> list[str]:
        """Models that can be chosen by name."""
        return model_names(self.models)

    def words(self) -> list[str]:
        """What the shipped model knows by name, for forms to suggest; nothing where it is not there."""
        try:
            return words()
        except (WorkbenchError, OSError):
            return []

    def history(self, owner: str) -> list[Run]:
        """The browser's runs that hold something to look at, newest first."""
        runs = [self._read(path) for path in self.folder(owner).glob(f"*/{REPORT}")]
        kept = [run for run in runs if run is not None and (run.pictures or run.report.get("reports"))]
        return sorted(kept, key=lambda run: str(run.report.get("started", "")), reverse=True)

    def _read(self, path: Path) -> Run | None:
        """The run of a report, from memory while neither it nor its folder has changed."""
        try:
            stamp = (path.stat().st_mtime_ns, path.parent.stat().st_mtime_ns)
            kept = self._runs.get(path)
            if kept is None or kept[0] != stamp or kept[1].status == "running":
                kept = (stamp, read_run(path.parent))
                self._runs[path] = kept
            return kept[1]
        except (OSError, WorkbenchError):
            self._runs.pop(path, None)
            return None

    def where(self, owner: str) -> str:
        """Where a browser's files lie, in words for it: strangers are told nothing of this computer."""
        return "" if self.public else short(self.folder(owner))

    def discard(self, owner: str, path: str) -> str:
        """Move a picture, or the folder of a report, into the browser's bin; returns where it is now, "" if not its."""
        if not self.owns(owner, path) or Path(path).resolve() == self.folder(owner).resolve():
            return ""
        if Path(path).is_file():
            return str(throw_away(Path(path), self.bin(owner)))
        kept = self.bin(owner) / _FOLDERS / Path(path).name
        kept.parent.mkdir(parents=True, exist_ok=True)
        return str(shutil.move(path, kept)) if Path(path).is_dir() else ""

    def bring_back(self, owner: str, kept: str) -> None:
        """Undo `discard`. Raises `AskError` when it cannot be."""
        path = Path(kept)
        if path.parent.name != _FOLDERS or not path.is_dir():
            take_back(path, self.folder(owner))
        else:
            shutil.move(path, self.folder(owner) / path.name)

    def bin(self, owner: str) -> Path:
        """Where deleted things wait."""
        return self.folder(owner) / ".bin"

    def _empty_bins(self) -> None:
        """Forget what was deleted more than a day before this start."""
        for entry in self.root.glob("*/.bin/*"):
            if time.time() - entry.stat().st_mtime > _DAY:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()

    def owns(self, owner: str, path: str | Path) -> bool:
        """Whether a file lies in the browser's own folder."""
        return Path(path).resolve().is_relative_to(self.folder(owner).resolve())


def short(path: Path) -> str:
    """A path as a person would say it: from here, or from home, where it lies there."""
    for start, sign in ((Path.cwd(), ""), (Path.home(), "~/")):
        if path.is_relative_to(start) and path != start:
            return sign + path.relative_to(start).as_posix()
    return str(path)
