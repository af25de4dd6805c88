"""The project's own files, as the rules about them read them."""

import ast
import functools
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("workbench", "apps", "notebooks")


@functools.cache
def python_files(*rooms: str) -> tuple[Path, ...]:
    """Every Python file of these folders, relative to the root."""
    found = (path.relative_to(ROOT) for room in rooms or ROOMS for path in (ROOT / room).rglob("*.py"))
    return tuple(sorted(path for path in found if "__pycache__" not in path.parts))


@functools.cache
def tree(path: Path) -> ast.Module:
    """The syntax tree of a file, each node knowing its parent."""
    module = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    for node in ast.walk(module):
        for child in ast.iter_child_nodes(node):
            child.parent = node  # type: ignore[attr-defined]
    return module


def functions(path: Path) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Every function of a file with its qualified name."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield qualified(node), node


def qualified(node: ast.AST) -> str:
    """`Class.method` or `outer.inner` of a definition."""
    names: list[str] = []
    at: ast.AST | None = node
    while at is not None:
        if isinstance(at, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.insert(0, at.name)
        at = getattr(at, "parent", None)
    return ".".join(names)


@functools.cache
def tracked() -> tuple[Path, ...]:
    """Every file under version control that is there; skips the test where there is no version control."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("git does not answer here")
    return tuple(path for name in listed.stdout.split("\0") if name and (ROOT / (path := Path(name))).is_file())


@functools.cache
def text(path: Path) -> str:
    """The text of a tracked file; empty for a binary one."""
    raw = (ROOT / path).read_bytes()
    try:
        return "" if b"\0" in raw[:8192] else raw.decode("utf-8")
    except UnicodeDecodeError:
        return ""
