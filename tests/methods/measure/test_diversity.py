"""Diversity: known best and worst, a twin by double loops, independence of order."""

import math

import pytest
import torch

from tests.methods.measure.scorers import colour_scorer, painted
from workbench.core.ask import Ask
from workbench.core.errors import AskError
from workbench.methods.measure.diversity import Diversity


def score(names: list[str], prompts: list[str], **settings: object) -> dict[str, float]:
    report = Diversity(**settings).score(painted(*names), Ask(prompts=prompts), colour_scorer())
    assert report.problems() == []
    return dict(report.numbers)


def test_equal_pictures_have_none_and_different_ones_have_some() -> None:
    same, other = score(["red"] * 3, ["x"] * 3), score(["red", "green", "blue"], ["x"] * 3)
    assert same["value"] == same["low"] == same["high"] == 0.0
    assert other["value"] == pytest.approx(4 / 3)  # cosine of (1, -1, -1) and (-1, 1, -1) is -1/3
    assert other["low"] <= other["value"] <= other["high"]


def test_it_equals_double_loops_over_prompts_and_pairs() -> None:
    names, prompts = ["red", "green", "red", "blue", "red"], ["x", "y", "x", "x", "y"]
    colours = {"red": (1, -1, -1), "green": (-1, 1, -1), "blue": (-1, -1, 1)}
    means = []
    for prompt in ("x", "y"):
        mine = [colours[n] for n, p in zip(names, prompts, strict=True) if p == prompt]
        pairs = [(a, b) for i, a in enumerate(mine) for b in mine[:i]]
        means.append(sum(1 - sum(p * q for p, q in zip(a, b, strict=True)) / 3 for a, b in pairs) / len(pairs))
    assert score(names, prompts)["value"] == pytest.approx(sum(means) / 2)


def test_the_order_does_not_matter_and_lone_prompts_are_passed_over() -> None:
    forth = score(["red", "green", "blue", "red"], ["x", "x", "x", "alone"])
    back = score(["red", "blue", "green", "red"], ["alone", "x", "x", "x"])
    assert forth["value"] == pytest.approx(back["value"])
    assert math.isclose(forth["low"], back["low"])


def test_one_pair_says_nothing_about_its_interval() -> None:
    numbers = score(["red", "green"], ["x", "x"])
    assert (numbers["low"], numbers["high"]) == (0.0, 2.0)


def test_prompts_that_come_once_are_refused_unless_all_are_compared() -> None:
    with pytest.raises(AskError, match="none of the 2 prompts comes twice"):
        score(["red", "green"], ["x", "y"])
    assert score(["red", "green"], ["x", "y"], within="all")["value"] == pytest.approx(4 / 3)


def test_the_global_generator_is_not_touched() -> None:
    before = torch.get_rng_state()
    score(["red", "green", "blue"], ["x"] * 3)
    assert torch.equal(before, torch.get_rng_state())
