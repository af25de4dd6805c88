"""The app served once for all tests of this folder, on a tiny random model."""

import socket
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what other packages deprecate while they are imported is not ours to fix
    import gradio  # noqa: F401

    import apps  # noqa: F401

MODEL = "tiny-random"


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


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
