"""The equations of few-step students: on paper, as loops in float64, and against diffusers where it has them."""

import math

import pytest
import torch
from diffusers import DDIMScheduler, LCMScheduler
from torch import Tensor
from torch.testing import assert_close

from workbench.ops import consistency as flow


def level(*bars: float) -> Tensor:
    return torch.tensor(bars, dtype=torch.float64)[:, None, None, None]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_a_velocity_means_the_picture_and_the_noise_it_was_made_of() -> None:
    clean, noise, bar = draw(2, 1, 2, 2), draw(2, 1, 2, 2, seed=1), level(0.9, 0.3)
    x = bar.sqrt() * clean + (1 - bar).sqrt() * noise
    back = flow.parts(x, bar.sqrt() * noise - (1 - bar).sqrt() * clean, bar)
    assert_close(back[0], clean, atol=1e-12, rtol=0)
    assert_close(back[1], noise, atol=1e-12, rtol=0)


def test_a_jump_is_a_step_of_ddim() -> None:
    scheduler = DDIMScheduler(prediction_type="v_prediction", clip_sample=False, steps_offset=0)
    scheduler.set_timesteps(10)
    x, v = draw(1, 2, 3, 3), draw(1, 2, 3, 3, seed=1)
    there = scheduler.step(v, 600, x).prev_sample
    bars = scheduler.alphas_cumprod.double()
    assert_close(flow.jump(x, v, level(float(bars[600])), level(float(bars[500]))), there, atol=1e-6, rtol=0)


def test_the_velocity_between_two_states_leads_from_one_to_the_other() -> None:
    x, end, bar, to = draw(2, 1, 2, 2), draw(2, 1, 2, 2, seed=1), level(0.1, 0.6), level(0.5, 1.0)
    v = flow.velocity_between(x, end, bar, to)
    assert_close(flow.jump(x, v, bar, to), end, atol=1e-12, rtol=0)


def test_two_quarter_turns_of_one_number_are_a_half_turn() -> None:
    """On paper: the picture 3 and no noise. At any level x = a 3, and the true velocity is -s 3, so all jumps agree."""
    angles = (1.2, 0.7, 0.2)
    bars = tuple(level(math.cos(p) ** 2) for p in angles)
    at = [torch.full((1, 1, 1, 1), 3 * math.cos(p), dtype=torch.float64) for p in angles]
    v = flow.doubled(at[0], bars, lambda x, half: torch.full_like(x, -3 * math.sin(angles[half])))
    assert_close(v, torch.full_like(v, -3 * math.sin(angles[0])), atol=1e-12, rtol=0)


def test_doubled_is_two_jumps_by_hand() -> None:
    bars, x = (level(0.05), level(0.4), level(0.9)), draw(1, 1, 1, 2)
    spoken = [draw(1, 1, 1, 2, seed=5), draw(1, 1, 1, 2, seed=6)]
    v = flow.doubled(x, bars, lambda rows, half: spoken[half])
    for i in range(2):
        here = float(x[0, 0, 0, i])
        for half in range(2):
            a, s = math.sqrt(float(bars[half])), math.sqrt(1 - float(bars[half]))
            said = float(spoken[half][0, 0, 0, i])
            clean, noise = a * here - s * said, s * here + a * said
            here = math.sqrt(float(bars[half + 1])) * clean + math.sqrt(1 - float(bars[half + 1])) * noise
        turn = math.acos(math.sqrt(float(bars[0]))) - math.acos(math.sqrt(float(bars[2])))
        slow = (math.cos(turn) * float(x[0, 0, 0, i]) - here) / math.sin(turn)
        assert float(v[0, 0, 0, i]) == pytest.approx(slow, abs=1e-9)


@pytest.mark.parametrize("t", [0, 1, 19, 999])
def test_the_boundary_is_that_of_diffusers(t: int) -> None:
    skip, out = flow.boundary(torch.tensor([float(t)], dtype=torch.float64))
    theirs = LCMScheduler().get_scalings_for_boundary_condition_discrete(t)
    assert (skip.item(), out.item()) == pytest.approx(theirs, abs=1e-12)


def test_losses_by_hand() -> None:
    made, goal = torch.tensor([[[[1.0, 3.0]]], [[[0.0, 0.0]]]]), torch.zeros(2, 1, 1, 2)
    assert flow.cauchy(made, goal, 0.5).tolist() == pytest.approx([math.log(1 + 5 / 0.5), 0.0])  # mean square 5
    by_hand = (math.sqrt(1 + 0.25) - 0.5 + math.sqrt(9 + 0.25) - 0.5) / 2
    assert flow.huber(made, goal, 0.5).tolist() == pytest.approx([by_hand, 0.0])


def test_the_scale_of_cauchy_falls_as_the_grid_grows() -> None:
    scales = [flow.cauchy_scale(n) for n in (2, 4, 8, 16)]
    assert scales == sorted(scales, reverse=True)
    assert flow.cauchy_scale(11) == pytest.approx(math.exp(-1.18 * math.log(10) - 0.72))


def test_the_grid_doubles_and_stays() -> None:
    assert [flow.grid_size(part / 4, 4, 32) for part in range(5)] == [4, 8, 16, 32, 32]
    assert {flow.grid_size(part / 9, 4, 4) for part in range(10)} == {4}
    assert flow.grid(4) == [999, 749, 499, 249]
    assert flow.grid(1) == [999]


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_an_answer_and_the_picture_it_means_are_inverse(kind: str) -> None:
    x, said, bar = draw(1, 2, 2, 2), draw(1, 2, 2, 2, seed=3), torch.tensor(0.3, dtype=torch.float64)
    assert_close(flow.output_of(kind, x, flow.clean_of(kind, x, said, bar), bar), said, atol=1e-12, rtol=0)
