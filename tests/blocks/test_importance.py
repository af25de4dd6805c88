"""Importance of parameters: the mean of single gradients' squares, and masks of the largest."""

import pytest
import torch
from torch.testing import assert_close

from tests.contract.stage import unchanged
from tests.tiny import tiny_sd
from workbench.blocks.distill import TRUTH, Pull, Recipe, student
from workbench.blocks.groups import select
from workbench.blocks.importance import importance, largest, shared
from workbench.blocks.pools import Pictures, Room, uniform
from workbench.ops.noise import row_generator

RECIPE = Recipe(
    ({"kept": "a cat"},),
    (Pull(student("kept"), TRUTH),),
    Pictures(2, 2, roles=("kept",)),
    "xattn_v",
    iterations=3,
    batch=1,
)


def test_it_is_the_mean_of_squared_gradients_of_one_example_each() -> None:
    bundle = tiny_sd()
    with unchanged(bundle, "after measuring", deep=True):
        squares, means = importance(bundle, RECIPE), importance(bundle, RECIPE, "absolute")
    room = Room(bundle, RECIPE.lessons)
    pool = RECIPE.source.fill(room, 0)
    handles = select(bundle, "xattn_v")
    gradients: list[tuple[torch.Tensor, ...]] = []
    for index in range(3):
        states = pool.draw(room, uniform, 1, row_generator(0, "iteration", index))
        weights = [handle.weight for handle in handles]
        try:
            for weight in weights:
                weight.requires_grad_(True)
            made = bundle.predict(states.x, states.t, room.cond(torch.tensor([1])))
            gradients.append(torch.autograd.grad((made - states.truth).square().mean(), weights))
        finally:
            for weight in weights:
                weight.requires_grad_(False)
    for place, handle in enumerate(handles):
        three = torch.stack([grads[place] for grads in gradients])
        assert_close(squares[handle.key], three.square().mean(0), atol=1e-9, rtol=1e-3)
        assert_close(means[handle.key], three.mean(0).abs(), atol=1e-7, rtol=1e-3)


@pytest.mark.parametrize(("share", "lowest", "chosen"), [(0.5, False, [1, 0, 1, 0]), (0.25, True, [0, 0, 0, 1]),
                                                         (0.01, False, [1, 0, 0, 0])])  # fmt: skip
def test_a_share_of_the_entries_is_chosen_on_paper(share: float, lowest: bool, chosen: list[int]) -> None:
    scores = {"w": torch.tensor([[3.0, 1.0], [2.0, 0.0]])}
    assert largest(scores, share, lowest)["w"].flatten().tolist() == chosen


def test_ties_do_not_enlarge_the_share() -> None:
    assert largest({"w": torch.zeros(10)}, 0.3)["w"].sum() == 3


def test_what_all_masks_choose() -> None:
    masks = [{"w": torch.tensor([1.0, 1.0, 0.0])}, {"w": torch.tensor([1.0, 0.0, 0.0])}]
    assert shared(masks)["w"].tolist() == [1, 0, 0]
