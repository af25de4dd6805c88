"""What every test gets: the same seeds, a cache of its own, no network. Models for tests are in tests/tiny.py.

Nothing of ours is imported here: the shapes are checked by an import hook that has to come first.
"""

import atexit
import os
import random
import shutil
import socket
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

CACHE = tempfile.mkdtemp(prefix="workbench-tests-")
atexit.register(shutil.rmtree, CACHE, ignore_errors=True)
os.environ.update(
    WORKBENCH_CACHE=CACHE,
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    GRADIO_ANALYTICS_ENABLED="False",
    TOKENIZERS_PARALLELISM="false",
)
LOOPBACK = ("127.", "::1", "localhost", "0.0.0.0")


@pytest.fixture(autouse=True)
def _seeds() -> None:
    import torch

    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  (the global state is what is fixed here)
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def _no_network() -> Iterator[None]:
    """Refuse every connection that leaves this machine, saying where it wanted to go."""
    connect = socket.socket.connect

    def local(self: socket.socket, address: Any) -> None:
        if isinstance(address, tuple) and not str(address[0]).startswith(LOOPBACK):
            raise OSError(f"a test wanted to connect to {address[0]}")
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", local)
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    import torch

    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
