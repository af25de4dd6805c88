"""What the tests of topic pages share: the page of a running app, a request, a recipe on the tiny model."""

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

from tests.apps.conftest import MODEL, Served

RECIPE = ("a cat", "", 5, 1, "", MODEL, "diffuse", {"diffuse": {"steps": 2}}, [])


def page_of(served: Served, cls: type) -> Any:
    """The object of a page's class behind the running app's handlers."""
    for fn in served.demo.fns.values():
        cells = [cell.cell_contents for cell in getattr(fn.fn, "__closure__", None) or ()]
        for part in (fn.fn, *cells):
            owner = getattr(part, "__self__", part)
            if isinstance(owner, cls):
                return owner
    raise LookupError(cls.__name__)


def request(token: str) -> Any:
    """A request of a browser."""
    return SimpleNamespace(cookies={"workbench_browser": token}, session_hash=token, query_params={})


def last(rows: Iterable[Any]) -> tuple[Any, ...]:
    """What a handler shows in the end; its job went well."""
    shown = list(rows)[-1]
    assert "did not work" not in str(shown[0]), shown[0]
    return shown
