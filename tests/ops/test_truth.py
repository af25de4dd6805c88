"""Maps against masks: cases on paper, scikit-learn's definition by loops, ties, and maps that know nothing."""

import pytest
import torch

from workbench.core.errors import AskError
from workbench.ops import truth


def slow_precision(scores: list[float], true: list[bool]) -> float:
    """Average precision with one pass a distinct threshold, in plain Python."""
    found, before = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        said = [t for s, t in zip(scores, true, strict=True) if s >= threshold]
        recall = sum(said) / sum(true)
        found += (recall - before) * sum(said) / len(said)
        before = recall
    return found


def test_precision_equals_the_slow_twin_with_ties() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        scores = torch.randint(6, (40,), generator=generator).float()
        true = torch.rand(40, generator=generator) > 0.7
        true[0] = True
        slow = slow_precision(scores.tolist(), true.tolist())
        assert truth.average_precision(scores, true) == pytest.approx(slow, abs=1e-6)  # sums of floats


def test_a_constant_map_is_worth_the_share_of_the_mask_and_a_perfect_one_is_worth_one() -> None:
    true = torch.tensor([True, False, False, True])
    assert truth.average_precision(torch.zeros(4), true) == pytest.approx(0.5)
    assert truth.average_precision(true.float(), true) == 1.0
    assert truth.average_precision(-true.float(), true) == pytest.approx(0.5)  # found last


def test_an_empty_mask_is_refused() -> None:
    with pytest.raises(AskError, match="The mask is empty"):
        truth.average_precision(torch.zeros(4), torch.zeros(4, dtype=torch.bool))


def test_the_peak_counts_in_the_mask_or_a_cell_beside_it() -> None:
    mask = torch.zeros(5, 5, dtype=torch.bool)
    mask[2, 2] = True
    peak = torch.zeros(5, 5)
    peak[1, 1] = 1.0
    assert truth.pointing(peak, mask, 1) == 1.0
    assert truth.pointing(peak, mask, 0) == 0.0
    assert truth.pointing(torch.ones(5, 5), mask, 1) == pytest.approx(9 / 25)  # every place is a peak


def test_energy_is_the_mass_inside_and_negative_values_have_none() -> None:
    mask = torch.tensor([[True, False], [False, False]])
    assert truth.energy(torch.tensor([[3.0, 1.0], [-5.0, 0.0]]), mask) == pytest.approx(0.75)
    assert truth.energy(torch.zeros(2, 2), mask) == 0.0


def test_overlap_at_a_threshold_and_at_the_best_one() -> None:
    values, true = torch.tensor([0.0, 0.2, 0.6, 1.0]), torch.tensor([False, False, True, True])
    assert truth.overlap(values, true, 0.5) == 1.0
    assert truth.overlap(values, true, 0.1) == pytest.approx(2 / 3)
    assert truth.overlap(values, true, 0.9) == pytest.approx(1 / 2)
    assert truth.best_overlap(values, true) == 1.0


def test_binding_needs_every_word_on_its_own_object() -> None:
    masks = torch.tensor([[[True, False]], [[False, True]]])
    right = truth.binding(torch.tensor([[[0.8, 0.2]], [[0.1, 0.9]]]), masks)
    torch.testing.assert_close(right, torch.tensor([[0.8, 0.2], [0.1, 0.9]]))
    assert truth.bound(right)
    assert not truth.bound(torch.tensor([[0.8, 0.2], [0.6, 0.4]]))
    assert not truth.bound(torch.tensor([[0.5, 0.5], [0.1, 0.9]]))  # a tie decides nothing


def test_the_centred_guess_is_highest_in_the_middle_and_even() -> None:
    guess = truth.centred((5, 9))
    assert guess.argmax().item() == 2 * 9 + 4
    assert guess.max().item() == pytest.approx(1.0)
    assert torch.allclose(guess, guess.flip(0).flip(1))
    assert guess[2, 0].item() == pytest.approx(torch.exp(torch.tensor(-((4 / 9) ** 2) / 0.125)).item(), rel=1e-5)


def test_rank_correlation_equals_scipy_with_ties() -> None:
    from scipy.stats import spearmanr

    generator = torch.Generator().manual_seed(1)
    one, other = (torch.randint(5, (30,), generator=generator).float() for _ in range(2))
    assert truth.correlation(one, other) == pytest.approx(float(spearmanr(one, other).statistic), abs=1e-9)
    assert truth.correlation(one, torch.ones(30)) == 0.0
