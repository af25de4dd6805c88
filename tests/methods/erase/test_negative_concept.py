"""A concept as negative prompt: exactly that at strength 1, a mixture of predictions below, nothing at 0."""

import pytest
import torch
from torch.testing import assert_close

from tests.tiny import tiny_sd, tiny_sdxl
from workbench.core.ask import Ask
from workbench.core.scene import Scene
from workbench.core.tape import Step
from workbench.methods.erase.negative_concept import NegativeConcept
from workbench.methods.generate.diffuse import Diffuse

ASK = Ask(prompts=["a cat", "the red dog"], seeds=[1, 2])
PLAIN = Diffuse(scheduler="ddim", steps=3, guidance=4.0)


@pytest.mark.parametrize("make", [tiny_sd, tiny_sdxl])
def test_at_full_strength_it_is_the_negative_prompt(make: object) -> None:
    scene = Scene(make(), PLAIN, (), ASK)  # type: ignore[operator]
    edited = scene.run(edits=(NegativeConcept(concepts=("cat", "dog")),))
    assert torch.equal(edited, scene.run(ask=ASK.but(negatives=("cat, dog",) * 2)))
    assert not torch.equal(edited, scene.run())


@torch.no_grad()
def test_in_between_the_first_step_is_the_mixture_of_both_guided_steps() -> None:
    def x0(negative: str, *edits: NegativeConcept) -> torch.Tensor:
        seen: list[Step] = []
        Scene(tiny_sd(), PLAIN, edits, ASK.but(negatives=(negative,) * 2)).run(tap=seen.append)
        return seen[0].x0

    # guidance and x0 are linear in the negative prediction
    mixed = x0("", NegativeConcept(concepts="cat", strength=0.3))
    assert_close(mixed, 0.7 * x0("") + 0.3 * x0("cat"), atol=1e-3, rtol=1e-3)


def test_without_guidance_nothing_changes() -> None:
    scene = Scene(tiny_sd(), Diffuse(steps=2, guidance=1.0), (), ASK)
    for strength in (0.5, 1.0):
        assert torch.equal(scene.run(edits=(NegativeConcept(concepts="cat", strength=strength),)), scene.run())


def test_it_has_no_weights_to_export() -> None:
    assert not NegativeConcept.fits()


def test_the_last_state_of_seed_1_is_this_one() -> None:
    seen: list[Step] = []
    Scene(tiny_sd(), PLAIN, (NegativeConcept(concepts="cat"),), ASK).run(tap=seen.append)
    assert seen[-1].x.abs().mean().item() == pytest.approx(2.66851, rel=1e-3)
