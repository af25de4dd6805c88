"""Prompt match with a scorer that reads colours: known best and worst, and a twin in float64."""

import math

import pytest

from tests.methods.measure.scorers import colour_scorer, painted
from workbench.core.ask import Ask
from workbench.core.bundle import Bundle
from workbench.methods.measure.prompt_match import PromptMatch


def bundle() -> Bundle:
    return colour_scorer()


def test_the_right_picture_scores_one_and_the_opposite_less() -> None:
    best = PromptMatch().score(painted("red", "blue"), Ask(prompts=["red", "blue"]), bundle()).numbers
    worst = PromptMatch().score(painted("blue", "red"), Ask(prompts=["red", "blue"]), bundle()).numbers
    assert best["value"] == pytest.approx(1.0, abs=1e-6)
    assert worst["value"] < best["value"] - 1
    assert best["low"] == pytest.approx(1.0, abs=1e-6)


def test_it_equals_the_mean_cosine_by_hand() -> None:
    names = ["red", "blue", "green"]
    pictures = painted("red", "green", "green")
    report = PromptMatch().score(pictures, Ask(prompts=names), bundle())
    cosines = []
    for picture, name in zip(pictures.double(), names, strict=True):
        seen = [float(channel.mean()) / 127.5 - 1 for channel in picture]
        said = {"red": (1, -1, -1), "green": (-1, 1, -1), "blue": (-1, -1, 1)}[name]
        dot = sum(a * b for a, b in zip(seen, said, strict=True))
        cosines.append(dot / math.sqrt(sum(a * a for a in seen) * 3))
    assert report.numbers["value"] == pytest.approx(sum(cosines) / 3, abs=1e-6)
    assert report.numbers["low"] <= report.numbers["value"] <= report.numbers["high"]
    assert report.problems() == []


def test_the_order_of_the_pictures_does_not_matter() -> None:
    forth = PromptMatch().score(painted("red", "green"), Ask(prompts=["red", "blue"]), bundle()).numbers
    back = PromptMatch().score(painted("green", "red"), Ask(prompts=["blue", "red"]), bundle()).numbers
    assert forth == pytest.approx(back)
