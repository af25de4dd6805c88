"""The regions term: a share on paper, the right rows and words, and a gradient that moves attention inside."""

import dataclasses

import pytest
import torch

from tests.tiny import tiny_sd
from workbench.blocks.distill import Batch, Recipe, answer, distill
from workbench.blocks.groups import Trainee, select
from workbench.blocks.pools import Room, uniform
from workbench.blocks.terms.examples import Examples, Shown, Words, gathered
from workbench.blocks.terms.pulls import likeness
from workbench.blocks.terms.regions import Regions, _outside
from workbench.core.errors import AskError, MissingPart
from workbench.core.patch import Patch


def examples() -> Examples:
    return gathered(tiny_sd(), ["fox"], [], Words("sks"), drawings=(3, 0))


def test_the_share_outside_on_paper() -> None:
    """Two words of three, four places in a square; the mask is the left half."""
    seen = torch.tensor([[[0.2, 0.1, 0.7], [0.3, 0.3, 0.4], [0.0, 0.4, 0.6], [0.1, 0.6, 0.3]]])
    mask = torch.zeros(1, 8, 8)
    mask[:, :, :4] = 1
    words = torch.tensor([[1.0, 1.0, 0.0]])
    assert float(_outside(seen, words, mask)) == pytest.approx((0.6 + 0.7) / (0.3 + 0.6 + 0.4 + 0.7))
    assert float(_outside(seen, torch.zeros(1, 3), mask)) == 0.0


def test_words_are_marked_wherever_they_stand() -> None:
    term = Regions(tiny_sd(), examples())
    ids = tiny_sd().read(["a sks on sks", "a cat"]).ids
    marks = term._words(ids)
    assert marks[1].sum() == 0
    assert marks[0].sum() == 2 * len(term.phrase)


def loss_of(values: list[torch.Tensor] | None = None) -> tuple[float, list[torch.Tensor]]:
    bundle, found = tiny_sd(), examples()
    term = Regions(bundle, found, 1.0)
    with Patch(bundle) as patch:
        trainee = Trainee(patch, select(bundle, "attention"))
        if values is not None:
            for live, value in zip(trainee.live, values, strict=True):
                live.data = value
        term.attach(patch)
        room = Room(bundle, found.lessons(), trainee)
        states = Shown(found).fill(room, 0).draw(room, uniform, 6, torch.Generator().manual_seed(1))
        batch = Batch(room, states)
        answer(batch, [likeness(), term])
        loss = term(batch)
        gradients = torch.autograd.grad(loss, trainee.live, allow_unused=True)
        moved = [live.detach() - (0 if g is None else 5 * g) for live, g in zip(trainee.live, gradients, strict=True)]
    return float(loss.detach()), moved


def test_following_the_gradient_brings_attention_inside() -> None:
    before, moved = loss_of()
    after, _ = loss_of(moved)
    assert 0 < after < before < 1


def test_it_is_part_of_a_fit() -> None:
    bundle, found = tiny_sd(), examples()
    term = Regions(bundle, found, 0.5)
    recipe = Recipe(found.lessons(), [likeness(), term], Shown(found), "attention", 2, iterations=2, batch=2,
                    attach=term.attach)  # fmt: skip
    assert distill(bundle, recipe).tensors


def test_masks_are_needed_and_so_is_attention() -> None:
    bare = dataclasses.replace(examples(), masks=None)
    with pytest.raises(AskError, match="where the subject is"):
        Regions(tiny_sd(), bare)
    room = Room(tiny_sd(), examples().lessons())
    states = Shown(examples()).fill(room, 0).draw(room, uniform, 2, torch.Generator())
    with pytest.raises(MissingPart, match="attached"):
        Regions(tiny_sd(), examples())(Batch(room, states))
