"""Scenes composed from resident sprites are those that the world draws."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from workbench.blocks.world import Jitter, Plan, World
from workbench.training.gpu_loop import whole
from workbench.training.stage import TOLERANCE, Codes, Stage, coded, spread


@pytest.fixture(scope="module")
def world() -> World:
    return whole(World.load(), 9)


@pytest.fixture(scope="module")
def stage(world: World) -> Stage:
    return Stage(world)


def test_pictures_and_coverages_are_the_worlds_within_the_tolerance(world: World, stage: Stage) -> None:
    jitter = Jitter(loose=0.4)
    plans = [world.plan(np.random.default_rng((1, i)), two=0.5, held_out=True, jitter=jitter) for i in range(120)]
    plans += [replace(plan, style="ink", background="black") for plan in plans[:4]]
    plans += [replace(plans[0], frames=((-0.4, 0.7, 0.9),) * len(plans[0].objects))]  # hangs over the edge
    pictures, covers = stage.compose(coded(world, plans))
    means = []
    for plan, picture, cover in zip(plans, pictures, covers, strict=True):
        true, _, shown = world.draw(plan)
        miss = ((picture.permute(1, 2, 0) + 1) * 127.5 - torch.from_numpy(true).float()).abs()
        assert miss.max() <= TOLERANCE, plan
        means.append(miss.mean().item())
        for mine, theirs in zip(cover, shown, strict=False):
            assert (mine - torch.from_numpy(theirs)).abs().max() <= TOLERANCE / 255
        assert len(shown) == 2 or cover[1].abs().max() == 0
    assert np.mean(means) < 0.1  # levels of 255


def test_black_ink_on_black_is_white(world: World, stage: Stage) -> None:
    plan = Plan((world.concepts[0],), "ink", "black", ((0.1, 0.1, 0.8),))
    pictures, covers = stage.compose(coded(world, [plan]))
    assert pictures[0].max() > 0.9
    assert torch.allclose(pictures[0, 0], 2 * covers[0, 0] - 1, atol=1e-5)


def test_the_filter_is_that_of_paper() -> None:
    """Four samples to two: centres 1 and 3, a triangle two wide: weights 3/4 3/4 1/4 0 before they are normed."""
    made = spread(torch.tensor([1]), torch.tensor([2]), 4, 4)[0]
    near = torch.tensor([3.0, 3, 1, 0]) / 7
    assert torch.allclose(made, torch.stack([torch.zeros(4), near, near.flip(0), torch.zeros(4)]))


def test_a_whole_side_is_only_shifted() -> None:
    assert torch.equal(spread(torch.tensor(0), torch.tensor(6), 6, 6), torch.eye(6))
    assert torch.equal(spread(torch.tensor(-2), torch.tensor(6), 6, 6), torch.eye(6).roll(-2, 0).tril(2).triu(2))


def test_no_side_draws_nothing() -> None:
    assert spread(torch.tensor(0), torch.tensor(0), 4, 4).abs().sum() == 0


def test_boxes_are_rounded_as_drawings_are(world: World) -> None:
    """A half goes to the even pixel, and what is drawn has at least one."""
    label = world.concepts[0]
    plans = [Plan((label,), "flat", "white", ((0.5 / 128, 1.5 / 128, 2.5 / 128),)),
             Plan((label, label), "flat", "red", ((0.0, 0.0, 0.001), (-0.5, 0.25, 0.5)))]  # fmt: skip
    codes = coded(world, plans)
    assert codes.boxes.tolist() == [[[0, 2, 2], [0, 0, 0]], [[0, 0, 1], [-64, 32, 64]]]
    assert codes.objects.tolist() == [[0, -1], [0, 0]]


def test_a_picture_does_not_depend_on_its_batch_mates(world: World, stage: Stage) -> None:
    codes = coded(world, [world.plan(np.random.default_rng(i), two=0.5) for i in range(6)])
    together, _ = stage.compose(codes)
    alone, _ = stage.compose(Codes(*(part[4:5] for part in codes)))
    assert torch.allclose(together[4:5], alone, atol=1e-5)
    assert alone.is_contiguous(memory_format=torch.channels_last)
