"""The catalog as a list: for people by topic, for programs with every setting."""

from argparse import Namespace
from typing import Any

from workbench.core.catalog import Catalog, catalog
from workbench.core.fields import Control, controls
from workbench.core.method import Method
from workbench.runs.answer import Answer
from workbench.runs.requests import nearest


def listing(args: Namespace) -> Answer:
    """The methods, of one topic or all, and the foreign packages that failed."""
    if args.topic is not None and args.topic not in catalog().topics:
        raise nearest(args.topic, catalog().topics, "topic")
    found = catalog(args.topic)
    failed = [{"name": failure.name, "trace": failure.trace} for failure in found.failures]
    return Answer({"methods": [described(cls) for cls in found], "failed": failed}, as_text(found))


def as_text(found: Catalog) -> str:
    """A line a method under its topic."""
    lines: list[str] = []
    for topic in found.topics:
        lines.append(topic)
        lines += [f"  {cls.card.name:24} {cls.kind:8} {cls.card.title}" for cls in found.only(topic=topic)]
    lines += [f"failed: {failure.name}: {failure.trace.strip().splitlines()[-1]}" for failure in found.failures]
    return "\n".join(lines)


def described(cls: type[Method]) -> dict[str, Any]:
    """A method class as plain data."""
    about = cls.card
    return {
        "name": about.name, "topic": cls.topic(), "kind": cls.kind, "title": about.title, "paper": about.paper,
        "families": list(about.families), "cost": about.cost, "fields": [_field(c) for c in controls(cls)]}  # fmt: skip


def _field(control: Control) -> dict[str, Any]:
    default = control.default.to_json() if isinstance(control.default, Method) else control.default
    return {
        "name": control.name, "kind": control.kind, "default": default, "required": control.required,
        "optional": control.optional, "description": control.doc, "low": control.low, "high": control.high,
        "choices": list(control.choices), "of": control.of, "unit": control.unit, "role": control.role}  # fmt: skip
