"""CLoRA: branches that agree are plain sampling, masks cover everything, and latents follow the loss."""

import re

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.contract.stage import ASK, drawn_with
from tests.tiny import tiny_sd
from workbench.blocks.branches import Branches
from workbench.core.ask import Ask
from workbench.core.bundle import Condition
from workbench.core.catalog import method
from workbench.core.errors import AskError
from workbench.core.method import Edit
from workbench.core.patch import Patch
from workbench.core.scene import using
from workbench.core.tape import Step
from workbench.methods.compose.clora import Clora, _Fusion

TWO = ("random:1", "random:2")
SAID = "a cat on the dog"


def state(index: int = 0) -> tuple[Tensor, Tensor, Step]:
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return x, torch.full((1,), 500), Step(index, 4, 500.0, x)


@torch.no_grad()
def predicted(*edits: Edit, prompt: str = SAID, index: int = 3) -> Tensor:
    x, t, step = state(index)
    with using(tiny_sd(), *edits) as bundle:
        return bundle.predict(x, t, Condition(bundle.read([prompt]), (0,), ("cond",), step))


def test_the_same_adapter_in_every_branch_and_masks_everywhere_are_that_adapter() -> None:
    alone = predicted(method("lora", adapters=TWO[:1]))  # type: ignore[arg-type]
    edit = Clora(adapters=(TWO[0], TWO[0]), triggers=("cat", "dog"), threshold=0.0, step=0.0)
    assert_close(predicted(edit), alone, atol=2e-5, rtol=0)  # a batch of three instead of one


def test_without_weight_it_is_plain_sampling() -> None:
    edit = Clora(adapters=TWO, weights=(0.0, 0.0), triggers=("cat", "dog"), step=0.0)
    assert_close(predicted(edit), predicted(), atol=2e-5, rtol=0)


def test_boxes_blend_the_adapters_own_predictions() -> None:
    left, right = (0.0, 0.0, 0.5, 0.5), (0.5, 0.0, 1.0, 0.5)
    edit = Clora(adapters=TWO, triggers=("cat", "dog"), regions=(left, right), step=0.0)
    made, plain = predicted(edit), predicted()
    one, two = (predicted(method("lora", adapters=(name,))) for name in TWO)  # type: ignore[arg-type]
    assert_close(made[..., :4, :4], one[..., :4, :4], atol=2e-5, rtol=0)
    assert_close(made[..., :4, 4:], two[..., :4, 4:], atol=2e-5, rtol=0)
    assert_close(made[..., 4:, :], plain[..., 4:, :], atol=2e-5, rtol=0)  # outside of all boxes no adapter acts


def test_masks_hold_something_everywhere() -> None:
    edit = Clora(adapters=TWO, triggers=("cat", "dog"), threshold=0.6)
    x, t, step = state()
    with Patch(tiny_sd()) as patch, torch.no_grad():
        fusion = _Fusion(edit, tiny_sd(), ("cat", "dog"))
        fusion.watch.attach(patch)
        with fusion.watch.seeing() as seen:
            cond = Condition(tiny_sd().read([SAID]), (0,), ("cond",), step)
            fusion._all(tiny_sd().predict, x, t, cond)
        masks = fusion._masks(seen, (8, 8))
    assert masks.shape == (3, 1, 1, 8, 8)
    assert float(masks.sum(0).min()) >= 1.0
    assert torch.equal(masks[0] > 0, masks[1:].sum(0) == 0)


def test_latents_move_against_the_gradient_of_the_loss() -> None:
    edit = Clora(adapters=TWO, triggers=("cat", "dog"), step=0.5, guide=1.0)
    x, t, step = state()
    with Patch(tiny_sd()) as patch:
        fusion = _Fusion(edit, tiny_sd(), ("cat", "dog"))
        fusion.watch.attach(patch)
        predict = tiny_sd().seams.predict
        cond = Condition(tiny_sd().read([SAID]), (0,), ("cond",), step)

        def loss(z: Tensor) -> float:
            with torch.no_grad(), fusion.watch.seeing() as seen:
                fusion._all(predict, z, t, cond)
            return float(fusion._loss(torch.stack([fusion._maps(seen, b) for b in range(3)], 1)[0]))

        with torch.no_grad():
            moved = fusion._guided(predict, x, t, cond)
        assert fusion.shift is not None
        slope = fusion.shift / 0.5
        near = x - 1e-2 * slope / slope.norm()
        expected = -1e-2 * float(slope.norm())
        assert loss(near) - loss(x) == pytest.approx(expected, rel=0.1)  # a first-order step
        assert_close(moved, x - fusion.shift)


def test_a_moved_latent_is_what_the_run_goes_on_from() -> None:
    still, moved = (
        drawn_with(
            tiny_sd(), Clora(adapters=TWO, triggers=("cat", "dog"), step=size), ask=Ask(prompts=[SAID], seeds=[3])
        )
        for size in (0.0, 3.0)
    )
    assert not torch.equal(still.states[0], moved.states[0])
    assert torch.isfinite(moved.states[-1]).all()


def test_every_branch_reads_its_own_words() -> None:
    edit = Clora(adapters=TWO, triggers=("cat", "dog"), classes=("red", "flat"))
    with Patch(tiny_sd()) as patch:
        fusion = _Fusion(edit, tiny_sd(), ("cat", "dog"))
        patch.wrap("read", fusion.reworded.wrap)
        cond = Condition(tiny_sd().read([SAID]), (0,), ("cond",))
        for branch, text in enumerate(("a red on the flat", "a cat on the flat", "a red on the dog")):
            told = fusion.reworded.told(branch, cond)
            assert torch.equal(told.text.states, tiny_sd().read([text]).states)
    assert isinstance(fusion.branches, Branches)


def test_swapped_words_change_the_picture() -> None:
    ask = Ask(prompts=[SAID], seeds=[3])
    edit = Clora(adapters=TWO, triggers=("cat", "dog"), step=0.0)
    assert not drawn_with(tiny_sd(), edit, ask=ask).equals(
        drawn_with(tiny_sd(), edit.but(triggers=("dog", "cat")), ask=ask)
    )


def test_what_does_not_fit_is_refused_in_a_line() -> None:
    with pytest.raises(AskError, match=re.escape("[-0.1, 0.0, 1.0, 1.0], which reaches outside of the picture")):
        Clora(adapters=TWO, regions=[(-0.1, 0.0, 1.0, 1.0), (0.0, 0.0, 1.0, 1.0)])
    for settings, line in (({"classes": ["cat"], "triggers": ["a", "b"]}, "2 adapters and 1 classes"),
                           ({}, "random:1 names no trigger word")):  # fmt: skip
        with pytest.raises(AskError, match=line):
            drawn_with(tiny_sd(), Clora(adapters=TWO, **settings), ask=ASK.row(0))


def test_a_style_acts_in_every_branch() -> None:
    edit = Clora(adapters=TWO, weights=(0.0, 0.0), triggers=("cat", "dog"), everywhere=("random:3",), step=0.0)
    alone = predicted(method("lora", adapters=("random:3",)))  # type: ignore[arg-type]
    assert_close(predicted(edit), alone, atol=2e-5, rtol=0)
