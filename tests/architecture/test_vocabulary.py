"""Names that say nothing are refused, and so are promises without a number."""

import ast
import re
from pathlib import Path

from tests.architecture.sources import ROOT, python_files, tree

FILES = {"utils", "util", "helpers", "helper", "common", "base", "manager", "misc", "stuff"}
CLASS = re.compile(r"^(Base|Abstract)[A-Z]|(Base|Impl|Handler|Manager|Helper|Mixin)$")
NEGATIVE = re.compile(r"^(disable|no|not|without)_")
PROMISE = re.compile(r"#.*\b(TODO|FIXME|XXX|HACK)\b(?!.*#\d+)", re.IGNORECASE)


def _everywhere() -> tuple[Path, ...]:
    return python_files("workbench", "apps", "notebooks", "tests")


def test_file_names_say_what_is_inside() -> None:
    assert not [str(path) for path in _everywhere() if path.stem in FILES]


def test_class_names_are_nouns_of_the_subject() -> None:
    names = [
        f"{path}: {node.name}"
        for path in python_files()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ClassDef) and CLASS.search(node.name)
    ]
    assert not names


def test_switches_read_as_statements() -> None:
    names = []
    for path in python_files():
        for node in ast.walk(tree(path)):
            argument = isinstance(node, ast.arg) and NEGATIVE.match(node.arg)
            field = (
                isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and NEGATIVE.match(node.target.id)
            )
            if argument or field:
                names.append(f"{path}:{node.lineno}")
    assert not names


def test_promises_carry_a_number() -> None:
    found = []
    for path in _everywhere():
        if path.name == Path(__file__).name:
            continue
        for number, line in enumerate((ROOT / path).read_text(encoding="utf-8").splitlines(), 1):
            if PROMISE.search(line):
                found.append(f"{path}:{number}: {line.strip()}")
    assert not found
