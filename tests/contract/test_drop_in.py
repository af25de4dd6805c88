"""One more method is one file: dropped into a topic, it is in the list, has a card and flags, and draws."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.tiny import sd_pipe

FILE = '''"""Head gate: silence the first head of every cross-attention.

Paper: none (a toy of the tests). Equation: o_1 = (1 - strength) o_1. Differs: from nothing.
"""

from typing import ClassVar

import torch
from pydantic import Field

from workbench.core.bundle import Bundle
from workbench.core.delta import Delta
from workbench.core.method import Card, Edit
from workbench.core.patch import Patch


class HeadGate(Edit):
    """Silence a head."""

    card: ClassVar[Card] = Card("toy-gate", "Toy gate", "none (a toy)", ("unet",))
    neutral: ClassVar = {"strength": 0.0}

    strength: float = Field(1.0, ge=0, le=1, description="0 changes nothing, 1 silences the head.")

    def patch(self, bundle: Bundle, delta: Delta, patch: Patch) -> None:
        """Scale the head's output."""
        for site in bundle.sites("cross-attention"):
            gate = torch.ones(1, site.heads, 1, 1)
            gate[:, 0] -= self.strength
            patch.attend(site, lambda call, gate=gate: call.run() * gate)
'''

#: Run several command lines in one process, with one more folder in the topic `erase`; prints [code, answer] a line.
CODE = """
import contextlib, io, json, sys
import workbench.methods.erase as erase
erase.__path__.append(sys.argv[1])
from workbench.cli import main
for words in json.loads(sys.argv[2]):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = main(words)
    print(json.dumps([code, out.getvalue()]))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str]]:
    """What the command line says with the file in place: each command's exit code and output."""
    folder = tmp_path_factory.mktemp("dropped")
    (folder / "topic").mkdir()
    (folder / "topic" / "toy_gate.py").write_text(FILE)
    sd_pipe().save_pretrained(folder / "model")
    draw = [
        "sample",
        "a cat",
        "--model",
        str(folder / "model"),
        "--sampler",
        "diffuse steps=2",
        "--seed",
        "1",
        "--json",
    ]
    commands = {
        "list": ["list", "--json"],
        "card": ["card", "toy-gate"],
        "plain": [*draw, "--out", str(folder / "plain")],
        "edited": [*draw, "--with", "toy-gate strength=0.9", "--out", str(folder / "edited")],
        "neutral": [*draw, "--with", "toy-gate strength=0", "--out", str(folder / "neutral")],
        "wrong": [*draw, "--with", "toy-gate strength=7", "--out", str(folder / "wrong")],
    }
    words = [sys.executable, "-c", CODE, str(folder / "topic"), json.dumps(list(commands.values()))]
    run = subprocess.run(words, capture_output=True, text=True, check=False)
    lines = [tuple(json.loads(line)) for line in run.stdout.splitlines()]
    assert len(lines) == len(commands), run.stderr[-2000:]
    return dict(zip(commands, lines, strict=True)) | {"stderr": (0, run.stderr), "folder": (0, str(folder))}


def pixels(answers: dict[str, tuple[int, str]], name: str) -> bytes:
    """The first picture that a command wrote."""
    first = min(Path(answers["folder"][1], name).rglob("*.png"))
    return Image.open(first).tobytes()


def test_the_list_names_it_with_topic_and_fields(answers: dict[str, tuple[int, str]]) -> None:
    code, text = answers["list"]
    listed = json.loads(text)
    (entry,) = [entry for entry in listed["methods"] if entry["name"] == "toy-gate"]
    assert code == 0
    assert (entry["topic"], entry["kind"]) == ("erase", "edit")
    assert "strength" in json.dumps(entry["fields"])


def test_its_card_is_written_from_the_declaration(answers: dict[str, tuple[int, str]]) -> None:
    code, text = answers["card"]
    assert code == 0
    for words in ("Toy gate", "toy-gate", "strength", "0 changes nothing, 1 silences the head"):
        assert words in text


def test_the_command_line_draws_with_it(answers: dict[str, tuple[int, str]]) -> None:
    assert [answers[name][0] for name in ("plain", "edited", "neutral")] == [0, 0, 0], answers["stderr"][1][-2000:]
    assert pixels(answers, "edited") != pixels(answers, "plain")
    assert pixels(answers, "neutral") == pixels(answers, "plain")


def test_a_wrong_value_is_one_line_and_exit_code_two(answers: dict[str, tuple[int, str]]) -> None:
    assert answers["wrong"][0] == 2
    assert "toy-gate: strength is '7'; it should be less than or equal to 1" in answers["stderr"][1]
