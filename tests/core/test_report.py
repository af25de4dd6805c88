"""Reports know what is wrong with them."""

import numpy as np
import pytest

from workbench.core.report import Curve, Film, Heat, Note, Panel, Picture, Report, Table

PIXELS = np.zeros((4, 5, 3), dtype=np.uint8)
SOUND: list[Panel] = [
    Picture(PIXELS),
    Film(np.zeros((2, 4, 5, 3), dtype=np.uint8), ("a", "b")),
    Film(np.zeros((2, 2, 2)), ("a", "b"), over=PIXELS),
    Heat(np.zeros((2, 2)), unit="share"),
    Curve(np.arange(3.0), np.zeros((2, 3)), ("a", "b")),
    Table(("a", "b"), ((1, "x"),)),
    Note("hello"),
]
UNSOUND: list[tuple[Panel, str]] = [
    (Film(np.zeros((2, 2, 2)), ("a",), "F"), "Film 'F': 2 frames, 1 labels"),
    (Film(np.full((1, 2, 2), np.nan), ("a",)), "Film '': frames are not finite"),
    (Heat(np.full((2, 2), np.inf)), "Heat '': values are not finite"),
    (Curve(np.arange(3.0), np.zeros((2, 3)), ("a",)), "Curve '': ys (2, 3) does not fit 1 names and 3 points"),
    (Table(("a", "b"), ((1,),)), "Table '': row 0 has 1 cells"),
]


@pytest.mark.parametrize("panel", SOUND, ids=lambda panel: type(panel).__name__)
def test_sound_panels_have_no_problems(panel: Panel) -> None:
    assert Report((panel,), {"value": 1.0}).problems() == []


@pytest.mark.parametrize(("panel", "words"), UNSOUND, ids=lambda value: type(value).__name__)
def test_unsound_panels_say_what_is_wrong(panel: Panel, words: str) -> None:
    assert Report((panel,)).problems() == [words]


def test_numbers_that_are_not_finite_are_problems() -> None:
    assert Report((), {"a": float("nan"), "b": 1.0}).problems() == ["number a is not finite"]
