"""Schedulers by name, and the clean latent of each kind of prediction."""

from types import SimpleNamespace

import pytest
import torch

from workbench.core.errors import AskError
from workbench.models import schedulers

CONFIG = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}


@pytest.mark.parametrize("name", schedulers.SCHEDULERS)
def test_every_name_makes_a_scheduler_with_that_many_steps(name: str) -> None:
    assert len(schedulers.make(name, CONFIG, 7).timesteps) == 7


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(AskError, match=r"no scheduler 'heun'.*dpm\+\+"):
        schedulers.make("heun", CONFIG, 7)


def test_too_many_steps_are_refused_in_one_line() -> None:
    with pytest.raises(AskError, match="ddpm cannot take 2000 steps"):
        schedulers.make("ddpm", CONFIG, 2000)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_the_clean_latent_is_found_again(kind: str) -> None:
    bars = schedulers.make("ddim", CONFIG, 10).alphas_cumprod
    a, s = bars[400].sqrt(), (1 - bars[400]).sqrt()
    x0, noise = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    output = {"epsilon": noise, "v_prediction": a * noise - s * x0, "sample": x0}[kind]
    scheduler = SimpleNamespace(alphas_cumprod=bars, config=SimpleNamespace(prediction_type=kind))
    clean = schedulers.clean_latent(scheduler, output, torch.tensor(400), a * x0 + s * noise)
    torch.testing.assert_close(clean, x0, atol=1e-5, rtol=0)  # one division by a = 0.5 in float32


@pytest.mark.parametrize("name", ["euler-a", "ddpm", "lcm"])
def test_fresh_noise_comes_from_each_rows_generator(name: str) -> None:
    x, guided = torch.ones(2, 4, 8, 8), torch.zeros(2, 4, 8, 8)

    def step(seeds: list[int]) -> torch.Tensor:
        scheduler = schedulers.make(name, CONFIG, 5)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        rows = len(seeds)
        return schedulers.advance(x[:rows], guided[:rows], scheduler.timesteps[0], None, scheduler, generators)[0]

    both = step([3, 4])
    assert torch.equal(both[1:], step([4]))
    assert not torch.equal(both[0], both[1])


FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0}


@pytest.mark.parametrize("name", schedulers.FLOW)
def test_every_flow_scheduler_starts_at_noise_and_ends_at_the_picture(name: str) -> None:
    scheduler = schedulers.make(name, FLOW, 7)
    assert len(scheduler.timesteps) == 7
    assert scheduler.sigmas[0] == pytest.approx(1.0, abs=1e-3)
    assert scheduler.sigmas[-1] == 0
    assert (scheduler.sigmas.diff() < 0).all()


@pytest.mark.parametrize("name", schedulers.FLOW)
def test_a_straight_flow_is_followed_to_its_end_whatever_the_scheduler(name: str) -> None:
    """With the true velocity noise - x0 every solver lands on x0, and every step predicts it."""
    x0, noise = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    scheduler = schedulers.make(name, FLOW, 5)
    sigma = scheduler.sigmas[0]
    x = sigma * noise + (1 - sigma) * x0
    for i, t in enumerate(scheduler.timesteps):
        velocity = (x - x0) / scheduler.sigmas[i]
        x, clean = schedulers.advance(x, velocity, t, None, scheduler, [torch.Generator().manual_seed(0)])
        torch.testing.assert_close(clean, x0, atol=2e-5, rtol=0)
    torch.testing.assert_close(x, x0, atol=2e-5, rtol=0)


def test_a_scheduler_of_diffusion_is_refused_for_a_flow() -> None:
    with pytest.raises(AskError, match=r"no scheduler 'ddim' for a model of flow matching\. There are: euler, dpm"):
        schedulers.make("ddim", FLOW, 5)


def test_more_tokens_shift_the_levels_up_exactly_as_published() -> None:
    """sigma' = e^mu / (e^mu + 1 / sigma - 1) with mu a line through (256, 0.5) and (4096, 1.15)."""
    config = {**FLOW, "use_dynamic_shifting": True}
    for tokens, mu in ((256, 0.5), (4096, 1.15), (2176, 0.825)):
        sigmas = schedulers.make("euler", config, 4, tokens=tokens, even=True).sigmas[:-1].double()
        even = torch.tensor([1.0, 0.75, 0.5, 0.25], dtype=torch.float64)
        shift = torch.tensor(mu, dtype=torch.float64).exp()
        torch.testing.assert_close(sigmas, shift / (shift + 1 / even - 1), atol=1e-6, rtol=0)


def test_noise_of_a_flow_scheduler_comes_from_each_rows_generator() -> None:
    x, velocity = torch.ones(2, 4, 8, 8), torch.zeros(2, 4, 8, 8)

    def step(seeds: list[int]) -> torch.Tensor:
        scheduler = schedulers.make("lcm", FLOW, 5)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        rows = len(seeds)
        return schedulers.advance(x[:rows], velocity[:rows], scheduler.timesteps[0], None, scheduler, generators)[0]

    both = step([3, 4])
    assert torch.equal(both[1:], step([4]))
    assert not torch.equal(both[0], both[1])
