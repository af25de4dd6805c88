"""Who may import whom: the table in pyproject.toml, checked by import-linter."""

import ast
import json
import subprocess
import sys
from pathlib import Path

from tests.architecture.sources import ROOT


def _lint(where: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as lint; lint()"]
    return subprocess.run(
        [*command, "--no-cache", "--no-logo", "--config", str(ROOT / "pyproject.toml")],
        cwd=where, capture_output=True, text=True, env={"PYTHONPATH": str(where), "PATH": "/usr/bin:/bin"})  # fmt: skip


def test_every_contract_is_kept() -> None:
    done = _lint(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_table_bites(tmp_path: Path) -> None:
    """A copy of the code with one forbidden import of each sort must break a contract each."""
    import shutil

    for room in ("workbench", "apps"):
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__", "spaces"))
    sins = {
        "workbench/core/errors.py": ("import workbench.ops.noise", "rooms are stacked"),
        "workbench/methods/generate/freeu.py": ("import diffusers", "only models names a model library"),
        "workbench/methods/fewstep/cads.py": ("import workbench.methods.generate.freeu", "methods do not know"),
        "workbench/methods/reduce/cfg_cutoff.py": ("import workbench.models.load", "methods ask for sites"),
        "workbench/ops/noise.py": ("import plotly", "figures are made in view alone"),
        "workbench/runs/verbs.py": ("import gradio", "no face in the library"),
        "apps/controls.py": ("import workbench.blocks.denoise", "the app stands on core, view and runs"),
    }  # fmt: skip
    for name, (line, _) in sins.items():
        file = tmp_path / name
        file.write_text(f"{file.read_text()}\n{line}\n")
    done = _lint(tmp_path)
    broken = {line.removesuffix(" BROKEN") for line in done.stdout.splitlines() if line.endswith(" BROKEN")}
    assert done.returncode == 1, done.stdout + done.stderr
    missed = {rule for _, rule in sins.values() if not any(name.startswith(rule) for name in broken)}
    assert not missed


def _imports(source: str) -> set[str]:
    nodes = list(ast.walk(ast.parse(source)))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return plain | {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}


def test_notebooks_stand_on_core_view_and_runs() -> None:
    """A notebook uses what a reader may use: the public names, and never the app."""
    for path in sorted((ROOT / "notebooks").glob("*.*")):
        if path.suffix == ".ipynb":
            cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
            lines = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
            source = "\n".join(
                line for line in "\n".join(lines).splitlines() if not line.lstrip().startswith(("%", "!"))
            )
        elif path.suffix == ".py":
            source = path.read_text(encoding="utf-8")
        else:
            continue
        ours = {name for name in _imports(source) if name.partition(".")[0] in ("workbench", "apps")}
        allowed = ("workbench.core.", "workbench.view.", "workbench.runs.")
        assert not [name for name in ours if name != "workbench" and not name.startswith(allowed)], path
