"""The two axes of a grid: which settings there are to vary, and their values from text."""

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workbench.core.catalog import find
from workbench.core.errors import AskError
from workbench.view.forms import Field, form

MOST_VALUES = 12
_RANGE = re.compile(r"(-?\d+)\s*\.\.\s*(-?\d+)")


@dataclass(frozen=True)
class Axis:
    """A setting to vary: its key (`seed`, `prompt`, `sampler.steps`, `stack.0.strength`), its label and field."""

    key: str
    label: str
    field: Field | None = None


def axes(recipe: Mapping[str, Any]) -> list[Axis]:
    """What can be varied in a recipe: prompt, seed, the sampler's settings, and those of each edit."""
    found = [Axis("seed", "Seed"), Axis("prompt", "Prompt"), Axis("negative", "Negative prompt")]
    if recipe.get("sampler"):
        found += _fields("sampler", "Sampler", str(recipe["sampler"]))
    for index, entry in enumerate(recipe.get("stack", ())):
        title = find(entry["method"]).card.title
        found.append(Axis(f"stack.{index}.on", f"{index + 1}. {title}: on"))
        found += _fields(f"stack.{index}", f"{index + 1}. {title}", entry["method"])
    return found


def _fields(prefix: str, title: str, name: str) -> list[Axis]:
    return [Axis(f"{prefix}.{field.name}", f"{title}: {field.label}", field) for field in form(find(name)).fields]


def axis(recipe: Mapping[str, Any], key: str | None) -> Axis | None:
    """The axis of a key; None for no key. Raises `AskError` when the setting is gone."""
    if not key:
        return None
    found = next((entry for entry in axes(recipe) if entry.key == key), None)
    if found is None:
        raise AskError("A setting of the grid is no longer there (the stack or the sampler changed). Choose it again.")
    return found


def values(chosen: Axis | None, text: str) -> list[Any]:
    """The values on an axis: separated by commas, or by lines for texts; `1..5` counts. Raises `AskError`."""
    if chosen is None:
        return [None]
    words = chosen.key in ("prompt", "negative") or (
        chosen.field is not None and chosen.field.widget in ("text", "json", "method")
    )
    parts = text.splitlines() if words or "\n" in text else text.split(",")
    found: list[Any] = []
    for part in filter(None, map(str.strip, parts)):
        span = _RANGE.fullmatch(part)
        if span and not words:
            low, high = int(span[1]), int(span[2])
            found += range(low, min(high, low + MOST_VALUES) + 1)
        else:
            found.append(_value(chosen, part))
    if not found or len(found) > MOST_VALUES:
        raise AskError(
            f"{chosen.label} has {len(found)} values; give 1 to {MOST_VALUES}, "
            f"separated by {'lines' if words else 'commas'}."
        )
    return found


def _value(chosen: Axis, part: str) -> Any:
    widget = chosen.field.widget if chosen.field else ("number" if chosen.key == "seed" else "text")
    if (chosen.key.endswith(".on") and chosen.field is None) or widget == "switch":
        if part.lower() not in ("on", "off", "true", "false", "yes", "no"):
            raise AskError(f"{chosen.label} is {part!r}; write on or off.")
        return part.lower() in ("on", "true", "yes")
    if widget in ("number", "slider"):
        try:
            return int(part) if re.fullmatch(r"-?\d+", part) else float(part)
        except ValueError:
            raise AskError(f"{chosen.label} is {part!r}; give numbers, such as 1, 2, 3 or 1..5.") from None
    return [part] if widget == "tags" else part


def varied(recipe: Mapping[str, Any], settings: Sequence[tuple[Axis | None, Any]]) -> dict[str, Any]:
    """The recipe with axes set to values."""
    made = copy.deepcopy(dict(recipe))
    for chosen, value in settings:
        if chosen is None:
            continue
        head, _, rest = chosen.key.partition(".")
        if not rest:
            made[head] = value
        elif head == "sampler":
            made.setdefault("raws", {}).setdefault(made["sampler"], {})[rest] = value
        else:
            index, _, name = rest.partition(".")
            entry = made["stack"][int(index)]
            if name == "on" and chosen.field is None:
                entry["on"] = value
            else:
                entry["raws"][name] = value
    return made


def caption(settings: Sequence[tuple[Axis | None, Any]]) -> str:
    """What a cell of the grid shows, in words."""
    said = [f"{chosen.label.rpartition(': ')[2]} {_said(value)}" for chosen, value in settings if chosen is not None]
    return " · ".join(said)


def _said(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return ", ".join(value) if isinstance(value, list) else f"{value:g}" if isinstance(value, float) else str(value)
