"""Small pieces of HTML that pages share: a running job, a finished one, the facts of a picture. All text is escaped."""

import html
import time
from collections.abc import Mapping
from typing import Any

import gradio as gr

from apps.desk import Ticket
from apps.panels import empty, trouble


def clock(seconds: float) -> str:
    """Seconds as a person says them.

    >>> clock(4.2), clock(75)
    ('4 s', '1 min 15 s')
    """
    whole = round(seconds)
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60} s"


def cancel_button(name: str) -> gr.Button:
    """The button that stops a page's job: there from the start, unseen, as one that comes later can come too late."""
    return gr.Button("Cancel", variant="stop", elem_id=name, visible="hidden", scale=1)


def busy() -> tuple[gr.Button, gr.Button]:
    """The button that starts and the one that cancels, while a job runs; told with every step.

    Gradio loses what it is told of a component's visibility between its making and its mounting.
    """
    return gr.Button(interactive=False), gr.Button(visible=True)


def ready() -> tuple[gr.Button, gr.Button]:
    """The button that starts and the one that cancels, while none runs."""
    return gr.Button(interactive=True), gr.Button(visible="hidden")


def running(ticket: Ticket, ahead: int = 0) -> str:
    """A job in the queue or at work: its bar, its step, the time left, its unfinished pictures."""
    progress, gone = ticket.job.progress, clock(time.monotonic() - ticket.began)
    if progress is None:
        line = f"Waiting for {ahead} other job{'s' * (ahead != 1)}" if ahead else "Loading the model"
        return _run(0.0, line, gone, ticket)
    step = progress.step
    if len(ticket.folders) > 1:
        return _pieces(ticket, step.index + 1, max(step.total, 1))
    rounds = -(-progress.done // max(step.total, 1))
    again = progress.done > step.total and progress.total == progress.done  # a lens that draws more than once
    share = (step.index + 1) / max(step.total, 1) if again else progress.done / max(progress.total, 1)
    line = f"Step {step.index + 1} of {step.total}"
    if again:
        line += f", pass {rounds}"
    elif progress.total > step.total:
        line += f", batch {rounds} of {-(-progress.total // step.total)}"
    left = "" if again or progress.seconds_left is None else f"{clock(progress.seconds_left)} left"
    return _run(share, "Stopping" if ticket.stopping else line, left or gone, ticket)


def _pieces(ticket: Ticket, step: int, steps: int) -> str:
    """A job of several runs: which of them, and the time left by the share that is done."""
    total = len(ticket.folders)
    done = min(len(ticket.drawn), total - 1)
    share = (done + step / steps) / total
    gone = time.monotonic() - ticket.began
    left = f"{clock(gone / share - gone)} left" if share > 0.02 else ""
    return _run(share, f"Picture {done + 1} of {total}, step {step} of {steps}", left, ticket)


def _run(share: float, line: str, right: str, ticket: Ticket) -> str:
    images = "".join(
        f'<img src="{uri}" alt="Unfinished picture {i + 1}">' for i, uri in enumerate(ticket.preview.images)
    )
    grid = f'<div class="wb-previews">{images}</div>' if images else ""
    percent = round(100 * min(share, 1.0))
    return (
        f'<div class="wb-run" aria-live="polite"><div class="wb-line"><b>{html.escape(line)}</b>'
        f"<span>{html.escape(right)}</span></div>"
        f'<div class="wb-bar" role="progressbar" aria-label="Progress" aria-valuenow="{percent}" aria-valuemin="0" '
        f'aria-valuemax="100"><i style="width:{percent}%"></i></div>{grid}</div>'
    )


def over(ticket: Ticket, done: str) -> str:
    """What became of a job: a quiet line when it is done, what is kept when it stopped, a clear one when it failed."""
    if ticket.job.state == "failed":
        return trouble(ticket.job.error)
    if ticket.stopping or ticket.job.state == "stopped":
        kept = len(ticket.drawn)
        return empty(
            "Stopped", f"{kept} finished picture{'s' * (kept != 1)} kept." if kept else "Nothing was finished."
        )
    return f'<div class="wb-done">{html.escape(done)}</div>'


def facts(meta: Mapping[str, Any]) -> str:
    """What a picture of ours says of itself, as a list of terms."""
    plan: Mapping[str, Any] = meta.get("plan") or {}
    ask: Mapping[str, Any] = plan.get("ask") or {}
    model: Mapping[str, Any] = meta.get("model") or {}
    rows: list[tuple[str, str]] = [
        ("Prompt", _first(ask.get("prompts"))),
        ("Negative", _first(ask.get("negatives"))),
        ("Seed", _first(ask.get("seeds"))),
        ("Size", "x".join(map(str, meta.get("size") or ()))),
        ("Model", str(model.get("name") or plan.get("model") or "")),
        ("Sampler", settings(plan.get("sampler"))),
    ]
    rows += [(f"Edit {i + 1}", settings(edit)) for i, edit in enumerate(plan.get("edits") or ())]
    rows += [("Started from", "a picture" + (" with a mask" if ask.get("mask") else ""))] if ask.get("image") else []
    cells = "".join(f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in rows if v)
    return f'<dl class="wb-facts">{cells}</dl>' if cells else ""


def settings(found: Any) -> str:
    """A method with its settings in one line."""
    if not isinstance(found, Mapping):
        return ""
    plain = {str(key).replace("_", " "): value for key, value in found.items() if key != "method"}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    rest = ", ".join(
        f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in plain.items()
        if value not in (None, "")
    )
    return f"{found.get('method', '')}" + (f": {rest}" if rest else "")


def _first(values: Any) -> str:
    return str(values[0]) if isinstance(values, list | tuple) and values else ""
