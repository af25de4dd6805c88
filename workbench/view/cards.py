"""A method as a Markdown card, and all of them as the README's table: generated, and checked for drift."""

import inspect
import json
import shlex
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from workbench.core.catalog import catalog
from workbench.core.fields import Control, controls
from workbench.core.method import Method, Metric
from workbench.core.places import ASSETS

START, END = "<!-- methods -->", "<!-- /methods -->"
PROMPT = "a flat emoji of a cat"


def card(
    cls: type[Method], benchmarks: Iterable[Mapping[str, Any]] = (), digests: Mapping[str, str] | None = None
) -> str:
    """The card of a method class: what it is, how to use it, its settings, what its file says, what was measured.

    `digests` are the shipped models' by name: a number measured on another one is marked.
    """
    about = cls.card
    families = "any model" if "any" in about.families else f"{', '.join(about.families)} models"
    parts = [
        f"# {about.title}",
        f"`{about.name}` · {cls.kind} · topic {cls.topic()} · {families} · {about.cost} · {about.paper}",
        inspect.cleandoc(cls.__doc__ or ""),
        f"```\n{example(cls)}\n```",
        "## Settings",
        _settings(cls),
    ]
    if cls.neutral is not None:
        values = ", ".join(f"`{name}={json.dumps(value)}`" for name, value in cls.neutral.items())
        parts.append(f"With {values} nothing changes, bit for bit.")
    if issubclass(cls, Metric) and cls.unit:
        parts.append(f"Unit: {cls.unit}; {cls.better} is better.")
    parts += ["## Paper, equations, differences", f"```text\n{_module_doc(cls)}\n```"]
    measured = _measured(about.name, benchmarks, digests or {})
    if measured:
        parts += ["## Measured", measured]
    return "\n\n".join(part for part in parts if part) + "\n"


def example(cls: type[Method]) -> str:
    """A command that uses the method, with a value for every setting that needs one."""
    words = [cls.card.name, *(f"{c.name}={_example(cls, c)}" for c in controls(cls) if c.required)]
    spelled = " ".join(shlex.quote(word) for word in words)
    quoted = f'"{spelled}"' if not set(spelled) & set('"$`\\') and " " in spelled else shlex.quote(spelled)
    match cls.kind:
        case "sampler":
            return f'workbench sample "{PROMPT}" --sampler {quoted}'
        case "edit":
            return f'workbench sample "{PROMPT}" --with {quoted}'
        case "lens":
            return f'workbench look {spelled} --prompt "{PROMPT}"'
        case _:
            return f"workbench score {spelled} --images outputs"


def _example(cls: type[Method], control: Control) -> str:
    value = cls.quick.get(control.name, "cat" if control.kind == "text" else None)
    if value is None and control.kind == "list":
        value = ["cat"]
    if isinstance(value, list | tuple) and len(value) == 1 and isinstance(value[0], str):  # pyright: ignore[reportUnknownArgumentType]
        value = value[0]  # one text alone is a list of one
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _settings(cls: type[Method]) -> str:
    rows = [(f"`{c.name}`", _range(c), _default(c), c.unit, _cell(c.doc)) for c in controls(cls)]
    if not rows:
        return "None."
    return _markdown(("setting", "values", "default", "unit", "meaning"), rows)


def _range(control: Control) -> str:
    if control.choices:
        return ", ".join(f"`{choice}`" for choice in control.choices)
    what = {"number": "number", "integer": "whole number", "switch": "true or false", "text": "text", "json": "JSON",
            "list": f"list of {control.of or 'values'}", "pair": f"pair of {control.of or 'values'}",
            "method": f"a {control.of_kind}"}[control.kind]  # fmt: skip
    bounds = []
    if control.low is not None:
        bounds.append(f"{'>' if control.open_low else '>='} {control.low:g}")
    if control.high is not None:
        bounds.append(f"{'<' if control.open_high else '<='} {control.high:g}")
    return f"{what} {' and '.join(bounds)}".strip() + (" or none" if control.optional else "")


def _default(control: Control) -> str:
    if control.required:
        return "needed"
    value = control.default
    if isinstance(value, Method):
        return f"`{value.card.name}`"
    return f"`{json.dumps(value, default=str)}`" if not isinstance(value, str) or not value else f"`{value}`"


def _module_doc(cls: type[Method]) -> str:
    return inspect.cleandoc(sys.modules[cls.__module__].__doc__ or "").replace("```", "'''")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _markdown(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _measured(name: str, benchmarks: Iterable[Mapping[str, Any]], digests: Mapping[str, str]) -> str:
    parts: list[str] = []
    for result in benchmarks:
        rows = [row for row in result.get("rows", ()) if row.get("method") == name]
        if not rows:
            continue
        keys = list(dict.fromkeys(key for row in rows for key in row["numbers"]))
        model, environment = result["model"], result["environment"]
        old = digests.get(model["name"], model["digest"]) != model["digest"]
        how = result.get("how") or f"medians of {result['repeats']}, ratio to {result['against']}"
        where = f"{model['name']}, {environment['device_name']}, {environment['threads']} threads"
        parts.append(
            f"Topic {result['topic']}, {where}, {result['made']}, {how}"
            f"{' (measured on an earlier default)' if old else ''}:"
        )
        cells = [(row["name"], *(_number(row["numbers"].get(key)) for key in keys)) for row in rows]
        parts.append(_markdown(("", *keys), cells))
    return "\n\n".join(parts)


def _number(value: object) -> str:
    return f"{value:g}" if isinstance(value, int | float) else ""


def table(classes: Iterable[type[Method]]) -> str:
    """The method table of the README."""
    rows = [
        (f"[`{cls.card.name}`](assets/cards/{cls.card.name}.md)", cls.topic(), cls.kind, cls.card.title, cls.card.paper)
        for cls in classes
    ]
    return _markdown(("method", "topic", "kind", "title", "paper"), rows)


def pages(digests: Mapping[str, str] | None = None, assets: Path = ASSETS) -> dict[Path, str]:
    """Every generated file of a checkout and its text: our methods' cards, and the README with its table."""
    ours = [cls for cls in catalog() if cls.__module__.startswith("workbench.")]
    results = benchmarks(assets)
    made = {assets / "cards" / f"{cls.card.name}.md": card(cls, results, digests) for cls in ours}
    readme = assets.parent / "README.md"
    if readme.is_file():
        text = readme.read_text("utf-8")
        if START in text and END in text:
            before, _, rest = text.partition(START)
            made[readme] = f"{before}{START}\n{table(ours)}\n{END}{rest.partition(END)[2]}"
    return made


def benchmarks(assets: Path = ASSETS) -> list[dict[str, Any]]:
    """The benchmark results that ship, in order of topic."""
    return [json.loads(path.read_text("utf-8")) for path in sorted((assets / "benchmarks").glob("*.json"))]


def drift(made: Mapping[Path, str], assets: Path = ASSETS) -> list[str]:
    """What is not as generated: changed, missing, or a card without a method."""
    found = [f"{path.name} is {'not as generated' if path.is_file() else 'missing'}"
             for path, text in made.items() if not path.is_file() or path.read_text("utf-8") != text]  # fmt: skip
    left = [path for path in sorted((assets / "cards").glob("*.md")) if path not in made]
    return found + [f"{path.name} belongs to no method" for path in left]


def write(made: Mapping[Path, str], assets: Path = ASSETS) -> list[Path]:
    """Bring the files up to date; returns those that changed, removed ones included."""
    changed = [path for path, text in made.items() if not path.is_file() or path.read_text("utf-8") != text]
    for path in changed:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(made[path], "utf-8")
    left = [path for path in sorted((assets / "cards").glob("*.md")) if path not in made]
    for path in left:
        path.unlink()
    return changed + left
