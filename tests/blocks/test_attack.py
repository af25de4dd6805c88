"""Parts of attacks: success rates by hand, learned tokens in the place of words, the denoising error by hand."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from tests.methods.measure.painter import DRAWN, Forget, painted_scene
from tests.tiny import tiny_sd, tiny_sdxl
from workbench.blocks.attack import Trial, aim, learned, lesson, misfit, place, rates, tables, told
from workbench.core.ask import Ask
from workbench.core.errors import AskError, MissingPart
from workbench.core.patch import Patch, differences, fingerprint
from workbench.ops.stats import wilson

ASK = Ask(prompts=["a cat"], seeds=[3])


def test_pre_and_post_are_apart_and_their_sum_is_asr() -> None:
    trials = [Trial("p", i, pre, hit) for i, (pre, hit) in enumerate([(True, True), (True, False), (False, True),
                                                                     (False, False)])]  # fmt: skip
    found = rates(trials, 0.9)
    assert (found["pre"], found["post"], found["asr"]) == (0.5, 0.25, 0.75)
    assert (found["asr_low"], found["asr_high"]) == wilson(3, 4)
    assert found["unedited"] == 0.9


def test_trials_are_drawn_once_by_the_unedited_model() -> None:
    scene = painted_scene(Forget())
    target = aim(scene, (), 3, "emoji-judge")
    assert target.about.word == "cat"
    assert target.ask.seeds == (5, 6, 7)
    assert target.base.shape == (3, 3, 8, 8)
    assert target.eye.shows(target.before, target.about).all()
    aim(scene, (), 3, "emoji-judge")
    assert len(DRAWN) == 3
    with pytest.raises(AskError, match="no answer for 'rocket'"):
        aim(scene, ("rocket",), 3, "emoji-judge")


@pytest.mark.parametrize("make", [tiny_sd, tiny_sdxl])
def test_a_tokens_own_rows_in_its_place_read_as_the_token_itself(make: object) -> None:
    bundle = make()  # type: ignore[operator]
    before = fingerprint(bundle)
    word, token = place(bundle, ["a cat"])
    rows = [table.weight.detach()[[token, token]] for table in tables(bundle)]
    plain = bundle.read([f"{word} {word} cat", "a cat"])
    with learned(bundle, token, lambda: rows):
        again = bundle.read([f"{word} {word} cat", "a cat"])
    assert torch.equal(plain.states, again.states)
    with learned(bundle, token, lambda: [2 * row for row in rows]):
        other = bundle.read([f"{word} {word} cat", "a cat"])
    assert not torch.equal(plain.states[0], other.states[0])
    assert torch.equal(plain.states[1], other.states[1])
    assert differences(before, fingerprint(bundle)) == []


def test_gradients_reach_the_learned_rows_and_nothing_else() -> None:
    bundle = tiny_sd()
    word, token = place(bundle)
    rows = [table.weight.detach()[[token]].clone().requires_grad_() for table in tables(bundle)]
    clean, t, noise = lesson(torch.zeros(1, *bundle.shapes.latent), 2, 0, 0)
    with learned(bundle, token, lambda: rows):
        misfit(bundle, told(bundle, f"a {word}", 2, ASK), clean, t, noise).backward()
    assert rows[0].grad is not None
    assert rows[0].grad.abs().sum() > 0
    assert all(p.grad is None for part in bundle.parts.values() for p in part.parameters())


def test_a_place_is_a_token_that_no_prompt_holds_and_must_come_as_often_as_rows() -> None:
    bundle = tiny_sd()
    word, token = place(bundle, ["q z x"])
    assert word not in ("q", "z", "x")
    with learned(bundle, token, lambda: [tables(bundle)[0].weight[:2]]), pytest.raises(AskError, match="all 2 learned"):
        bundle.read([f"{word} cat"])
    with pytest.raises(MissingPart, match="no text encoder"):
        tables(replace(bundle, parts={"unet": bundle.parts["unet"]}))


def test_the_error_is_that_of_a_perfect_network_by_hand() -> None:
    """On a network that says nothing, the error of noise prediction is the mean square of the noise."""
    bundle = tiny_sd()
    clean, t, noise = lesson(torch.ones(1, *bundle.shapes.latent), 4, 1, 0)
    with Patch(bundle) as patch:
        patch.wrap("predict", lambda predict: lambda x, t, cond: torch.zeros_like(x))
        found = misfit(bundle, told(bundle, "a cat", 4, ASK), clean, t, noise)
    total = sum(float(v) ** 2 for v in noise.double().flatten()) / noise.numel()
    assert float(found) == pytest.approx(total, rel=1e-5)


def test_timesteps_are_spread_over_the_schedule_and_follow_from_the_seed() -> None:
    clean = torch.randn(3, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    first, again, other = (lesson(clean, 4, *at) for at in ((1, 2), (1, 2), (1, 3)))
    for a, b in zip(first, again, strict=True):
        assert_close(a, b)
    assert not torch.equal(first[2], other[2])
    assert (first[1] // 250).tolist() == [0, 1, 2, 3]
