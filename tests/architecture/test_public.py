"""The outside of the box: few names, sorted, described."""

import inspect

import pytest

import workbench

VERBS = ("load", "catalog", "method", "using", "sample", "look", "score", "run")


def test_names_are_few_and_sorted() -> None:
    assert list(workbench.__all__) == sorted(workbench.__all__)
    assert len(workbench.__all__) <= 30
    assert len(set(workbench.__all__)) == len(workbench.__all__)


def test_verbs_are_there() -> None:
    assert set(VERBS) <= set(workbench.__all__)
    assert all(callable(getattr(workbench, verb)) for verb in VERBS)


@pytest.mark.parametrize("name", workbench.__all__)
def test_name_resolves_and_is_described(name: str) -> None:
    thing = getattr(workbench, name)
    own = thing.__dict__.get("__doc__") if inspect.isclass(thing) else inspect.getdoc(thing)
    assert own, f"workbench.{name} has no docstring"
    assert not own.startswith(f"{name}("), f"workbench.{name} has only the docstring that dataclass makes"


def test_dir_shows_the_public_names() -> None:
    assert set(workbench.__all__) <= set(dir(workbench))


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="lode"):
        workbench.lode  # noqa: B018


def test_star_import_gives_the_public_names() -> None:
    names: dict[str, object] = {}
    exec("from workbench import *", names)
    assert set(workbench.__all__) <= set(names)
