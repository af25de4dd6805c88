"""Who may import whom: the table in pyproject.toml, checked by import-linter."""

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
