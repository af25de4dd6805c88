"""Fields of a method as neutral controls: the one reader of pydantic's declarations.

The command line, the forms, the cards and the bad-value tests all start from `controls(cls)`.
"""

import json
import types
import typing
from dataclasses import dataclass
from typing import Any, Literal, Union

import annotated_types as at
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from workbench.core.errors import AskError
from workbench.core.method import Method

RoleName = Literal["target", "anchor", "preserve", "adapter", "trigger", "strength", "picture", "mask", "schedule",
                   "word", "pixel", "region", "model", "concepts", "split"]  # fmt: skip
ControlKind = Literal["number", "integer", "switch", "choice", "text", "list", "pair", "method", "json"]


@dataclass(frozen=True)
class Unit:
    """The unit of a numeric setting, for its label: `Annotated[float, Unit("px")]`."""

    name: str


@dataclass(frozen=True)
class Role:
    """What a setting means to a topic page: `Annotated[str, Role("anchor")]`."""

    name: RoleName


#: Names that mean the same in every method, so their role needs no marker.
FIXED_ROLES: dict[str, RoleName] = {
    "concepts": "concepts", "anchor": "anchor", "preserve": "preserve", "strength": "strength",
    "adapters": "adapter", "mask": "mask"}  # fmt: skip


@dataclass(frozen=True)
class Control:
    """One setting as a form needs it. `low` and `high` are bounds; `open_low` and `open_high` exclude them."""

    name: str
    kind: ControlKind
    default: Any
    required: bool
    optional: bool
    doc: str
    low: float | None = None
    high: float | None = None
    open_low: bool = False
    open_high: bool = False
    choices: tuple[Any, ...] = ()
    of: ControlKind | None = None
    of_kind: str = ""
    unit: str = ""
    role: str = ""

    @property
    def label(self) -> str:
        """The name as a person reads it, with its unit."""
        words = self.name.replace("_", " ").capitalize()
        return f"{words} ({self.unit})" if self.unit else words


def controls(cls: type[Method]) -> tuple[Control, ...]:
    """The settings of a method class in the order of their declaration."""
    return tuple(_control(name, info) for name, info in cls.model_fields.items())


def _control(name: str, info: FieldInfo) -> Control:
    core, extra, optional = _unwrap(info.annotation)
    marks = [*info.metadata, *extra]
    bounds = _bounds(marks)
    kind, choices, of, of_kind = _kind(core)
    unit = next((mark.name for mark in marks if isinstance(mark, Unit)), "")
    role = next(
        (mark.name for mark in marks if isinstance(mark, Role)),
        FIXED_ROLES.get(name, ""),
    )
    default = None if info.is_required() else info.get_default(call_default_factory=True)  # type: ignore[call-arg]
    if default is PydanticUndefined:
        default = None
    return Control(name, kind, default, info.is_required(), optional, info.description or "", *bounds, choices=choices,
                   of=of, of_kind=of_kind, unit=unit, role=role)  # fmt: skip


def _unwrap(annotation: Any) -> tuple[Any, list[Any], bool]:
    """Strip `Annotated[...]` and `| None`; returns the core type, the metadata met, and whether None is allowed."""
    marks: list[Any] = []
    optional = False
    while True:
        origin = typing.get_origin(annotation)
        if origin is typing.Annotated:
            annotation, *more = typing.get_args(annotation)
            marks += more
        elif origin in (Union, types.UnionType) and type(None) in typing.get_args(annotation):
            rest = [part for part in typing.get_args(annotation) if part is not type(None)]
            annotation = rest[0] if len(rest) == 1 else Union[tuple(rest)]  # noqa: UP007  (built at run time)
            optional = True
            if len(rest) > 1:
                return annotation, marks, optional
        else:
            return annotation, marks, optional


def _bounds(marks: list[Any]) -> tuple[float | None, float | None, bool, bool]:
    low = high = None
    open_low = open_high = False
    for mark in marks:
        match mark:
            case at.Ge(ge=value):
                low = float(typing.cast(float, value))
            case at.Gt(gt=value):
                low, open_low = float(typing.cast(float, value)), True
            case at.Le(le=value):
                high = float(typing.cast(float, value))
            case at.Lt(lt=value):
                high, open_high = float(typing.cast(float, value)), True
            case _:
                pass
    return low, high, open_low, open_high


def _kind(core: Any) -> tuple[ControlKind, tuple[Any, ...], ControlKind | None, str]:
    origin = typing.get_origin(core)
    if origin is Literal:
        return "choice", typing.get_args(core), None, ""
    if origin in (tuple, list):
        parts = typing.get_args(core)
        inner, _, _ = _unwrap(parts[0])
        of, _, _, of_kind = _kind(inner)
        return (
            ("list" if len(parts) == 1 or parts[-1] is Ellipsis else "pair"),
            (),
            of,
            of_kind,
        )
    if isinstance(core, type) and issubclass(core, Method):
        return "method", (), None, core.kind
    plain: dict[Any, ControlKind] = {
        bool: "switch",
        int: "integer",
        float: "number",
        str: "text",
    }
    return plain.get(core, "json"), (), None, ""


def parse(cls: type[Method], words: dict[str, str]) -> Method:
    """A method from `key=value` strings, as the command line and pasted recipes give them.

    Lists and nested methods are JSON; one plain string serves as a list of one.
    Raises `AskError` when a value cannot be read or is refused.
    """
    known = {control.name: control for control in controls(cls)}
    return cls(**{name: _read(cls, known.get(name), text) for name, text in words.items()})


def _read(cls: type[Method], control: Control | None, text: str) -> Any:
    if control is None or control.kind == "text":
        return text
    if control.optional and text.lower() in ("none", "null"):
        return None
    if control.kind == "choice":
        return next((choice for choice in control.choices if str(choice) == text), text)
    if control.kind in ("list", "pair"):
        if text.startswith("["):
            return _json(cls, control, text)
        return [part if control.of == "text" else _json(cls, control, part) for part in [text]]
    if control.kind in ("number", "integer"):
        return text  # pydantic reads it and words the error
    return _json(cls, control, text.lower() if control.kind == "switch" else text)


def _json(cls: type[Method], control: Control, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        what = {
            "switch": "true or false",
            "list": 'a JSON list such as ["a", "b"]',
        }.get(control.kind, "JSON")
        raise AskError(f"{cls.card.name}: {control.name} is {text!r}; it should be {what}.") from None


def refused(control: Control) -> tuple[Any, ...]:
    """Values just outside the declaration, each of which the method must refuse."""
    bad: list[Any] = []
    if control.kind in ("number", "integer"):
        gap = 1 if control.kind == "integer" else 1e-6
        bad.append("not a number")
        bad += [] if control.kind == "integer" else [float("nan"), float("inf")]
        if control.low is not None:
            bad.append(control.low if control.open_low else control.low - gap)
        if control.high is not None:
            bad.append(control.high if control.open_high else control.high + gap)
    if control.kind == "choice":
        bad.append("none of these")
    if control.kind == "switch":
        bad.append("perhaps")
    return tuple(bad)
