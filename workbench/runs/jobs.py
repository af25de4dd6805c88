"""One worker, a queue, progress and cancel: what an app needs to run plans."""

import gc
import itertools
import queue
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch

from workbench.core.bundle import Bundle
from workbench.core.errors import ResourceError, Stopped, WorkbenchError
from workbench.core.plan import Plan
from workbench.core.tape import Step, Tap
from workbench.runs.execute import open_bundle, run, run_name

State = Literal["waiting", "running", "done", "stopped", "failed"]
Work = Plan | Callable[[Tap], Any]
Watch = Callable[[Bundle, Step], None]


@dataclass(frozen=True)
class Progress:
    """One more step of a job: `done` of `total` (both in steps), and the seconds that are left, None at first."""

    done: int
    total: int
    seconds_left: float | None
    step: Step


@dataclass(frozen=True)
class Drawn:
    """A finished picture, as a file."""

    path: Path


@dataclass(frozen=True)
class Over:
    """The job's end: its state, and one line saying why it failed."""

    state: State
    error: str = ""


JobEvent = Progress | Drawn | Over


@dataclass(eq=False)
class Job:
    """A piece of work in the queue. `result` is what it returned: a `Run` for a plan."""

    name: str
    work: Work
    out: Path | None = None
    title: str = ""
    watch: Watch | None = None
    state: State = "waiting"
    result: Any = None
    error: str = ""
    trace: str = ""
    progress: Progress | None = None
    _events: list[JobEvent] = field(default_factory=list[JobEvent])
    _news: threading.Condition = field(default_factory=threading.Condition)
    _cancelled: bool = False
    _began: float = 0.0

    def cancel(self) -> None:
        """End the job before its next step; a waiting one never starts."""
        with self._news:
            self._cancelled = True
            waiting = self.state == "waiting"
        if waiting:
            self._finish("stopped")

    @property
    def over(self) -> bool:
        """Whether it is done, stopped or failed."""
        return self.state in ("done", "stopped", "failed")

    def wait(self, seconds: float | None = None) -> State:
        """The state once the job is over, or after so many seconds."""
        with self._news:
            self._news.wait_for(lambda: self.over, seconds)
        return self.state

    def events(self, patience: float | None = None) -> Iterator[JobEvent]:
        """What happens, until `Over`, also for one who comes late. Whoever is slow misses steps, never pictures.

        With `patience`, the last event is repeated (or nothing, at first) after so many seconds of silence, so that a
        caller can look up; it never blocks longer.
        """
        at, last = 0, None
        while True:
            with self._news:
                self._news.wait_for(lambda at=at, last=last: self._fresh(at, last), patience)
                fresh = self._events[at:]
                at += len(fresh)
                news = [self.progress] if self.progress not in (None, last) else []
                last = self.progress
            silent = [last] if last is not None and patience is not None and not news and not fresh else []
            for event in (*news, *silent, *fresh):
                if event is not None:
                    yield event
                if isinstance(event, Over):
                    return

    def _fresh(self, at: int, last: Progress | None) -> bool:
        return len(self._events) > at or self.progress is not last

    def _tell(self, event: JobEvent) -> None:
        with self._news:
            if isinstance(event, Progress):
                self.progress = event
            else:
                self._events.append(event)
            self._news.notify_all()

    def _finish(self, state: State, error: str = "") -> None:
        with self._news:
            if self.over:
                return
            self.state, self.error = state, error
            if self.progress is not None:  # let go of the last step's tensors
                self.progress = replace(self.progress, step=replace(self.progress.step, x=None, x0=None))
            self._events.append(Over(state, error))
            self._news.notify_all()

    def _tap(self) -> Tap:
        count = itertools.count(1)
        pieces = -(-len(self.work.ask) // self.work.batch) if isinstance(self.work, Plan) else 1

        def tap(step: Step) -> None:
            if self._cancelled:
                raise Stopped
            done = next(count)
            total = max(step.total * pieces, done)
            each = (time.monotonic() - self._began) / done
            left = None if done < 2 else (total - done) * each
            self._tell(Progress(done, total, left, step))

        return tap


class Jobs:
    """A queue with one worker thread, so that one model is used by one job at a time.

    The bundle of the last plan is kept and used again. A job that fails, or runs out of memory, leaves the worker
    alive. `close` ends it after the job in hand is stopped.
    """

    def __init__(self, folder: Path | None = None, models: Path | None = None, most: int = 64) -> None:
        self.folder, self.models = folder, models
        self.jobs: dict[str, Job] = {}
        self._most = most
        self._queue: queue.Queue[Job | None] = queue.Queue()
        self._numbers = itertools.count(1)
        self._kept: tuple[tuple[str, str, str], Bundle] | None = None
        self._worker = threading.Thread(target=self._loop, name="workbench-jobs", daemon=True)
        self._worker.start()

    def submit(self, work: Work, *, out: Path | None = None, title: str = "", watch: Watch | None = None) -> Job:
        """Put a plan, or a function of a tap, into the queue; `watch(bundle, step)` sees each step of a plan.

        Raises `ResourceError` when it is full.
        """
        if self._queue.qsize() >= self._most:
            raise ResourceError(f"{self._most} jobs are waiting already. Cancel some, or wait for them.")
        job = Job(f"{next(self._numbers):05d}", work, out, title, watch)
        self.jobs[job.name] = job
        for name in [n for n, old in self.jobs.items() if old.over][: max(0, len(self.jobs) - 256)]:
            del self.jobs[name]
        self._queue.put(job)
        return job

    def waiting(self, job: Job) -> int:
        """How many jobs will run before this one."""
        ahead = [other for other in self.jobs.values() if not other.over and other.name < job.name]
        return 0 if job.state != "waiting" else len(ahead)

    def bundle(self, plan: Plan) -> Bundle:
        """The model of a plan; the last one is kept. For use inside a job."""
        key = (plan.model, plan.device, plan.dtype)
        if self._kept is None or self._kept[0] != key:
            self._kept = None
            _free()
            self._kept = (key, open_bundle(plan, self.models))
        return self._kept[1]

    def close(self) -> None:
        """Cancel everything and end the worker."""
        for job in list(self.jobs.values()):
            job.cancel()
        self._queue.put(None)
        self._worker.join(60)

    def _loop(self) -> None:
        while (job := self._queue.get()) is not None:
            if not job.over:
                self._do(job)

    def _do(self, job: Job) -> None:
        with job._news:
            if job._cancelled:
                return
            job.state, job._began = "running", time.monotonic()
        try:
            job.result = self._run(job)
        except Stopped:
            job._finish("stopped")
        except WorkbenchError as error:
            job.trace = traceback.format_exc()
            job._finish("failed", str(error))
        except Exception as error:  # whatever a method does, the next job must find a living worker
            job.trace = traceback.format_exc()
            job._finish("failed", f"{type(error).__name__}: {error}")
            del error
            _free()
        else:
            job._finish("stopped" if getattr(job.result, "status", "") == "stopped" else "done")

    def _run(self, job: Job) -> Any:
        if not isinstance(job.work, Plan):
            return job.work(job._tap())
        bundle = self.bundle(job.work)
        out = job.out or (None if self.folder is None else self.folder / run_name(job.work))
        return run(job.work, out, _watched(job, bundle), bundle, saved=lambda path: job._tell(Drawn(path)))


def _watched(job: Job, bundle: Bundle) -> Tap:
    tap, watch = job._tap(), job.watch
    if watch is None:
        return tap

    def both(step: Step) -> None:
        tap(step)
        watch(bundle, step)

    return both


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
