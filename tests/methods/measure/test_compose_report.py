"""The compose report on painted pictures: who is seen, what plain prompts lose, what is kept between looks."""

from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from tests.methods.measure.painter import Shelf
from tests.methods.measure.scorers import COLOURS, colour_judge
from tests.toys import card, unlisted
from workbench.core.ask import Ask
from workbench.core.bundle import Bundle
from workbench.core.catalog import method
from workbench.core.errors import AskError
from workbench.core.method import Sampler
from workbench.core.report import Note, Table
from workbench.core.scene import Scene
from workbench.core.tape import Step, Tap
from workbench.methods.measure.compose_report import ComposeReport

DRAWN: list[str] = []
CALLS = {"subjects": ("cat face", "flat"), "triggers": ("sks", "emjo"), "others": ("dog face",)}


@unlisted
class Caller(Sampler):
    """Red where "sks" is called and an adapter is in force, green for a dog unless one is, blue for all else."""

    card: ClassVar = card("toy-caller", families=("any",))

    def sample(self, bundle: Bundle, ask: Ask, tap: Tap) -> Tensor:
        """uint8 [B, 3, 8, 8]."""
        worn = bool(bundle.seams.edits)
        rows: list[Tensor] = []
        for prompt in ask.prompts:
            DRAWN.append(prompt)
            name = "red" if "sks" in prompt and worn else "green" if "dog" in prompt and not worn else "blue"
            rows.append(torch.tensor(COLOURS[name], dtype=torch.uint8)[:, None, None].expand(3, 8, 8))
        tap(Step(0, 1, 0.0))
        return torch.stack(rows)


def scene(*edits: Any, prompt: str = "an emjo emoji of a sks") -> Scene:
    DRAWN.clear()
    bundle = replace(colour_judge(["cat face", "dog face", "fox"], ["flat", "noto"]), store=Shelf())
    return Scene(bundle, Caller(), edits, Ask(prompts=[prompt], seeds=[5]))


def merge(**settings: Any) -> Any:
    return method("merge", adapters=("random:1", "random:2"), **settings)


def test_it_says_who_is_seen_and_what_plain_prompts_lose() -> None:
    found = ComposeReport(pictures=8, **CALLS).look(scene(merge()))
    assert found.problems() == []
    numbers = found.numbers
    assert (numbers["subject"], numbers["style"], numbers["both"], numbers["product"]) == (1.0, 1.0, 1.0, 1.0)
    assert (numbers["prior"], numbers["prior_loss"]) == (0.0, 1.0)  # the dogs are gone
    assert numbers["drift"] > 0.1
    assert numbers["both_low"] < 1.0


def test_ways_are_compared_on_the_same_rows_and_drawn_once() -> None:
    lens = ComposeReport(pictures=4, against=(merge(strength=0.5), merge(strength=0.25)), **CALLS)
    asked = scene(merge())
    table = next(panel for panel in lens.look(asked).panels if isinstance(panel, Table))
    assert [row[0] for row in table.rows] == ["edited", "merge 1", "merge 2"]
    drawn = len(DRAWN)
    assert drawn == 3 * 4 + 4 * 4  # three ways of the question; plain prompts before and three ways after
    again = lens.look(asked)
    assert len(DRAWN) == drawn
    assert again.problems() == []


def test_a_trigger_that_the_scene_does_not_say_is_warned_of() -> None:
    found = ComposeReport(pictures=2, **CALLS).look(scene(merge(), prompt="a cat"))
    assert any("do not say `sks`, `emjo`" in panel.text for panel in found.panels if isinstance(panel, Note))
    told = ComposeReport(pictures=2, **CALLS).look(scene(merge()))
    assert not any("do not say" in panel.text for panel in told.panels if isinstance(panel, Note))


def test_without_adapters_there_is_nothing_to_judge() -> None:
    with pytest.raises(AskError, match="and none is in use"):
        ComposeReport().look(scene())
    with pytest.raises(AskError, match="random:1 does not say what it draws"):
        ComposeReport().look(scene(merge()))
