"""The race and its posterior: who wins, that the winner wins again, and that the noise is Gumbel noise."""

import math

import pytest
import torch
from torch import Tensor

from workbench.ops.gumbel import gumbel, rewind, winner


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_gumbel_of_the_median_is_minus_log_log_two() -> None:
    assert gumbel(torch.tensor([0.5], dtype=torch.float64)).item() == pytest.approx(-math.log(math.log(2)))


def test_ends_of_the_interval_are_finite() -> None:
    assert gumbel(torch.tensor([0.0, 1.0])).isfinite().all()


def test_the_posterior_is_its_slow_twin() -> None:
    """The truncated Gumbel by inverting its distribution function F(z) = exp(e^-(T - l) - e^-(z - l)), by bisection."""
    logits, u = torch.tensor([[0.3, -1.0, 2.0]], dtype=torch.float64), uniform(1, 3, seed=4)
    noise = rewind(logits, torch.tensor([1]), u)[0]
    top = math.log(sum(math.exp(v) for v in logits[0].tolist())) - math.log(-math.log(u[0, 1].item()))
    assert noise[1].item() == pytest.approx(top + 1.0)
    for v in (0, 2):
        place, low, high = logits[0, v].item(), -60.0, top
        for _ in range(200):
            middle = (low + high) / 2
            below = math.exp(math.exp(-(top - place)) - math.exp(-(middle - place))) < u[0, v].item()
            low, high = (middle, high) if below else (low, middle)
        assert noise[v].item() == pytest.approx(low - place, abs=1e-9)


def test_the_token_that_won_wins_again() -> None:
    logits = 8 * torch.randn(500, 64, generator=torch.Generator().manual_seed(1))
    tokens = torch.randint(64, (500,), generator=torch.Generator().manual_seed(2))
    assert torch.equal(winner(logits.double(), rewind(logits, tokens, uniform(500, 64))), tokens)


def test_even_a_token_that_was_filtered_out_wins_again() -> None:
    logits = torch.tensor([[0.0, -math.inf, 1.0]])
    noise = rewind(logits, torch.tensor([1]), uniform(1, 3))
    assert noise.isfinite().all()
    assert winner(logits.double().nan_to_num(neginf=-1e4), noise).item() == 1


def test_over_tokens_drawn_from_the_model_the_noise_is_gumbel_noise() -> None:
    """Tokens from softmax, then the posterior: together the prior again, mean 0.5772 and variance pi^2 / 6."""
    logits = torch.tensor([1.5, 0.0, -1.0, 0.5], dtype=torch.float64).expand(40_000, 4)
    tokens = winner(logits, gumbel(uniform(40_000, 4, seed=7)))
    noise = rewind(logits, tokens, uniform(40_000, 4, seed=8))
    # deviation of a mean of 40,000: 1.28 / 200 = 0.0064; of their variance about 0.02
    assert (noise.mean(0) - 0.5772).abs().max() < 0.03
    assert (noise.var(0) - math.pi**2 / 6).abs().max() < 0.1
