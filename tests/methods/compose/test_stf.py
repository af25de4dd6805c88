"""STF: its identities, its system against loops and numpy, and at rest."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from tests.methods.compose.layouts import dense, fitted, random_factors
from workbench.methods.compose.stf import Stf, superposed


def product(pair: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return pair[0] @ pair[1]


def test_the_same_adapter_twice_is_that_adapter_once() -> None:
    one = random_factors(1)
    assert_close(product(superposed([one, one], (1.0, 1.0))), dense(one), atol=1e-12, rtol=0)


def test_adapters_at_right_angles_give_their_sum() -> None:
    whole, _ = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(0)).double())
    right, _ = torch.linalg.qr(torch.randn(7, 7, generator=torch.Generator().manual_seed(1)).double())
    one, two = (whole[:, :3] * 2, right[:, :3].T), (whole[:, 3:6], right[:, 3:6].T)
    assert_close(product(superposed([one, two], (1.0, 1.0))), product(one) + product(two), atol=1e-12, rtol=0)


def test_every_direction_is_answered_as_its_own_adapter_answers_it() -> None:
    parts, weights = [random_factors(1, 48, 64, 4), random_factors(2, 48, 64, 4)], (0.7, 1.2)
    merged = product(superposed(parts, weights))
    for part, weight in zip(parts, weights, strict=True):
        left, sizes, right = np.linalg.svd((weight * product(part)).numpy(), full_matrices=False)
        for j in range(4):  # u_j^T dW v_j = s_j
            assert left[:, j] @ merged.numpy() @ right[j] == pytest.approx(sizes[j], rel=1e-9)


def test_it_equals_the_system_solved_by_loops_in_float64() -> None:
    parts, weights = [random_factors(1), random_factors(2)], (0.5, -1.5)
    triples = []
    for part, weight in zip(parts, weights, strict=True):
        left, sizes, right = np.linalg.svd(weight * dense(part).numpy(), full_matrices=False)
        triples += [(left[:, j], sizes[j], right[j]) for j in range(3)]
    system = [[sum(a * b for a, b in zip(u, p)) * sum(a * b for a, b in zip(v, q)) for p, _, q in triples]  # noqa: B905
              for u, _, v in triples]  # fmt: skip
    found = np.linalg.solve(np.array(system), np.array([s for _, s, _ in triples]))
    slow = sum(a * np.outer(u, v) for a, (u, _, v) in zip(found, triples, strict=True))
    assert_close(product(superposed(parts, weights)), torch.tensor(slow), atol=1e-11, rtol=0)


def test_shared_directions_are_between_one_and_the_sum() -> None:
    shared, one, two = (random_factors(seed, 48, 64, 2) for seed in (1, 2, 3))
    a, b = (tuple(torch.cat([x, y], dim) for x, y, dim in zip(shared, own, (1, 0), strict=True)) for own in (one, two))
    merged = product(superposed([a, b], (1.0, 1.0)))
    for part in (a, b):
        whole = product(part)
        share = float((merged * whole).sum() / whole.square().sum())
        assert share == pytest.approx(1.0, abs=0.02)  # plain addition gives about 1.5
        assert float(((product(a) + product(b)) * whole).sum() / whole.square().sum()) > 1.3


def test_one_adapter_alone_and_an_empty_one_change_nothing() -> None:
    one = random_factors(1)
    assert_close(product(superposed([one], (1.3,))), 1.3 * dense(one), atol=1e-12, rtol=0)
    empty = (torch.zeros(8, 2).double(), torch.randn(2, 7).double())
    assert_close(product(superposed([one, empty], (1.0, 1.0))), dense(one), atol=1e-12, rtol=0)
    assert_close(product(superposed([empty], (1.0,))), torch.zeros(8, 7).double())


def test_energy_leaves_the_weakest_directions_out() -> None:
    one = random_factors(1)
    sizes = np.linalg.svd(dense(one).numpy(), compute_uv=False)
    share = float(sizes[0] ** 2 / (sizes**2).sum())
    assert superposed([one], (1.0,), share * 0.99)[0].shape[1] == 1
    assert superposed([one], (1.0,), share * 1.01)[0].shape[1] == 2


def test_the_delta_is_narrow_and_of_this_size_with_adapters_1_and_2() -> None:
    delta = fitted(Stf(adapters=("random:1", "random:2")))
    assert {tuple(delta.tensors[f"{key}.up"].shape)[1] for key in delta.keys()} == {8}  # noqa: SIM118
    size = sum(float(delta.change(key).square().sum()) for key in delta.keys()) ** 0.5  # noqa: SIM118
    assert size == pytest.approx(19.463754, rel=1e-4)
