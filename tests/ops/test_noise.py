"""Noise of a row follows from its seed and tag alone."""

import torch

from workbench.ops.noise import row_generator, row_noise


def test_a_row_does_not_depend_on_its_mates() -> None:
    many = row_noise([3, 4, 5], (2, 2), "x", 0)
    assert torch.equal(many[1:2], row_noise([4], (2, 2), "x", 0))


def test_tags_and_seeds_give_unrelated_noise() -> None:
    rows = [row_noise([seed], (512,), tag, step)[0] for seed in (0, 1) for tag in ("a", "b") for step in (0, 1)]
    table = torch.corrcoef(torch.stack(rows)).fill_diagonal_(0)
    assert table.abs().max() < 0.2  # 4.5 standard errors of 512 values


def test_it_is_not_the_noise_of_the_bare_seed() -> None:
    bare = torch.randn(8, generator=torch.Generator().manual_seed(7))
    assert not torch.allclose(row_noise([7], (8,), "x")[0], bare)


def test_the_global_generator_is_not_touched() -> None:
    before = torch.get_rng_state()
    row_noise([1, 2], (4,), "x")
    assert torch.equal(before, torch.get_rng_state())


def test_the_largest_seed_is_taken_and_nobody_is_no_rows() -> None:
    assert row_noise([2**63 - 1], (3,), "x").shape == (1, 3)
    assert row_noise([], (3,), "x").shape == (0, 3)


def test_the_stream_of_seed_0_stays_what_it_is() -> None:
    first = torch.randn(2, generator=row_generator(0, "golden"))
    assert torch.equal(first, row_noise([0], (2,), "golden")[0])
