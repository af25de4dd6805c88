"""Masked LoRA: whole boxes, halves and swaps; masks found in attention; words gate text tokens."""

import re

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.contract.stage import ASK, drawn, drawn_with
from tests.tiny import tiny_sd
from workbench.blocks.adapters import random_adapter
from workbench.blocks.regions import Box
from workbench.core.ask import Ask
from workbench.core.bundle import Condition
from workbench.core.catalog import method
from workbench.core.errors import AskError
from workbench.core.method import Edit
from workbench.core.patch import Patch
from workbench.core.scene import using
from workbench.core.tape import Step
from workbench.methods.compose.masked_lora import MaskedLora, shares

TWO = ("random:1", "random:2")
WHOLE, LEFT, RIGHT = (0.0, 0.0, 1.0, 1.0), (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)


@torch.no_grad()
def predicted(*edits: Edit, prompt: str = "a cat") -> Tensor:
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with using(tiny_sd(), *edits) as bundle:
        cond = Condition(bundle.read([prompt]), (0,), ("cond",), Step(1, 4, 500.0))
        return bundle.predict(x, torch.full((1,), 500), cond)


def test_a_box_around_everything_is_no_mask() -> None:
    alone = predicted(method("lora", adapters=TWO[:1], weights=(0.8,)))  # type: ignore[arg-type]
    made = predicted(MaskedLora(adapters=TWO[:1], weights=(0.8,), regions=[WHOLE]))
    assert torch.equal(made, alone)


@pytest.mark.parametrize("boxes", [(LEFT, RIGHT), (RIGHT, LEFT)])
@torch.no_grad()
def test_every_matrix_answers_each_place_with_its_own_adapter(boxes: tuple[Box, Box]) -> None:
    bundle, said = tiny_sd(), "a cat on the dog"
    site = bundle.sites("cross-attention", 0)[0]
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    x, lows = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), [
        random_adapter(bundle, name).low_rank for name in TWO]  # fmt: skip
    with using(bundle, MaskedLora(adapters=TWO, regions=boxes, triggers=("cat", "dog"))), Patch(bundle) as patch:
        for handle in (site.query, site.key):
            patch.hook(handle.owner, lambda m, a, k, out, key=handle.key: seen.update({key: (a[0], out)}))
        cond = Condition(bundle.read([said]), (0,), ("cond",), Step(1, 4, 500.0))
        bundle.predict(x, torch.full((1,), 500), cond)
    side = torch.arange(64).reshape(8, 8) % 8 < 4  # the left half of the grid, row by row
    places = [side.flatten(), ~side.flatten()][:: 1 if boxes[0] == LEFT else -1]
    words = torch.zeros(2, 77) + 0.5  # start, a, cat, on, the, dog
    words[:, 2], words[:, 5] = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    for handle, gates in ((site.query, [place.float() for place in places]), (site.key, list(words))):
        given, made = seen[handle.key]
        slow = given @ handle.weight.T
        for low, gate in zip(lows, gates, strict=True):
            slow = slow + gate[None, :, None] * (given @ low.dense(handle.key).T)
        assert_close(made, slow, atol=1e-5, rtol=1e-5)


def test_an_adapter_acts_on_its_own_word_and_shares_the_rest() -> None:
    columns = torch.zeros(1, 5, 2)
    columns[0, 1, 0], columns[0, 3:5, 1] = 1.0, 0.5
    assert shares(columns)[0].T.tolist() == [[0.5, 1.0, 0.5, 0.0, 0.0], [0.5, 0.0, 0.5, 1.0, 1.0]]


def test_masks_from_attention_part_the_picture_after_the_watch() -> None:
    edit = MaskedLora(adapters=TWO, triggers=("cat", "dog"), until=0.3, threshold=0.0)
    ask = Ask(prompts=["a cat on the dog"], seeds=[3])
    made = drawn_with(tiny_sd(), edit, ask=ask)
    everywhere = drawn_with(tiny_sd(), edit.but(until=1.0), ask=ask)
    assert torch.equal(made.states[0], everywhere.states[0])  # the first step is watched in either case
    assert not torch.equal(made.states[-1], everywhere.states[-1])
    assert drawn_with(tiny_sd(), edit, ask=ask).equals(made)  # the run before is forgotten


def test_an_adapter_whose_word_is_not_said_does_not_act_once_masks_are_known() -> None:
    ask = Ask(prompts=["the red"], seeds=[3])
    both_silent = MaskedLora(adapters=TWO, triggers=("cat", "dog"), until=0.01)
    other = both_silent.but(adapters=("random:3", "random:4"))
    first, second = (drawn_with(tiny_sd(), edit, ask=ask) for edit in (both_silent, other))
    plain = drawn(tiny_sd(), ask)
    assert not torch.equal(first.states[0], plain.states[0])  # while attention is watched all act
    made = [drawn_with(tiny_sd(), edit.but(adapters=("random:1", name), triggers=("red", "dog")), ask=ask)
            for edit, name in ((both_silent, "random:2"), (both_silent, "random:5"))]  # fmt: skip
    assert not torch.equal(made[0].states[-1], second.states[-1])


def test_what_does_not_fit_is_refused_in_a_line() -> None:
    with pytest.raises(AskError, match=re.escape("[0.5, 0.0, 1.2, 1.0], which reaches outside of the picture")):
        MaskedLora(adapters=TWO, regions=[LEFT, (0.5, 0.0, 1.2, 1.0)])
    with pytest.raises(AskError, match="which is empty"):
        MaskedLora(adapters=TWO[:1], regions=[(0.5, 0.0, 0.5, 1.0)])
    for settings, line in (
        ({"regions": [LEFT]}, "there are 2 adapters and 1 regions"),
        ({"triggers": ["cat"]}, "there are 2 adapters and 1 triggers"),
        ({}, "random:1 names no trigger word.*Set triggers, one an adapter, or give regions"),
    ):
        with pytest.raises(AskError, match=line):
            drawn_with(tiny_sd(), MaskedLora(adapters=TWO, **settings), ask=ASK.row(0))


def test_prompts_of_a_batch_have_their_own_masks() -> None:
    edit = MaskedLora(adapters=TWO, triggers=("cat", "dog"), until=0.3)
    ask = Ask(prompts=["a cat on the dog", "the dog"], seeds=[3, 4])
    together = drawn_with(tiny_sd(), edit, ask=ask)
    for row in range(2):
        alone = drawn_with(tiny_sd(), edit, ask=ask.row(row))
        assert_close(alone.states[-1][0], together.states[-1][row], atol=1e-4, rtol=1e-3)
