"""The class term: 0 for equal texts, the cosine on paper, and a gradient into keys and values alone."""

import pytest
import torch

from tests.tiny import tiny_sd
from workbench.blocks.distill import Batch
from workbench.blocks.groups import Trainee, select
from workbench.blocks.pools import Room, States
from workbench.blocks.spans import tokens
from workbench.blocks.terms.meaning import Meaning
from workbench.core.errors import MethodError
from workbench.core.patch import Patch

PAIRS = [("a sks dog", "a dog"), ("the sks cat", "the cat")]
STATES = States(torch.zeros(1, 4, 2, 2), torch.tensor([10]), torch.tensor([0]))


def test_the_term_is_one_minus_the_mean_cosine() -> None:
    bundle = tiny_sd()
    with Patch(bundle) as patch:
        trainee = Trainee(patch, select(bundle, "xattn_v"))
        batch = Batch(Room(bundle, ({"caption": "a sks"},), trainee), STATES)
        found = Meaning(bundle, PAIRS, 2.0)(batch)
        total = 0.0
        for live in trainee.live:
            for pair in PAIRS:
                ends = []
                for text in pair:
                    state = bundle.read([text]).states[0, len(tokens(bundle, text)) + 1].double()
                    ends.append(live.detach().double() @ state)
                cosine = ends[0] @ ends[1] / (ends[0].norm() * ends[1].norm())
                total += float(1 - cosine) / len(PAIRS) / len(trainee.live)
        assert float(found.detach()) == pytest.approx(2 * total, rel=1e-5)
        assert float(Meaning(bundle, [("a dog", "a dog")])(batch).detach()) == pytest.approx(0, abs=1e-6)
        found.backward()
        assert all(live.grad is not None and live.grad.abs().max() > 0 for live in trainee.live)


def test_it_needs_projections_in_training() -> None:
    bundle = tiny_sd()
    term = Meaning(bundle, PAIRS)
    with pytest.raises(MethodError, match="keys and values"):
        term(Batch(Room(bundle, ({"caption": "a"},)), STATES))
