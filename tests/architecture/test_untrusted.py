"""Files from elsewhere never become code: no pickle, no remote code, no eval."""

import ast

import pytest

from tests.architecture.sources import python_files, tree

PICKLES = {"pickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
#: Reads foreign checkpoints, with weights_only, in a child process.
CONVERTER = "convert.py"


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_name(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def _sins(module: ast.Module) -> list[str]:
    """What a file does that a foreign file could abuse, with the line."""
    found = []
    for node in ast.walk(module):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Import):
            found += [f"{line}: import {a.name}" for a in node.names if a.name.partition(".")[0] in PICKLES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in PICKLES:
            found.append(f"{line}: from {node.module}")
        elif isinstance(node, ast.Call):
            given = {word.arg: word.value for word in node.keywords}
            called = _name(node.func)
            safe = isinstance(given.get("weights_only"), ast.Constant) and given["weights_only"].value is True  # type: ignore[attr-defined]
            if called == "torch.load" and not safe:
                found.append(f"{line}: torch.load without weights_only=True")
            if called in ("eval", "exec", "yaml.load", "yaml.unsafe_load", "os.system", "pd.read_pickle"):
                found.append(f"{line}: {called}")
            for switch in ("trust_remote_code", "allow_pickle", "shell"):
                if isinstance(given.get(switch), ast.Constant) and given[switch].value is True:  # type: ignore[attr-defined]
                    found.append(f"{line}: {switch}=True")
    return found


def test_nothing_read_becomes_code() -> None:
    found = []
    for path in python_files():
        sins = _sins(tree(path))
        found += [f"{path}:{sin}" for sin in sins if path.name != CONVERTER or "pickle" not in sin]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from joblib import load",
        "torch.load(f)",
        "torch.load(f, weights_only=False)",
        "np.load(f, allow_pickle=True)",
        "eval(x)",
        "Model.from_pretrained(x, trust_remote_code=True)",
        "subprocess.run(x, shell=True)",
    ],
)
def test_the_rule_bites(line: str) -> None:
    assert _sins(ast.parse(line))


def test_the_rule_lets_the_safe_form_pass() -> None:
    assert not _sins(ast.parse("torch.load(f, map_location='cpu', weights_only=True)\nmodel.eval()"))
