"""The shipped adapters: they belong to the shipped default, fit it whole, and are small."""

import json

import pytest

from workbench.blocks.adapter_files import CONFIG, PEFT, SHIPPED, TRAINING, shipped
from workbench.blocks.adapters import read_adapter
from workbench.blocks.world import World
from workbench.core.bundle import Bundle
from workbench.models.load import load
from workbench.training.adapters import TRIGGERS, said


@pytest.fixture(scope="module")
def default() -> Bundle:
    return load()


def test_there_are_four_subjects_and_the_held_out_style() -> None:
    assert set(shipped()) == set(TRIGGERS)
    split = World.load().split
    assert set(TRIGGERS) <= {*split["held_out_objects"], *split["held_out_styles"]}
    assert sum(name in split["held_out_objects"] for name in TRIGGERS) == 4


@pytest.mark.parametrize("name", shipped())
def test_an_adapter_belongs_to_the_default_and_fits_it_whole(name: str, default: Bundle) -> None:
    facts = json.loads((SHIPPED / name / TRAINING).read_text())
    assert facts["base"] == default.digest, f"{name} was fitted on other weights: workbench train adapters"
    adapter = read_adapter(default, name)
    assert adapter.report.found == 1.0
    assert adapter.report.notes == ()
    assert adapter.trigger == facts["trigger"] == TRIGGERS[name]
    assert all(value > 0 for value in adapter.low_rank.energy().values())


def test_together_they_are_small() -> None:
    sizes = [path.stat().st_size for path in SHIPPED.glob("*/*")]
    assert sum(sizes) <= 800_000


@pytest.mark.parametrize("name", shipped())
def test_what_the_judge_saw_is_noted(name: str) -> None:
    judge = json.loads((SHIPPED / name / TRAINING).read_text())["judge"]
    assert 0 <= judge["accuracy"] <= 1
    assert 0 < judge["true drawings"] <= 1
    assert {path.name for path in (SHIPPED / name).iterdir()} == {PEFT, CONFIG, TRAINING}


def test_the_prompts_that_are_judged_call_the_adapter() -> None:
    world = World.load()
    for name, trigger in TRIGGERS.items():
        prompts, answers = said(world, name, trigger, 6)
        assert len(set(prompts)) == 6
        assert all(f" {trigger} " in f" {prompt} " for prompt in prompts)
        assert set(answers) == {name}
