"""Sheets of pictures, their distance, and a judge that says nothing where it cannot."""

import pytest
import torch

from tests.tiny import tiny_sd
from workbench.blocks.alongside import distance, judged, sheet
from workbench.core.ask import Ask
from workbench.core.scene import Scene
from workbench.methods.generate.diffuse import Diffuse


def test_rows_are_laid_out_and_filled_with_white() -> None:
    black, grey = torch.zeros(3, 2, 2, dtype=torch.uint8), torch.full((3, 2, 2), 90, dtype=torch.uint8)
    made = sheet([[black, grey], [grey]])
    assert made.shape == (4, 4, 3)
    assert made[0, 0, 0] == 0
    assert made[0, 3, 0] == 90
    assert made[3, 0, 0] == 90
    assert (made[2:, 2:] == 255).all()


def test_distance_by_hand() -> None:
    one, other = torch.zeros(1, 3, 1, 2, dtype=torch.uint8), torch.zeros(1, 3, 1, 2, dtype=torch.uint8)
    other[..., 1] = 10
    assert distance(one, other) == pytest.approx((100 / 2) ** 0.5)
    assert distance(one, one) == 0


def test_the_judge_speaks_of_what_it_knows_alone() -> None:
    images = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    assert judged(Scene(tiny_sd(), Diffuse(), (), Ask(prompts=["nothing at all xyz"])), images) == {}
    known = judged(Scene(tiny_sd(), Diffuse(), (), Ask(prompts=["a flat emoji of a cat"])), images)
    assert set(known) == {"object", "style"}
    assert 0 <= known["object"] <= 1
