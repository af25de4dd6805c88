"""A field of a form as a Gradio component, and whole forms."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import gradio as gr

from workbench.core.catalog import catalog
from workbench.core.method import Method
from workbench.view.forms import Field, Form, form, show

#: Roles whose texts are things a model may know the names of.
NAMING_ROLES = {"concepts", "target", "anchor", "preserve", "word", "trigger"}

Keep = Callable[..., Any]


def component(field: Field, value: Any, suggest: Sequence[str] = (), tag: str = "") -> gr.components.Component:
    """The component of a field with a value that the widget shows; `tag` keeps element names apart."""
    common: dict[str, Any] = {
        "label": field.label,
        "info": field.help or None,
        "elem_id": f"{tag}-{field.name}",
        "key": f"{tag}-{field.name}",
        "interactive": True,
    }
    known = list(suggest) if field.control.role in NAMING_ROLES else []
    match field.widget:
        case "slider":
            return gr.Slider(field.low, field.high, value, step=field.step, **common)  # type: ignore[arg-type]
        case "number":
            return gr.Number(value, precision=0 if field.control.kind == "integer" else None, **common)
        case "switch":
            return gr.Checkbox(bool(value), **common)
        case "choice" if len(field.choices) <= 3:
            return gr.Radio(list(field.choices), value=value, **common)
        case "choice":
            return gr.Dropdown(list(field.choices), value=value, **common)
        case "tags":
            return gr.Dropdown(known, value=list(value), multiselect=True, allow_custom_value=True, **common)
        case "text" if known:
            return gr.Dropdown(known, value=value, allow_custom_value=True, **common)
        case "text" | "line":
            return gr.Textbox(value, max_lines=4, **common)
        case "method":
            names = [cls.card.name for cls in catalog(kind=field.control.of_kind or None)]  # type: ignore[arg-type]
            return gr.Dropdown(names, value=value, allow_custom_value=True, **common)
        case "json":
            return gr.Textbox(value, lines=2, max_lines=8, elem_classes=["mono"], **common)


def edited(made: Any) -> Any:
    """The event of a person's change. A textbox tells `input` of typed letters alone, not of pasting or deleting."""
    return made.change if isinstance(made, gr.Textbox) else made.input


def draw(
    cls: type[Method],
    raws: Mapping[str, Any],
    keep: Keep,
    inputs: gr.State,
    tag: str,
    suggest: Sequence[str] = (),
    *,
    without: Collection[str] = (),
) -> Form:
    """Draw a method's form inside a render; each change calls `keep(state, name, raw)` and changes the state.

    `raws` are the widgets' values so far; missing ones show the method's default. Settings whose role or name is in
    `without` are left out.
    """
    made = form(cls)
    parts = [(part, [f for f in part.fields if not {f.name, f.control.role} & set(without)]) for part in made.sections]
    if not any(fields for _, fields in parts):
        gr.Markdown("*This method has no settings.*" if not made.fields else "*All of it is set by the page.*",
                    elem_classes=["quiet"])  # fmt: skip
    for section, fields in parts:
        if section.folded and fields:
            with gr.Accordion(section.title, open=False):
                _fields(fields, raws, keep, inputs, tag, suggest)
        else:
            _fields(fields, raws, keep, inputs, tag, suggest)
    return made


def _fields(
    fields: Sequence[Field], raws: Mapping[str, Any], keep: Keep, inputs: gr.State, tag: str, suggest: Sequence[str]
) -> None:
    for field in fields:
        value = raws[field.name] if field.name in raws else show(field, field.control.default)
        made = component(field, value, suggest, tag)

        def changed(state: Any, raw: Any, name: str = field.name) -> Any:
            return keep(state, name, raw)

        edited(made)(
            changed,
            [inputs, made],
            [inputs],
            queue=False,
            show_progress="hidden",
            trigger_mode="always_last",
            api_visibility="private",
        )
