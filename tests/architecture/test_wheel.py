"""The built wheel works from an empty folder, with the models and drawings inside."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.architecture.sources import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel's files, as pip would lay them out."""
    pytest.importorskip("hatchling", reason="needs hatchling to build the wheel")
    out = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = out.glob("*.whl")
    assert wheel.stat().st_size < 60e6
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(out / "site")
    return out / "site"


def _run(installed: Path, where: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    return subprocess.run([sys.executable, *words], cwd=where, env=environment, capture_output=True, text=True)


def test_it_holds_code_faces_and_assets(installed: Path) -> None:
    for name in ("workbench/cli.py", "workbench/py.typed", "apps/app.py", "workbench/_assets/world/split.json"):
        assert (installed / name).is_file(), name
    assert not (installed / "tests").exists()
    assert not (installed / "workbench/_assets/images").exists()


def test_it_runs_from_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    done = _run(installed, tmp_path, "-m", "workbench", "list", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)
    code = "import workbench, workbench.core.places as p; print(workbench.__file__); print(p.ASSETS)"
    for place in _run(installed, tmp_path, "-c", code).stdout.split():
        assert Path(place).is_relative_to(installed)
    assert not list(tmp_path.iterdir())


def test_it_knows_its_own_models(installed: Path, tmp_path: Path) -> None:
    done = _run(installed, tmp_path, "-m", "workbench", "about", "--json")
    assert done.returncode == 0, done.stderr
    assert "unet" in done.stdout
