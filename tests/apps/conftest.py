"""The app served once for all tests of this folder, on a tiny random model."""

import socket
import threading
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest

from tests.apps.browser import ARGS, CHROMIUM, CUT, MODEL, PATIENCE, RELOADED, Open

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what other packages deprecate while they are imported is not ours to fix
    import gradio  # noqa: F401

    import apps  # noqa: F401


class Served(NamedTuple):
    """A running app: its address, its desk, and where its runs lie."""

    url: str
    demo: Any
    root: Path


def pytest_configure(config: pytest.Config) -> None:
    """Gradio leaves the event loops of its blocks to the garbage collector, which is at work when the session ends."""
    config.addinivalue_line("filterwarnings", "ignore:unclosed (event loop|<socket):ResourceWarning")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("ignore"))


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one tiny random pipeline, as `--models` takes it."""
    from tests.tiny import sd_pipe

    folder = tmp_path_factory.mktemp("models")
    sd_pipe().save_pretrained(folder / MODEL)
    return folder


@pytest.fixture(scope="session")
def served(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The whole app behind its guard."""
    from apps.app import prepare

    root = tmp_path_factory.mktemp("runs")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        demo, options = prepare("127.0.0.1", free_port(), models, root)
        demo.launch(prevent_thread_lock=True, **options)
        yield Served(demo.local_url.rstrip("/"), demo, root)
        demo.close(verbose=False)
        threading.Thread(target=demo.desk.jobs.close, daemon=True).start()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright: pip install playwright")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium: Any, served: Served) -> Iterator[Open]:
    """Opens the app in a browser of its own; at the end nothing foreign was asked and nothing went wrong."""
    contexts: list[Any] = []
    troubles: list[tuple[Any, str]] = []
    loads = Counter[Any]()
    hosts: set[str] = set()

    def open_page(path: str = "/", width: int = 1280, context: Any = None) -> Any:
        context = context or chromium.new_context(viewport={"width": width, "height": 900})
        context.set_default_timeout(PATIENCE)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: troubles.append((page, message.text)) if message.type == "error" else None)
        page.on("pageerror", lambda error: troubles.append((page, str(error))))
        page.on("framenavigated", lambda frame: loads.update([page] if frame == page.main_frame else []))
        page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
        page.goto(served.url + path, timeout=PATIENCE)
        page.locator("#prompt textarea").wait_for()
        page.locator("#sampler-diffuse-steps input").wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert hosts <= {urlsplit(served.url).netloc, ""}
    known = {page: RELOADED if loads[page] > 1 else CUT for page, _ in troubles}
    assert not [text for page, text in troubles if not any(word in text for word in known[page])]


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
