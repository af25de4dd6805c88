"""A method's settings as a form that no toolkit has been chosen for yet.

The app and the notebook both draw `form(cls)`; `show` and `read` carry a value to the widget and back, so that a
setting means the same in each. What a value may be is decided by the method alone.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from workbench.core.errors import AskError
from workbench.core.fields import Control, controls
from workbench.core.method import Method

Widget = Literal["slider", "number", "switch", "choice", "text", "tags", "line", "method", "json"]

#: How many settings stand in the open before the rest is folded away.
OPEN_FIELDS = 5


@dataclass(frozen=True)
class Field:
    """One setting as a widget: `low`, `high` and `step` are for sliders and numbers, `choices` for choices."""

    control: Control
    widget: Widget
    low: float | None = None
    high: float | None = None
    step: float | None = None
    choices: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The setting's name."""
        return self.control.name

    @property
    def label(self) -> str:
        """The name as a person reads it, with its unit."""
        return self.control.label

    @property
    def help(self) -> str:
        """The description declared with the setting."""
        return self.control.doc


@dataclass(frozen=True)
class Section:
    """Some fields under a title; a folded section opens on demand."""

    title: str
    fields: tuple[Field, ...]
    folded: bool = False


@dataclass(frozen=True)
class Form:
    """A method's form: what it is called, where it comes from, and its fields in sections."""

    name: str
    title: str
    paper: str
    sections: tuple[Section, ...]

    @property
    def fields(self) -> tuple[Field, ...]:
        """All fields in the order they are shown."""
        return tuple(field for section in self.sections for field in section.fields)


def form(cls: type[Method]) -> Form:
    """The form of a method class.

    In the open stand what must be given, what has a role, and the first settings as they are declared; whatever
    would make it longer than a glance is folded under "Advanced".
    """
    fields = [_field(control) for control in controls(cls)]
    first = [field for field in fields if field.control.required or field.control.role]
    for field in fields:
        if field not in first and len(first) < OPEN_FIELDS:
            first.append(field)
    shown = tuple(field for field in fields if field in first)
    rest = tuple(field for field in fields if field not in first)
    if len(rest) == 1:
        shown, rest = tuple(fields), ()
    sections = [Section("Settings", shown)] if shown else []
    sections += [Section("Advanced", rest, folded=True)] if rest else []
    return Form(cls.card.name, cls.card.title, cls.card.paper, tuple(sections))


def defaults(cls: type[Method]) -> dict[str, Any]:
    """The settings a fresh form starts with; a required one starts as its `quick` value, or is left out."""
    known = {control.name: control for control in controls(cls)}
    start = {name: c.default for name, c in known.items() if not c.required}
    return start | {name: cls.quick[name] for name, c in known.items() if c.required and name in cls.quick}


def _field(control: Control) -> Field:
    match control.kind:
        case "number" | "integer":
            return _numeric(control)
        case "switch":
            return Field(control, "switch")
        case "choice":
            extra = ("none",) if control.optional else ()
            return Field(control, "choice", choices=extra + tuple(map(str, control.choices)))
        case "text":
            return Field(control, "text")
        case "list":
            return Field(control, {"text": "tags", "method": "json", "json": "json"}.get(control.of or "json", "line"))  # type: ignore[arg-type]
        case "pair":
            return Field(control, "json" if control.of in ("json", "method", None) else "line")
        case "method":
            return Field(control, "method")
        case "json":
            return Field(control, "json")


def _numeric(control: Control) -> Field:
    low, high = control.low, control.high
    if low is None or high is None or control.optional or control.required or not 0 < high - low <= 200:
        return Field(control, "number", low, high, 1 if control.kind == "integer" else None)
    step = 1.0 if control.kind == "integer" else nice_step(high - low)
    return Field(control, "slider", low + step * control.open_low, high - step * control.open_high, step)


def nice_step(span: float) -> float:
    """About a hundredth of a range, rounded down to 1, 2 or 5 times a power of ten.

    >>> nice_step(1.0), nice_step(30.0)
    (0.01, 0.2)
    """
    raw = span / 100
    power = 10.0 ** math.floor(math.log10(raw) + 1e-9)
    best = max(factor for factor in (1, 2, 5) if factor * power <= raw * (1 + 1e-9))
    return round(best * power, 12)


def show(field: Field, value: Any) -> Any:
    """A setting's value as its widget shows it; lists of text stay lists, other compounds become text."""
    if isinstance(value, Method):
        value = value.to_json()
    match field.widget:
        case "choice":
            return "none" if value is None else str(value)
        case "text":
            return "" if value is None else str(value)
        case "tags":
            return [str(item) for item in value or ()]
        case "line":
            return "" if value is None else ", ".join(_brief(item) for item in value)
        case "method":
            return _show_method(value)
        case "json":
            return "" if value is None else json.dumps(_plain(value))
        case _:
            return value


def read(field: Field, raw: Any) -> Any:
    """A widget's value as the setting takes it. Raises `AskError` for text that cannot be read."""
    control = field.control
    if control.optional and raw in (None, "", "none"):
        return None
    match field.widget:
        case "number" | "slider":
            whole = control.kind == "integer" and isinstance(raw, float) and raw.is_integer()
            return int(raw) if whole else raw
        case "choice":
            return next((choice for choice in control.choices if str(choice) == raw), raw)
        case "text":
            return "" if raw is None else raw
        case "tags":
            return [raw] if isinstance(raw, str) else list(raw or ())
        case "line":
            return [_number(field, part) for part in str(raw or "").replace(";", ",").split(",") if part.strip()]
        case "method":
            text = str(raw or "").strip()
            return _json(field, text) if text.startswith("{") else {"method": text}
        case "json":
            return _json(field, str(raw)) if isinstance(raw, str) else raw
        case _:
            return raw


def read_all(cls: type[Method], raws: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of a form from its widgets' values; those not given keep their default."""
    fields = {field.name: field for field in form(cls).fields}
    return {name: read(fields[name], raw) for name, raw in raws.items() if name in fields}


def _show_method(value: Any) -> str:
    if not isinstance(value, Mapping):
        return "" if value is None else str(value)
    return str(value["method"]) if set(value) == {"method"} else json.dumps(value)  # pyright: ignore[reportUnknownArgumentType]


def _plain(value: Any) -> Any:
    if isinstance(value, Method):
        return value.to_json()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    return value


def _brief(item: Any) -> str:
    return f"{item:g}" if isinstance(item, float) else str(item)


def _number(field: Field, part: str) -> Any:
    text = part.strip()
    try:
        return int(text) if field.control.of == "integer" else float(text) if field.control.of == "number" else text
    except ValueError:
        raise AskError(f"{field.label} holds {text!r}; give numbers separated by commas, such as 1, 2, 3.") from None


def _json(field: Field, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise AskError(f"{field.label} is not JSON ({error}). Write it like [1, 2] or {{...}}.") from None
