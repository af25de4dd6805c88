"""Panels for notebooks: a method's fields as ipywidgets, a report's panels as plotly figure widgets.

`explore(method, bundle)` is all a reader needs. Every change waits a moment, stops the drawing at work before its next
step, and draws anew in a thread, so the kernel stays free and only the newest settings are ever shown.
"""

import io
import threading
from collections.abc import Mapping
from typing import Any

import ipywidgets as w
import plotly.graph_objects as go
from PIL import Image

import workbench as wb
from workbench.core.catalog import find
from workbench.core.errors import Stopped, WorkbenchError
from workbench.core.method import Method
from workbench.core.report import Film, Panel, Report
from workbench.core.tape import Step
from workbench.view.figures import figure
from workbench.view.forms import Field, form, read_all, show
from workbench.view.viewer import film_html

#: Seconds of quiet before a change is drawn.
QUIET = 0.35
_WIDE = {"description_width": "9rem"}


def widget(field: Field, value: Any) -> w.Widget:
    """The widget of a field with a value that it shows."""
    common: dict[str, Any] = {"description": field.label, "style": _WIDE, "tooltip": field.help}
    match field.widget:
        case "slider" if field.control.kind == "integer":
            return w.IntSlider(value, int(field.low or 0), int(field.high or 0), continuous_update=False, **common)
        case "slider":
            return w.FloatSlider(
                value, min=field.low, max=field.high, step=field.step, continuous_update=False, **common
            )
        case "number" if field.control.optional:
            return w.Text("" if value is None else str(value), placeholder="none", continuous_update=False, **common)
        case "number" if field.control.kind == "integer":
            return w.IntText(value or 0, continuous_update=False, **common)
        case "number":
            return w.FloatText(value or 0.0, continuous_update=False, **common)
        case "switch":
            return w.Checkbox(bool(value), **common)
        case "choice":
            return w.Dropdown(options=field.choices, value=value, **common)
        case "tags":
            return w.Text(", ".join(value), continuous_update=False, **common)
        case _:
            return w.Text(value or "", continuous_update=False, **common)


def figures(report: Report) -> w.VBox:
    """A report's panels: films as viewers, the rest as figure widgets; numbers in a line on top."""
    numbers = "   ".join(f"{name} {value:.4g}" for name, value in report.numbers.items())
    return w.VBox([w.Label(numbers), *(_panel(panel) for panel in report.panels)])


def _panel(panel: Panel) -> w.Widget:
    return w.HTML(film_html(panel)) if isinstance(panel, Film) else go.FigureWidget(figure(panel))


def _picture(pixels: Any, title: str) -> w.VBox:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return w.VBox([w.Label(title), w.Image(value=buffer.getvalue(), format="png", width=256)])


class Explorer(w.VBox):
    """A method's form with what it does beneath; `wait()` until the newest drawing is there."""

    def __init__(
        self, cls: type[Method], bundle: wb.Bundle, settings: Mapping[str, Any], prompt: str, seed: int
    ) -> None:
        self.cls, self.bundle = cls, bundle
        self.fields = {field.name: field for field in form(cls).fields}
        shown = {name: settings.get(name, show(f, f.control.default)) for name, f in self.fields.items()}
        self.inputs = {name: widget(field, shown[name]) for name, field in self.fields.items()}
        self.prompt = w.Text(prompt, description="Prompt", style=_WIDE, continuous_update=False)
        self.seed = w.BoundedIntText(seed, min=0, max=2**31 - 1, description="Seed", style=_WIDE)
        self.line = w.Label("")
        self.bar = w.FloatProgress(0, min=0, max=1, layout=w.Layout(width="16rem"))
        self.stop = w.Button(description="Stop", button_style="warning")
        self.view = w.VBox([])
        self._newest, self._lock, self._timer = 0, threading.Lock(), None
        self._idle = threading.Event()
        for each in (*self.inputs.values(), self.prompt, self.seed):
            each.observe(lambda _: self.redraw(), names="value")
        self.stop.on_click(lambda _: self.cancel())
        head = w.HTML(f"<b>{cls.card.title}</b> &nbsp; <small>{cls.card.paper}</small>")
        status = w.HBox([self.bar, self.stop, self.line])
        super().__init__([head, self.prompt, self.seed, *self.inputs.values(), status, self.view])
        self.redraw(0.0)

    def redraw(self, after: float = QUIET) -> None:
        """Draw the settings as they stand, after a moment of quiet."""
        self._idle.clear()
        self._newest += 1
        if self._timer is not None:
            self._timer.cancel()
        self._timer = threading.Timer(after, self._draw, [self._newest])
        self._timer.daemon = True
        self._timer.start()

    def cancel(self) -> None:
        """Stop before the next step; what was shown stays."""
        self._newest += 1
        self.line.value = "Stopped."
        self._idle.set()

    def wait(self, seconds: float = 60.0) -> bool:
        """Whether the newest drawing was there, or failed, within so many seconds."""
        return self._idle.wait(seconds)

    def method(self) -> Method:
        """The method with the settings as they stand. Raises `AskError`."""
        raws: dict[str, Any] = {name: each.value for name, each in self.inputs.items()}  # type: ignore[attr-defined]
        for name, field in self.fields.items():
            if field.widget == "tags":
                raws[name] = [part.strip() for part in raws[name].split(",") if part.strip()]
            elif field.widget == "number" and isinstance(raws[name], str) and raws[name].strip():
                raws[name] = float(raws[name])
        return self.cls(**read_all(self.cls, raws))

    def _draw(self, turn: int) -> None:
        def tap(step: Step) -> None:
            if turn != self._newest:
                raise Stopped
            self.bar.value = (step.index + 1) / step.total

        with self._lock:  # one drawing at a time: the edits of two would lie over each other
            if turn != self._newest:
                return
            try:
                self.line.value = "Drawing ..."
                made = self._work(tap)
                if turn == self._newest:
                    self.view.children, self.line.value = made, "Done."
            except Stopped:
                return
            except (WorkbenchError, ValueError) as error:
                self.line.value = str(error)
            finally:
                if turn == self._newest:
                    self._idle.set()

    def _work(self, tap: Any) -> tuple[w.Widget, ...]:
        method, prompts, seeds = self.method(), [self.prompt.value], [self.seed.value]
        match method.kind:
            case "sampler":
                images = {"": wb.sample(self.bundle, prompts, seeds=seeds, sampler=method, tap=tap)}  # type: ignore[arg-type]
            case "edit":
                images = {"without": wb.sample(self.bundle, prompts, seeds=seeds, tap=tap),
                          "with": wb.sample(self.bundle, prompts, seeds=seeds, edits=[method], tap=tap)}  # type: ignore[list-item]  # fmt: skip
            case "lens":
                return (figures(wb.look(method, self.bundle, prompts, seeds=seeds, tap=tap)),)  # type: ignore[arg-type]
            case "metric":
                drawn = wb.sample(self.bundle, prompts, seeds=seeds, tap=tap)
                return (figures(wb.score(method, drawn, prompts, self.bundle)),)  # type: ignore[arg-type]
        return (w.HBox([_picture(rows[0].permute(1, 2, 0).cpu().numpy(), name) for name, rows in images.items()]),)


def explore(method: Method | type[Method] | str, bundle: wb.Bundle, prompt: str = "a cat", seed: int = 0) -> Explorer:
    """A panel for a method, by name, class or with its settings, on a loaded model."""
    cls = find(method) if isinstance(method, str) else method if isinstance(method, type) else type(method)
    settings: dict[str, Any] = dict(cls.quick) if isinstance(method, str | type) and _needs(cls) else {}
    if isinstance(method, Method):
        settings = method.to_json()
    fields = {field.name: field for field in form(cls).fields}
    return Explorer(cls, bundle, {k: show(fields[k], v) for k, v in settings.items() if k in fields}, prompt, seed)


def _needs(cls: type[Method]) -> bool:
    return any(field.control.required for field in form(cls).fields)
