"""SimPool: shares that sum to one, no query no preference, files that belong to a scorer."""

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.clip import tiny_clip
from workbench.blocks.simpool import FILE, SimPool, load_simpool
from workbench.core.errors import CheckpointMismatch


def features() -> torch.Tensor:
    return torch.randn(3, 16, 24, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_shares_sum_to_one_and_a_query_of_nothing_is_the_mean() -> None:
    pool = SimPool(24, 12)
    assert torch.allclose(pool.weights(features()).sum(1), torch.ones(3))
    pool.query.weight.zero_()
    assert torch.allclose(pool.weights(features()), torch.full((3, 16), 1 / 16))
    mean = torch.nn.functional.normalize(pool.project(pool.norm(features()).mean(1)), dim=-1)
    assert torch.allclose(pool(features()), mean, atol=1e-6)


def test_a_file_comes_back_and_must_belong_to_the_scorer(tmp_path: Path) -> None:
    pool, scorer = SimPool(24, 12), dataclasses.replace(tiny_clip(), source=str(tmp_path))
    save_file(pool.state_dict(), tmp_path / FILE, metadata={"digest": scorer.digest})
    state = torch.get_rng_state()
    assert torch.equal(load_simpool(scorer)(features()), pool(features()))
    assert torch.equal(torch.get_rng_state(), state)
    save_file(pool.state_dict(), tmp_path / FILE, metadata={"digest": "other"})
    with pytest.raises(CheckpointMismatch, match="was trained on a scorer other"):
        load_simpool(scorer)
    (tmp_path / FILE).write_bytes(b"nothing")
    with pytest.raises(CheckpointMismatch, match=r"simpool\.safetensors of tiny-clip cannot be read"):
        load_simpool(scorer)
