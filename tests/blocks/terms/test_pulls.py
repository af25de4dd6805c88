"""The pulls: who is asked in which role, and what they are worth on paper."""

import torch

from tests.tiny import tiny_sd
from workbench.blocks.distill import Batch
from workbench.blocks.pools import Room, States
from workbench.blocks.terms.pulls import contrast, likeness, prior

LESSONS = ({"caption": "a sks", "bare": "a cat"}, {"prior": "a dog"})


def batch() -> Batch:
    truth = torch.full((2, 4, 2, 2), 3.0)
    states = States(torch.zeros(2, 4, 2, 2), torch.tensor([10, 20]), torch.tensor([0, 1]), truth)
    found = Batch(Room(tiny_sd(), LESSONS), states)
    found.still["truth", ""] = truth
    found.still["teacher", "bare"] = torch.full((2, 4, 2, 2), 1.0)
    for role, value in (("caption", 1.0), ("bare", 2.0), ("prior", 5.0)):
        found.live[role] = torch.full((2, 4, 2, 2), value)
    return found


def test_each_pull_counts_the_rows_that_have_its_role() -> None:
    assert float(likeness()(batch())) == 2.0  # (1 - 3)^2 in one of two rows
    assert float(prior(0.5)(batch())) == 1.0  # 0.5 (5 - 3)^2 in the other
    assert float(contrast(3.0)(batch())) == 1.5  # 3 (2 - 1)^2 in one of two


def test_only_the_contrast_asks_the_untrained_network() -> None:
    asked = {name: term.goal.roles("teacher") for name, term in
             (("likeness", likeness()), ("prior", prior(1.0)), ("contrast", contrast(1.0)))}  # fmt: skip
    assert asked == {"likeness": (), "prior": (), "contrast": ("bare",)}
