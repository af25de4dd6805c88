"""A Space's folder, ready to push: `python apps/spaces/build.py emoji FOLDER`.

A Space installs its `requirements.txt` before its files are there, so the list is written out: the floors of
`pyproject.toml`, the app's extra included.
"""

import shutil
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("workbench", "apps", "assets/models", "assets/world", "assets/cards")
FILES = ("LICENSE", "NOTICE")
_SKIPPED = shutil.ignore_patterns("__pycache__", "spaces", "*.pyc")


def build(name: str, folder: Path) -> Path:
    """Everything the Space `name` needs, copied into a new folder; returns it. Raises `SystemExit` in one line."""
    source = ROOT / "apps" / "spaces" / name
    if not (source / "app.py").is_file():
        known = ", ".join(sorted(path.parent.name for path in source.parent.glob("*/app.py")))
        raise SystemExit(f"There is no Space called {name!r}. There are: {known}.")
    if folder.exists() and any(folder.iterdir()):
        raise SystemExit(f"{folder} is not empty. Name a new folder.")
    for room in ROOMS:
        shutil.copytree(ROOT / room, folder / room, ignore=_SKIPPED)
    for file in (*(ROOT / name for name in FILES), source / "README.md", source / "app.py"):
        shutil.copy2(file, folder / file.name)
    (folder / "requirements.txt").write_text("\n".join(requirements()) + "\n", "utf-8")
    return folder


def requirements() -> list[str]:
    """What the app needs, as `pyproject.toml` says it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return sorted({*project["dependencies"], *project["optional-dependencies"]["app"]})


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit("python apps/spaces/build.py NAME FOLDER")
    build(sys.argv[1], Path(sys.argv[2]))
