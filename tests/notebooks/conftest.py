"""Widgets and kernels in tests."""

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Widgets without a kernel leave event loops to the garbage collector, which is at work when the session ends."""
    config.addinivalue_line("filterwarnings", "ignore:unclosed (event loop|<socket):ResourceWarning")
