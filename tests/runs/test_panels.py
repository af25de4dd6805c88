import json
from pathlib import Path

import numpy as np

from workbench.core.report import Curve, Film, Heat, Note, Picture, Report, Table
from workbench.runs.panels import load_arrays, pack, pictures, save_arrays, tame, unpack

PIXELS = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
REPORT = Report(
    (
        Picture(PIXELS, "a"),
        Film(np.zeros((2, 3, 3), np.float32), ("t1", "t2"), "film", PIXELS),
        Heat(np.array([[0.0, 0.5], [1.0, 2.0]]), "heat", "px", 0.0, 1.0, over=None),
        Curve(np.arange(3.0), np.ones((2, 3)), ("x", "y"), "curve", ("s", "px")),
        Table(("a", "b"), (("x", 1), ("y", 2.5)), "table"),
        Note("text", "note"),
    ),
    {"value": 0.5, "count": 3.0},
)


def test_every_panel_comes_back_from_json_and_npz(tmp_path: Path) -> None:
    plain, arrays = pack(REPORT, "lens")
    save_arrays(tmp_path / "panels.npz", arrays)
    again = unpack(json.loads(json.dumps(plain, allow_nan=False)), load_arrays(tmp_path / "panels.npz"))
    assert again.numbers == REPORT.numbers
    assert again.problems() == []
    for old, new in zip(REPORT.panels, again.panels, strict=True):
        assert type(old) is type(new)
        for name, value in vars(old).items():
            assert (
                np.array_equal(value, getattr(new, name)) if isinstance(value, np.ndarray) else value == vars(new)[name]
            )


def test_pictures_films_and_maps_can_be_looked_at() -> None:
    found = dict(pictures(REPORT, "lens"))
    assert list(found) == ["lens.0.png", "lens.1.png", "lens.2.png"]
    assert found["lens.1.png"].shape == (3, 6, 3)
    assert found["lens.2.png"][..., 0].tolist() == [[0, 128], [255, 255]]


def test_numbers_are_tamed_for_json() -> None:
    assert tame({"a": np.float32(0.5), "b": float("nan"), "c": (1, float("inf")), 3: np.int64(2)}) == {
        "a": 0.5, "b": None, "c": [1, None], "3": 2}  # fmt: skip


def test_no_file_means_no_arrays(tmp_path: Path) -> None:
    assert load_arrays(tmp_path / "none.npz") == {}
