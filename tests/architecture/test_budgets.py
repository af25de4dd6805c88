"""How long a file, a function, a list of parameters may get. More needs a line with a reason in waivers.toml."""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.architecture.sources import ROOT, functions, python_files, tree

FILE, METHOD_FILE, FUNCTION, PARAMETERS, NESTING = 400, 200, 60, 6, 4
BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.Match)


class Cost(NamedTuple):
    """What one place takes of one budget."""

    where: str
    budget: str
    size: int
    limit: int


def _docstring(node: ast.Module | ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    first = node.body[0] if node.body else None
    if ast.get_docstring(node) is None or first is None:
        return 0
    return (first.end_lineno or first.lineno) - first.lineno + 1


def _nesting(body: list[ast.stmt], depth: int = 0) -> int:
    """The deepest stack of blocks; an `elif` is no deeper than its `if`, and an inner function starts anew."""
    deepest = depth
    for statement in body:
        if not isinstance(statement, BLOCKS):
            continue
        if isinstance(statement, ast.Match):
            inner = [case.body for case in statement.cases]
        else:
            inner = [getattr(statement, part, []) for part in ("body", "finalbody")]
            inner += [handler.body for handler in getattr(statement, "handlers", [])]
            other = getattr(statement, "orelse", [])
            elif_ = isinstance(statement, ast.If) and len(other) == 1 and isinstance(other[0], ast.If)
            deepest = max(deepest, _nesting(other, depth) if elif_ else _nesting(other, depth + 1) if other else depth)
        deepest = max([deepest, *(_nesting(part, depth + 1) for part in inner if part)])
    return deepest


def _costs(path: Path) -> Iterator[Cost]:
    lines = len((ROOT / path).read_text(encoding="utf-8").splitlines())
    if path.parts[:2] == ("workbench", "methods"):  # the paper and its equations are not counted
        yield Cost(str(path), "lines", lines - _docstring(tree(path)), METHOD_FILE)
    else:
        yield Cost(str(path), "lines", lines, FILE)
    for name, node in functions(path):
        where = f"{path}::{name}"
        yield Cost(where, "lines", (node.end_lineno or 0) - node.lineno + 1 - _docstring(node), FUNCTION)
        places = [argument.arg for argument in node.args.posonlyargs + node.args.args]
        bound = isinstance(getattr(node, "parent", None), ast.ClassDef) and places[:1] in (["self"], ["cls"])
        yield Cost(where, "parameters", len(places) - bound, PARAMETERS)
        yield Cost(where, "nesting", _nesting(node.body), NESTING)


def _waivers() -> dict[tuple[str, str], dict[str, object]]:
    listed = tomllib.loads((ROOT / "tests/architecture/waivers.toml").read_text(encoding="utf-8")).get("waiver", [])
    return {(waiver["where"], waiver["budget"]): waiver for waiver in listed}


def _all() -> list[Cost]:
    return [cost for path in python_files() for cost in _costs(path)]


def test_within_budget() -> None:
    waivers = _waivers()
    over = []
    for cost in _all():
        limit = int(str(waivers.get((cost.where, cost.budget), {}).get("limit", cost.limit)))
        if cost.size > limit:
            over.append(f"{cost.where}: {cost.size} {cost.budget}, at most {limit}")
    assert not over, "\n".join(over)


def test_waivers_are_needed_and_explained() -> None:
    sizes = {(cost.where, cost.budget): cost for cost in _all()}
    for key, waiver in _waivers().items():
        assert key in sizes, f"{key} is gone: drop its waiver"
        assert sizes[key].size > sizes[key].limit, f"{key} is within budget: drop its waiver"
        assert len(str(waiver.get("reason", ""))) > 20, f"{key} needs a reason"


def test_nesting_is_counted_as_read() -> None:
    body = ast.parse("if a:\n  pass\nelif b:\n  for x in y:\n    with z:\n      pass\nelse:\n  pass\n").body
    assert _nesting(body) == 3
    assert _nesting(ast.parse("x = 1").body) == 0
