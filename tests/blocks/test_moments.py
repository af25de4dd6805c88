"""Moments add up in any order, scale, and survive a file."""

from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from workbench.blocks.moments import Moments
from workbench.core.errors import AskError, CheckpointMismatch


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_two_pairs_on_paper() -> None:
    found = Moments.of(torch.tensor([[1.0, 0.0], [1.0, 2.0]]), torch.tensor([[3.0], [1.0]]), weight=2.0)
    assert found.a.tolist() == [[8.0, 4.0]]
    assert found.b.tolist() == [[4.0, 4.0], [4.0, 8.0]]
    assert (found.n, found.level) == (2.0, 6.0)


def test_sums_equal_loops_whatever_the_chunks_and_the_order() -> None:
    pairs = [(draw(i + 1, 4, seed=i), draw(i + 1, 3, seed=i + 50)) for i in range(6)]
    slow_a, slow_b = torch.zeros(3, 4, dtype=torch.float64), torch.zeros(4, 4, dtype=torch.float64)
    for keys, values in pairs:
        for k, v in zip(keys.double(), values.double(), strict=True):
            slow_a += v[:, None] * k[None]
            slow_b += k[:, None] * k[None]
    for found in (
        Moments.over(pairs, chunk=4),
        Moments.over(reversed(pairs)),
        Moments.over(pairs[:2]) + Moments.over(pairs[2:]),
    ):
        assert_close(found.a, slow_a, atol=1e-12, rtol=0)
        assert_close(found.b, slow_b, atol=1e-12, rtol=0)
        assert found.n == 21


def test_scaling_is_linear_and_the_mean_is_per_input() -> None:
    found = Moments.of(draw(5, 3), draw(5, 3, seed=1))
    assert_close(found.scaled(2.0).b, found.b * 2)
    assert_close((found + found).mean().a, found.mean().a)
    assert Moments.empty(3).mean().b.abs().max() == 0


def test_they_survive_a_file(tmp_path: Path) -> None:
    found = Moments.of(draw(5, 3), draw(5, 2, seed=1), weight=0.3)
    found.save(tmp_path / "sums.safetensors")
    again = Moments.load(tmp_path / "sums.safetensors")
    assert torch.equal(found.a, again.a)
    assert torch.equal(found.b, again.b)
    assert found.n == again.n


def test_strange_files_and_unequal_models_are_refused(tmp_path: Path) -> None:
    (tmp_path / "no.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointMismatch, match=r"no\.safetensors is not a readable"):
        Moments.load(tmp_path / "no.safetensors")
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointMismatch, match="holds no moments"):
        Moments.load(tmp_path / "other.safetensors")
    with pytest.raises(AskError, match="do not add up"):
        Moments.empty(3) + Moments.empty(4)
    with pytest.raises(AskError, match="no pairs"):
        Moments.over([])
