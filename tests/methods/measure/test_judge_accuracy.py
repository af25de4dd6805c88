"""Judge accuracy: right and wrong pictures, two objects, styles, prompts of another world."""

import pytest
import torch

from tests.methods.measure.scorers import colour_judge, painted
from workbench.core.ask import Ask
from workbench.core.errors import AskError, MissingPart
from workbench.methods.measure.judge_accuracy import JudgeAccuracy, halves
from workbench.ops.stats import wilson

OBJECTS, STYLES = ["cat", "dog", "fox"], ["flat", "noto"]


def score(names: list[str], prompts: list[str], none: bool = True) -> dict[str, float]:
    report = JudgeAccuracy().score(painted(*names), Ask(prompts=prompts), colour_judge(OBJECTS, STYLES, none))
    assert report.problems() == []
    return dict(report.numbers)


@pytest.mark.parametrize("none", [True, False])
def test_right_wrong_and_half(none: bool) -> None:
    prompts = ["a cat", "a dog"]
    assert score(["red", "green"], prompts, none)["value"] == 1.0
    assert score(["green", "red"], prompts, none)["value"] == 0.0
    half = score(["red", "red"], prompts, none)
    assert half["value"] == 0.5
    assert (half["low"], half["high"]) == wilson(1, 2)


def test_a_picture_of_nothing_is_wrong() -> None:
    assert score(["blue"], ["a cat"])["value"] == 0.0


def test_two_objects_are_right_when_both_are_likeliest() -> None:
    assert score(["red"], ["a cat and a dog"], none=False)["value"] == 1.0  # red 1, green -1, fox -5
    assert score(["red"], ["a cat and a fox"], none=False)["value"] == 0.0


def test_styles_count_where_they_are_named() -> None:
    numbers = score(["red", "red", "red"], ["a flat emoji of a cat", "a noto emoji of a cat", "a cat"])
    assert numbers["style"] == 0.5
    assert (numbers["style_low"], numbers["style_high"]) == wilson(1, 2)
    assert "style" not in score(["red"], ["a cat"])


def test_prompts_of_another_world_are_passed_over_or_refused() -> None:
    assert score(["red", "blue"], ["a cat", "xyzzy"])["count"] == 1
    with pytest.raises(AskError, match="no prompt names one"):
        score(["red"], ["xyzzy"])


def test_a_model_that_is_no_judge_is_refused() -> None:
    judge = colour_judge(OBJECTS, STYLES).open("emoji-judge")
    with pytest.raises(MissingPart, match="answers 9 numbers for 3 objects and 2 styles"):
        halves(torch.zeros(1, 9), judge)
