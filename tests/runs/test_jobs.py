import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.folders import tiny_plan
from workbench.core.errors import AskError, ResourceError
from workbench.core.tape import Step, Tap
from workbench.runs.jobs import Drawn, Jobs, Over, Progress

PATIENCE = 120  # seconds; a loaded machine takes its time


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    made = Jobs(tmp_path / "runs")
    yield made
    made.close()


def test_a_plan_tells_steps_pictures_and_its_end(jobs: Jobs) -> None:
    job = jobs.submit(tiny_plan("a", "b", "c"))
    events = list(job.events())
    assert job.state == "done"
    assert [event.path.name for event in events if isinstance(event, Drawn)] == ["0000.png", "0001.png", "0002.png"]
    assert events[-1] == Over("done")
    last = [event for event in events if isinstance(event, Progress)][-1]
    assert (last.done, last.total) == (6, 6)  # two batches of three steps
    assert job.result.folder.parent == jobs.folder


def test_the_late_hear_of_every_picture(jobs: Jobs) -> None:
    job = jobs.submit(tiny_plan("a", "b"))
    assert job.wait(PATIENCE) == "done"
    assert [type(event) for event in job.events()] == [Progress, Drawn, Drawn, Over]


def test_a_failing_job_leaves_the_worker_alive(jobs: Jobs) -> None:
    def fail(tap: Tap) -> None:
        raise ZeroDivisionError("by design")

    def refuse(tap: Tap) -> None:
        raise AskError("One clear line.")

    first, second, third = jobs.submit(fail), jobs.submit(refuse), jobs.submit(lambda tap: 7)
    assert third.wait(PATIENCE) == "done"
    assert (first.state, first.error) == ("failed", "ZeroDivisionError: by design")
    assert "by design" in first.trace
    assert (second.state, second.error) == ("failed", "One clear line.")
    assert third.result == 7


def test_cancel_ends_a_job_within_one_step(jobs: Jobs) -> None:
    started, go_on = threading.Event(), threading.Event()
    steps: list[int] = []

    def work(tap: Tap) -> None:
        for index in range(100):
            steps.append(index)
            started.set()
            go_on.wait(PATIENCE)
            tap(Step(index, 100, 0.0))

    job = jobs.submit(work)
    started.wait(PATIENCE)
    job.cancel()
    go_on.set()
    assert job.wait(PATIENCE) == "stopped"
    assert steps == [0]


def test_a_cancelled_plan_ends_as_a_stopped_run(jobs: Jobs) -> None:
    job = jobs.submit(tiny_plan("a", sampler={"method": "diffuse", "steps": 1000}))
    for event in job.events():
        if isinstance(event, Progress):
            job.cancel()
    assert job.state == "stopped"
    assert job.result.status == "stopped"
    assert job.progress is not None
    assert job.progress.done < 1000
    assert job.progress.step.x is None  # the tensors of the last step are let go


def test_a_waiting_job_that_is_cancelled_never_starts(jobs: Jobs) -> None:
    go_on = threading.Event()
    jobs.submit(lambda tap: go_on.wait(PATIENCE))
    ran: list[int] = []
    job = jobs.submit(lambda tap: ran.append(1))
    assert jobs.waiting(job) == 1
    job.cancel()
    assert job.state == "stopped"
    go_on.set()
    assert jobs.submit(lambda tap: None).wait(PATIENCE) == "done"
    assert ran == []


def test_a_full_queue_says_so(tmp_path: Path) -> None:
    jobs, go_on = Jobs(tmp_path, most=1), threading.Event()
    try:
        first = jobs.submit(lambda tap: go_on.wait(PATIENCE))
        while first.state == "waiting":
            time.sleep(0.01)
        jobs.submit(lambda tap: None)
        with pytest.raises(ResourceError, match="waiting already"):
            jobs.submit(lambda tap: None)
    finally:
        go_on.set()
        jobs.close()


def test_silence_is_broken_for_the_impatient(jobs: Jobs) -> None:
    told, go_on = threading.Event(), threading.Event()

    def work(tap: Tap) -> None:
        tap(Step(0, 2, 0.0))
        told.set()
        go_on.wait(PATIENCE)

    job = jobs.submit(work)
    told.wait(PATIENCE)
    events = job.events(patience=0.01)
    assert next(events) is next(events)
    go_on.set()
    assert list(events)[-1] == Over("done")


def test_time_left_is_told_from_the_second_step(jobs: Jobs) -> None:
    seen: list[float | None] = []

    def work(tap: Tap) -> None:
        for index in range(3):
            time.sleep(0.01)
            tap(Step(index, 3, 0.0))
            assert job.progress is not None
            seen.append(job.progress.seconds_left)

    ready = threading.Event()

    def wait(tap: Tap) -> None:
        ready.wait(PATIENCE)
        work(tap)

    job = jobs.submit(wait)
    ready.set()
    assert job.wait(PATIENCE) == "done"
    assert seen[0] is None
    assert seen[1] is not None
    assert seen[1] > 0
    assert seen[2] == 0
