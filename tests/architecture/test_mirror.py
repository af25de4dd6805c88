"""Every source file has its test file and the other way round."""

from pathlib import Path

from tests.architecture.sources import ROOT, python_files

#: Folders of tests about the whole rather than about one file.
WHOLES = ("architecture", "contract", "apps", "notebooks", "benchmarks")

#: Rooms whose files are tested together: a recipe's parts share their fixtures, and what it made is tested as shipped.
TOGETHER = {
    "training": (
        "test_recipes.py",
        "test_shipped.py",
        "test_stage.py",
        "test_feed.py",
        "test_dit.py",
        "test_gpu.py",
        "test_student.py",
        "test_var_vq.py",
        "test_var.py",
    ),
}

#: Source files without a test file of their own, each with the reason.
UNPAIRED: dict[str, str] = {}


def _test_of(source: Path) -> Path:
    return Path("tests", *source.parts[1:-1], f"test_{source.name}")


def _sources() -> list[Path]:
    every = (path for path in python_files("workbench") if path.name not in ("__init__.py", "__main__.py"))
    return [path for path in every if path.parts[1] not in TOGETHER]


def test_every_source_has_its_test_file() -> None:
    missing = [
        source for source in _sources() if str(source) not in UNPAIRED and not (ROOT / _test_of(source)).is_file()
    ]
    assert not missing, "no test file: " + " ".join(str(_test_of(source)) for source in missing)


def test_every_test_file_has_its_source() -> None:
    """`test_load.py` belongs to load.py; `test_load_single.py` may stand beside it, on one aspect of it."""
    expected = {_test_of(source) for source in _sources()}
    strays = []
    for path in python_files("tests"):
        if not path.name.startswith("test_") or (len(path.parts) > 2 and path.parts[1] in WHOLES):
            continue
        if path.name in TOGETHER.get(path.parts[1], ()):
            continue
        words = path.stem.split("_")
        owners = (path.with_name("_".join(words[:count]) + ".py") for count in range(2, len(words) + 1))
        if not any(owner in expected for owner in owners):
            strays.append(str(path))
    assert not strays, f"no source file for {strays}"


def test_exceptions_are_real() -> None:
    for room, names in TOGETHER.items():
        for name in names:
            assert (ROOT / "tests" / room / name).is_file(), f"{name} is gone: drop its exception"
    for name, reason in UNPAIRED.items():
        assert (ROOT / name).is_file(), f"{name} is gone: drop its exception"
        assert not (ROOT / _test_of(Path(name))).is_file(), f"{name} has a test now: drop its exception"
        assert reason
