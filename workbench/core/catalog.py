"""Which methods there are: every file under `workbench/methods`, and the entry points of other packages."""

import difflib
import functools
import importlib
import pkgutil
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

from workbench.core.errors import UnknownMethod
from workbench.core.method import Kind, Method

ENTRY_POINTS = "workbench.methods"


@dataclass(frozen=True)
class Failure:
    """A third party's entry point that did not import, with its traceback."""

    name: str
    trace: str


@dataclass(frozen=True)
class Catalog:
    """The known method classes in order of topic and name, and the foreign ones that failed to import."""

    methods: tuple[type[Method], ...]
    failures: tuple[Failure, ...] = ()

    def __iter__(self) -> Iterator[type[Method]]:
        return iter(self.methods)

    def __len__(self) -> int:
        return len(self.methods)

    @property
    def topics(self) -> tuple[str, ...]:
        """The topics that have a method, in order."""
        return tuple(dict.fromkeys(cls.topic() for cls in self.methods))

    def only(
        self,
        topic: str | None = None,
        kind: Kind | None = None,
        family: str | None = None,
    ) -> "Catalog":
        """The methods of a topic, a kind, a model family."""
        kept = [
            cls
            for cls in self.methods
            if topic in (None, cls.topic())
            and kind in (None, cls.kind)
            and (family is None or "any" in cls.card.families or family in cls.card.families)
        ]
        return Catalog(tuple(kept), self.failures)


@functools.cache
def _discover() -> tuple[Failure, ...]:
    """Import every method file. A broken file of ours stops here with its traceback; a foreign one is noted."""
    package = importlib.import_module("workbench.methods")
    for info in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(info.name)
    failures: list[Failure] = []
    for point in entry_points(group=ENTRY_POINTS):
        try:
            point.load()
        except Exception:  # a stranger's package may fail in any way; it must not take ours down
            failures.append(Failure(point.name, traceback.format_exc()))
    return tuple(failures)


def catalog(topic: str | None = None, kind: Kind | None = None, family: str | None = None) -> Catalog:
    """All methods, or those of a topic, kind and model family."""
    failures = _discover()
    order = sorted(Method.known.values(), key=lambda cls: (cls.topic(), cls.card.name))
    return Catalog(tuple(order), failures).only(topic, kind, family)


def find(name: str) -> type[Method]:
    """The class of a method's name. Raises `UnknownMethod`, which names close ones."""
    _discover()
    if name not in Method.known:
        close = difflib.get_close_matches(name, Method.known, n=3, cutoff=0.5)
        hint = f"Close: {', '.join(repr(c) for c in close)}. " if close else ""
        raise UnknownMethod(f"No method called {name!r}. {hint}All: workbench list.")
    return Method.known[name]


def method(name: str, /, **settings: Any) -> Method:
    """A method by its name with its settings, checked. Raises `UnknownMethod` or `AskError`."""
    return find(name)(**settings)
