"""The tree of errors."""

import inspect

import pytest

from workbench.core import errors

CLASSES = [value for _, value in inspect.getmembers(errors, inspect.isclass)]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_error_is_drawn_in_the_tree_and_says_when_it_comes(cls: type[Exception]) -> None:
    assert cls.__name__ in (errors.__doc__ or "")
    assert cls.__doc__


def test_the_tree_is_as_drawn() -> None:
    """Indentation in the docstring is descent."""
    above: dict[int, str] = {}
    for line in (errors.__doc__ or "").splitlines():
        words = line.replace("├──", "   ").replace("└──", "   ").replace("│", " ").split()
        if not words or not hasattr(errors, words[0]):
            continue
        depth = line.index(words[0])
        parents = [name for other, name in above.items() if other < depth]
        if parents:
            assert issubclass(getattr(errors, words[0]), getattr(errors, parents[-1]))
        above = {other: name for other, name in above.items() if other < depth} | {depth: words[0]}
    assert above


def test_stopping_is_not_an_error() -> None:
    assert not issubclass(errors.Stopped, errors.WorkbenchError)
    assert all(issubclass(cls, errors.WorkbenchError) for cls in CLASSES if cls is not errors.Stopped)


def test_python_knows_the_common_ones_too() -> None:
    assert issubclass(errors.AskError, ValueError)
    assert issubclass(errors.UnknownMethod, LookupError)
