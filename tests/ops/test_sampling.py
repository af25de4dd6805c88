"""Cuts and draws against loops in float64, torch's own multinomial, and the probabilities they stand for."""

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from workbench.core.errors import AskError
from workbench.ops.sampling import exponential, race, smooth, smoothness, truncate


def kept_by_hand(row: list[float], top_k: int, top_p: float) -> list[int]:
    """Which tokens stay, from the definition: the top_k largest, then the least set from the likeliest down."""
    order = sorted(range(len(row)), key=lambda v: -row[v])
    order = order[: top_k or len(row)]
    total = sum(math.exp(row[v]) for v in order)
    kept = list(order)
    lost = 0.0
    for v in reversed(order[1:]):
        lost += math.exp(row[v]) / total
        if lost > 1 - top_p:
            break
        kept.remove(v)
    return sorted(kept)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some(shape: tuple[int, ...] = (2, 5, 24), seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed)) * 3


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 0.9), (5, 1.0), (7, 0.6), (1, 0.5), (0, 0.01), (24, 0.99)])
def test_what_stays_is_what_the_definition_keeps(top_k: int, top_p: float) -> None:
    logits = some()
    cut = truncate(logits, top_k, top_p)
    for row, found in zip(logits.flatten(0, 1).double().tolist(), cut.flatten(0, 1), strict=True):
        assert found.isfinite().nonzero().flatten().tolist() == kept_by_hand(row, top_k, top_p)
    assert torch.equal(cut[cut.isfinite()], logits[cut.isfinite()])


def test_a_nucleus_on_paper() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    assert truncate(logits, top_p=0.81).isfinite().tolist() == [True, True, True, False]
    assert truncate(logits, top_p=0.79).isfinite().tolist() == [True, True, False, False]
    assert truncate(logits, top_p=1e-9).isfinite().tolist() == [True, False, False, False]
    assert truncate(logits) is logits


def test_equal_logits_stay_together() -> None:
    assert truncate(torch.tensor([1.0, 1.0, 1.0, 0.0]), top_k=2).isfinite().tolist() == [True, True, True, False]


def test_more_than_the_vocabulary_is_refused() -> None:
    with pytest.raises(AskError, match=r"top_k is 25; the model's vocabulary has 24 tokens"):
        truncate(some(), top_k=25)


def test_the_race_gives_the_tokens_of_multinomial_and_leaves_the_generator_where_it_does() -> None:
    logits = truncate(some((1, 300, 24)), 9, 0.9)
    first, second = generator(7), generator(7)
    theirs = torch.multinomial(logits[0].softmax(-1), 1, replacement=True, generator=first)[:, 0]
    mine = race(logits, exponential(logits.shape, [second], logits))
    assert torch.equal(mine[0], theirs)
    assert torch.equal(torch.rand(3, generator=first), torch.rand(3, generator=second))


def test_one_generator_for_two_rows_is_consumed_as_over_all_places() -> None:
    logits = some((2, 50, 24))
    first, second = generator(7), generator(7)
    theirs = torch.multinomial(logits.flatten(0, 1).softmax(-1), 1, generator=first)[:, 0]
    assert torch.equal(race(logits, exponential(logits.shape, [second], logits)).flatten(), theirs)


def test_a_row_depends_on_its_own_generator_alone() -> None:
    logits = some((2, 6, 24))
    both = exponential(logits.shape, [generator(1), generator(2)], logits)
    assert torch.equal(both[1:], exponential((1, 6, 24), [generator(2)], logits))


def test_the_race_is_fair() -> None:
    p = torch.tensor([0.5, 0.3, 0.15, 0.05, 0.0])
    logits = p.log().expand(1, 40_000, -1).contiguous()
    tokens = race(logits, exponential(logits.shape, [generator(0)], logits))
    found = torch.bincount(tokens[0], minlength=5)
    assert_close(found / 40_000, p, atol=0.01, rtol=0)  # four deviations of a share of 0.5 in 40,000 draws
    assert found[4] == 0


def test_smooth_weights_by_hand_and_their_cold_limit() -> None:
    logits, noise = some((1, 2, 4)), exponential((1, 2, 4), [generator(3)], some((1, 2, 4)))
    weights = smooth(logits, noise, 0.5)
    for n in range(2):
        row = [math.exp((float(a) - math.log(float(e))) / 0.5) for a, e in zip(logits[0, n], noise[0, n], strict=True)]
        expected = torch.tensor([v / sum(row) for v in row], dtype=torch.float64)
        assert_close(weights[0, n].double(), expected, atol=1e-5, rtol=0)
    assert torch.equal(smooth(logits, noise, 1e-3).argmax(-1), race(logits, noise))
    assert smoothness(1.0) == pytest.approx(0.0135)
    assert smoothness(1.05) == 0.005
