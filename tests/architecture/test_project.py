"""pyproject, constraints, changelog and decisions agree with each other."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import workbench
from tests.architecture.sources import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def _pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    exact = [re.fullmatch(r"([\w.-]+)==([\w.]+)", line) for line in lines if line and not line.startswith("#")]
    assert all(exact), "every constraint is an exact pin"
    return {canonicalize_name(pin[1]): pin[2] for pin in exact if pin}


def _requirements() -> list[Requirement]:
    project = PROJECT["project"]
    listed = [project["dependencies"], *project["optional-dependencies"].values()]
    return [Requirement(line) for lines in listed for line in lines]


def test_changelog_opens_with_this_version() -> None:
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert next(heading for heading in headings if heading != "Unreleased") == workbench.__version__


def test_installed_version_is_this_version() -> None:
    assert metadata.version("diffusion-workbench") == workbench.__version__


def test_dependencies_have_floors_that_the_pins_meet() -> None:
    pins = _pins()
    for requirement in _requirements():
        assert any(part.operator == ">=" for part in requirement.specifier), f"{requirement} has no floor"
        assert not any(part.operator == "==" for part in requirement.specifier), f"{requirement} is pinned in pyproject"
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), requirement


def test_pins_are_what_the_tests_run_with() -> None:
    pins = _pins()
    assert pins["torch"] == "2.13.0"
    assert "torchvision" not in pins
    if metadata.version("torch").partition("+")[0] != pins["torch"]:
        pytest.skip("another torch: the pins are for a machine that `make` has set up")
    different = {
        requirement.name: metadata.version(requirement.name)
        for requirement in _requirements()
        if metadata.version(requirement.name).partition("+")[0] != pins[canonicalize_name(requirement.name)]
    }
    assert not different


@pytest.mark.parametrize("path", sorted((ROOT / "assets/decisions").glob("*.md")), ids=lambda path: path.name)
def test_decision_fits_a_page(path: Path) -> None:
    body = path.read_text(encoding="utf-8")
    assert re.fullmatch(r"\d{4}(-[a-z0-9]+)+\.md", path.name)
    assert len(body.splitlines()) <= 60
    for heading in ("## Context", "## Decision", "## Consequences"):
        assert heading in body


def test_decisions_are_numbered_without_gaps() -> None:
    numbers = sorted(int(path.name[:4]) for path in (ROOT / "assets/decisions").glob("*.md"))
    assert numbers == list(range(1, len(numbers) + 1))


def test_readme_keeps_its_generated_places() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for place in ("methods", "numbers"):
        assert readme.count(f"<!-- {place} -->") == 1
        assert readme.count(f"<!-- /{place} -->") == 1
    for target in re.findall(r"\]\((?!https?:|#)([^)]+)\)", readme):
        assert (ROOT / target.partition("#")[0]).exists(), f"README points at {target}, which is not there"
