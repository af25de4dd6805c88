"""Timing of closed-form fits, on a small model."""

import pytest

from tests.tiny import tiny_sd
from workbench.core.errors import AskError
from workbench.runs.real_size import PAPERS, fit_seconds


def test_both_fits_are_timed() -> None:
    found = fit_seconds(tiny_sd(), repeats=1, many=3)
    assert set(found) == {"rece, 1 concept", "speed, 3 concepts"}
    assert all(0 < seconds < 60 for seconds in found.values())
    assert set(PAPERS) == {"rece, 1 concept", "speed, 100 concepts"}


def test_a_vocabulary_that_is_too_small_is_refused() -> None:
    with pytest.raises(AskError, match="words to erase and to keep"):
        fit_seconds(tiny_sd(), many=10_000)
