"""Where assets and caches lie."""

import os
import subprocess
import sys
from pathlib import Path

from workbench.core import places


def test_assets_of_a_checkout_lie_beside_the_package() -> None:
    assert places.ASSETS.name in ("assets", "_assets")
    assert (places.ASSETS / "world").is_dir()


def test_the_cache_moves_with_its_variable(tmp_path: Path) -> None:
    code = "from workbench.core.places import CACHE; print(CACHE)"
    for value, expected in ((str(tmp_path), tmp_path), ("", Path.home() / ".cache" / "workbench")):
        run = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "WORKBENCH_CACHE": value},
            capture_output=True,
            text=True,
            check=True,
        )
        assert run.stdout.strip() == str(expected)
