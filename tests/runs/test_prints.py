import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

import workbench as wb
from tests.folders import tiny_plan
from workbench.cli import parser
from workbench.core.ask import Ask
from workbench.core.plan import Plan
from workbench.runs.execute import run
from workbench.runs.prints import as_cell, as_command, as_python, spell
from workbench.runs.requests import method_of, plan_of

PLANS = (
    Plan(ask={"prompts": ["a cat"]}),
    Plan(ask={"prompts": ["a cat"], "seeds": [3, 4, 5]}, model="some folder/model", device="cpu", dtype="float32"),
    Plan(ask={"prompts": ["a", "b"], "seeds": [9, 2], "negatives": ["x", "y"], "size": [24, 16]}, batch=7),
    Plan(ask={"prompts": ["a", "a", "b", "b"], "negatives": ["x", "x", "y", "y"]}),
    Plan(ask={"prompts": ['it\'s "quoted" $HOME `x`', "-dashed", "--seed"], "negatives": "-5 of \n them"}),
    Plan(ask={"prompts": "a", "image": "my pictures/a.png", "mask": "-m.png"}),
    Plan(
        ask={"prompts": "a"},
        sampler={"method": "diffuse", "steps": 7, "guidance": 0.1, "scheduler": "euler-a"},
        edits=[{"method": "freeu", "b1": 1.3}, {"method": "cads"}, {"method": "freeu"}],
        lenses=[{"method": "denoise-film"}],
        metrics=[{"method": "diversity"}],
    ),
)


@pytest.mark.parametrize("plan", PLANS)
def test_a_printed_command_makes_the_same_plan(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "is_file", lambda _: True)
    words = shlex.split(as_command(plan))
    assert words[0] == "workbench"
    args = parser().parse_args(words[1:])
    assert plan_of(args, args.prompts) == plan


def test_every_method_is_read_back_as_it_was_spelled() -> None:
    for cls in wb.catalog():
        made = cls(**cls.quick)
        assert method_of(spell(made), cls.kind) == made


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def drawn(code: str) -> dict[str, Any]:
    shown: list[Any] = []
    names: dict[str, Any] = {"display": lambda *pictures: shown.extend(pictures)}
    exec(code, names)
    return {**names, "shown": shown}


def test_printed_python_draws_the_same_pixels(here: Path) -> None:
    plan = tiny_plan("a cat", "the 'dog'", edits=[{"method": "freeu", "b1": 1.4}], ask={"negatives": "red", "seeds": 5})
    first = torch.stack([torch.from_numpy(image).permute(2, 0, 1) for image in run(plan, here / "r").images])
    assert torch.equal(drawn(as_python(plan))["images"], first)
    names = drawn(as_cell(plan))
    assert torch.equal(names["images"], first)
    assert [picture.size for picture in names["shown"]] == [(16, 16), (16, 16)]


def test_printed_python_of_a_large_plan_runs_it(here: Path) -> None:
    plan = tiny_plan("a", "b", "c", ask={"prompts": ("a", "b", 'c "\\n'), "size": (16, 18)})
    names = drawn(as_cell(plan))
    assert names["run"].plan == plan
    assert [picture.size for picture in names["shown"]] == [(16, 18)] * 3


def test_defaults_are_left_out() -> None:
    assert as_command(Plan(ask=Ask(prompts=["a cat"]))) == "workbench sample 'a cat'"
    assert spell(wb.method("diffuse", steps=20)) == "diffuse"
