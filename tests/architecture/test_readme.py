"""What the README shows works as shown."""

import importlib.util
import itertools
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import workbench as wb
from tests.architecture.sources import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def _commands() -> list[str]:
    return [line for _, block in BLOCKS for line in block.splitlines() if line.startswith("workbench ")]


@pytest.fixture
def drop_direction(tmp_path: Path) -> Iterator[type[wb.Edit]]:
    """The class of the section "Add a method in one file", from a file as it would be saved."""
    (source,) = (block for _, block in BLOCKS if "class DropDirection" in block)
    file = tmp_path / "drop_direction.py"
    file.write_text(source, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("example.erase.drop_direction", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module.DropDirection
    del sys.modules[spec.name]
    wb.Edit.known.pop("drop-direction", None)


def test_example_method_joins_the_catalog_and_undoes_itself(drop_direction: type[wb.Edit]) -> None:
    from tests.tiny import tiny_sd
    from workbench.core.patch import fingerprint

    bundle, sampler = tiny_sd(), wb.method("diffuse", steps=2)

    def draw(model: wb.Bundle) -> torch.Tensor:
        return wb.sample(model, ["a cat on the red"], seeds=[0], sampler=sampler)

    plain, before = draw(bundle), fingerprint(bundle)
    with wb.using(bundle, wb.method("drop-direction", concepts=["cat"])) as edited:
        assert not torch.equal(draw(edited), plain)
    with wb.using(bundle, drop_direction(strength=0)) as edited:
        assert torch.equal(draw(edited), plain)
    assert fingerprint(bundle) == before
    assert torch.equal(draw(bundle), plain)


def test_example_method_meets_the_budgets_and_the_linter(tmp_path: Path) -> None:
    import subprocess

    (source,) = (block for _, block in BLOCKS if "class DropDirection" in block)
    file = tmp_path / "drop_direction.py"
    file.write_text(source, encoding="utf-8")
    for words in (["check"], ["format", "--check"]):
        command = [
            sys.executable,
            "-m",
            "ruff",
            *words,
            "--no-cache",
            "--config",
            str(ROOT / "pyproject.toml"),
            str(file),
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("command", _commands())
def test_command_is_one_that_the_parser_knows(command: str) -> None:
    """Every command line parses, and every method with its settings is accepted; nothing is drawn."""
    from workbench.cli import parser
    from workbench.core.catalog import find
    from workbench.core.fields import parse

    words = shlex.split(command, comments=True)[1:]
    assert parser().parse_args(words)
    for flag, spec in itertools.pairwise(words):
        if flag in ("--with", "--sampler"):
            name, *settings = shlex.split(spec)
            parse(find(name), dict(setting.split("=", 1) for setting in settings))
        if flag in ("look", "score", "card"):
            find(spec)


def test_python_block_names_only_public_verbs() -> None:
    (block,) = (block for kind, block in BLOCKS if kind == "python" and "import workbench as wb" in block)
    compile(block, "README.md", "exec")
    assert set(re.findall(r"\bwb\.(\w+)", block)) <= set(wb.__all__)
