"""A Space's folder: whole, without what it does not need, and it starts by itself."""

import os
import runpy
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.apps.conftest import free_port

ROOT = Path(__file__).parents[2]
SPACES = sorted(path.parent.name for path in (ROOT / "apps" / "spaces").glob("*/app.py"))
PATIENCE = 240  # s; importing everything takes seconds on a quiet machine


@pytest.fixture(scope="module")
def build() -> Any:
    return runpy.run_path(str(ROOT / "apps" / "spaces" / "build.py"))


def test_the_page_of_a_space_names_what_it_runs_on(build: Any) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    for name in SPACES:
        head = (ROOT / "apps" / "spaces" / name / "README.md").read_text("utf-8").split("---")[1]
        facts = dict(line.split(": ", 1) for line in head.strip().splitlines())
        assert facts["sdk"] == "gradio"
        assert any(
            need.startswith("gradio>=" + facts["sdk_version"].rpartition(".")[0]) for need in build["requirements"]()
        )
        assert f">={facts['python_version'].strip(chr(34))}" == project["requires-python"]
        assert facts["app_file"] == "app.py"


def test_an_unknown_space_or_a_full_folder_is_refused(build: Any, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("x")
    for name, folder in (("nothing", tmp_path / "new"), (SPACES[0], tmp_path)):
        with pytest.raises(SystemExit, match=r"There is no Space|not empty"):
            build["build"](name, folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", SPACES)
def test_a_space_starts_from_its_own_folder(name: str, build: Any, tmp_path: Path) -> None:
    folder, port = build["build"](name, tmp_path / "space"), free_port()
    assert not (folder / "apps" / "spaces").exists()
    assert "gradio" in (folder / "requirements.txt").read_text("utf-8")
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    env |= {"GRADIO_SERVER_PORT": str(port), "SPACE_ID": "someone/emoji", "SPACE_HOST": "someone-emoji.hf.space",
            "WORKBENCH_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}  # fmt: skip
    with (tmp_path / "log").open("wb") as log:
        app = subprocess.Popen([sys.executable, "app.py"], cwd=folder, env=env, stdout=log, stderr=log)
    try:
        page = _page(f"http://127.0.0.1:{port}/", app, tmp_path / "log")
        assert "Diffusion Workbench" in page.text
        assert "SameSite=None" in page.headers["set-cookie"]
        config = httpx.get(f"http://127.0.0.1:{port}/config", timeout=60).text
        assert str(folder) not in config, "a stranger learns no path of the machine"
        assert "assets/models/emoji-unet is missing" not in config
    finally:
        app.terminate()
        app.wait(30)


def _page(url: str, app: subprocess.Popen[bytes], log: Path) -> httpx.Response:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        assert app.poll() is None, log.read_text("utf-8", "replace")
        try:
            return httpx.get(url, headers={"host": "someone-emoji.hf.space"}, timeout=30)
        except httpx.TransportError:
            time.sleep(0.5)
    raise AssertionError(log.read_text("utf-8", "replace"))
