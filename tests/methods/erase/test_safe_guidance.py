"""Safe latent diffusion: the equations element by element, warm-up, momentum, and that the weights are not touched."""

import pytest
import torch
from torch.testing import assert_close

from tests.tiny import tiny_sd
from workbench.core.ask import Ask
from workbench.core.patch import Patch
from workbench.core.scene import Scene
from workbench.core.tape import Step
from workbench.methods.erase.safe_guidance import SafeGuidance
from workbench.methods.generate.diffuse import Diffuse

ASK = Ask(prompts=["a cat", "the red dog"], seeds=[1, 2])
EDIT = SafeGuidance(concepts="cat", warmup=0.5, scale=3.0, threshold=0.2, momentum=0.5, memory=0.6)


def test_the_steering_equals_the_equations_in_float64() -> None:
    draw = torch.Generator().manual_seed(0)
    p, n, s, m = (torch.randn(2, 3, 4, generator=draw, dtype=torch.float64) for _ in range(4))
    nu, after = EDIT.steer(p, n, s, m)
    pairs = zip(*(v.flatten().tolist() for v in (p, n, s, m, nu, after)), strict=True)
    for a, b, c, past, made, later in pairs:
        mu = min(abs(3.0 * (a - c)), 1.0) if a - c < 0.2 else 0.0
        slow = mu * (c - b) + 0.5 * past
        assert made == pytest.approx(slow, abs=1e-12)
        assert later == pytest.approx(0.6 * past + 0.4 * slow, abs=1e-12)
    assert_close(EDIT.steer(p, n, s, None)[0], EDIT.steer(p, n, s, torch.zeros_like(p))[0])


def test_far_from_the_concept_nothing_is_steered() -> None:
    one = torch.ones(1, 1)
    nu, m = EDIT.steer(one, 0 * one, -one, None)
    assert not nu.any()
    assert not m.any()


@torch.no_grad()
def test_during_the_warm_up_the_run_is_the_plain_one_and_afterwards_it_is_not() -> None:
    def states(*edits: SafeGuidance) -> list[torch.Tensor]:
        seen: list[torch.Tensor] = []
        Scene(tiny_sd(), Diffuse(scheduler="ddim", steps=4), edits, ASK).run(tap=lambda step: seen.append(step.x))
        return seen

    plain, steered = states(), states(EDIT)
    for index in range(2):
        assert_close(steered[index], plain[index], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(steered[2], plain[2], atol=1e-3)


@torch.no_grad()
def test_momentum_is_forgotten_between_runs() -> None:
    with Patch(tiny_sd()) as patch:
        EDIT.but(warmup=0.0).patch(tiny_sd(), EDIT.fit(tiny_sd(), lambda step: None), patch)
        one, other = (Diffuse(steps=3).sample(tiny_sd(), ASK, lambda step: None) for _ in range(2))
    assert torch.equal(one, other)


def test_without_guidance_there_is_nothing_to_steer() -> None:
    scene = Scene(tiny_sd(), Diffuse(steps=2, guidance=1.0), (EDIT,), ASK)
    assert torch.equal(scene.run(), scene.run(edits=()))


def test_it_has_no_weights_to_export() -> None:
    assert not SafeGuidance.fits()
    assert EDIT.fit(tiny_sd(), lambda step: None).kind == "none"


def test_the_third_state_of_seed_1_is_this_one() -> None:
    seen: list[Step] = []
    Scene(tiny_sd(), Diffuse(scheduler="ddim", steps=3), (EDIT.but(warmup=0.0),), ASK).run(tap=seen.append)
    assert seen[-1].x.abs().mean().item() == pytest.approx(2.72259, rel=1e-3)
