"""The one closed form against least squares on the stacked problem, and its subspaces."""

import pytest
import torch
from torch.testing import assert_close

from workbench.core.errors import AskError
from workbench.ops.linear_edit import (
    System,
    factors,
    least_direction,
    null_basis,
    recovery,
    restrict,
    solve_linear_edit,
)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def stacked(W: torch.Tensor, K: torch.Tensor, V: torch.Tensor, w: torch.Tensor, ridge: float,
            H: torch.Tensor) -> torch.Tensor:  # fmt: skip
    """Z H^T by least squares on the rows sqrt(w) k^T H Z^T = sqrt(w) (v - W k)^T and sqrt(s) Z^T = 0."""
    rows = torch.cat([w.sqrt()[:, None] * (K @ H), ridge**0.5 * torch.eye(H.shape[1], dtype=H.dtype)])
    wanted = torch.cat([w.sqrt()[:, None] * (V - K @ W.T), torch.zeros(H.shape[1], len(W), dtype=W.dtype)])
    return torch.linalg.lstsq(rows, wanted).solution.T @ H.T


@pytest.mark.parametrize("ridge", [1e-3, 1.0, 50.0])
@pytest.mark.parametrize("held", [False, True])
def test_it_is_least_squares_on_the_stacked_problem(ridge: float, held: bool) -> None:
    W, K, V, w = draw(5, 12, seed=1), draw(30, 12, seed=2), draw(30, 5, seed=3), draw(30, seed=4).abs()
    H = torch.linalg.qr(draw(12, 7, seed=5))[0] if held else torch.eye(12, dtype=torch.float64)
    solved = solve_linear_edit(W, (w[:, None] * V).T @ K, (w[:, None] * K).T @ K, ridge, H if held else None)
    assert_close(solved.change, stacked(W, K, V, w, ridge, H), atol=1e-8, rtol=0)
    assert not solved.singular


def test_one_pair_on_paper() -> None:
    """One input (2, 0) that should give 3 where W gives 0: the change is 3 * 2 / (2 * 2 + s)."""
    solved = solve_linear_edit(torch.zeros(1, 2), torch.tensor([[6.0, 0.0]]), torch.diag(torch.tensor([4.0, 0.0])), 2.0)
    assert_close(solved.change, torch.tensor([[1.0, 0.0]], dtype=torch.float64))
    assert solved.condition == pytest.approx(3.0)  # diag(6, 2)


def test_pairs_that_stay_change_nothing() -> None:
    W, K = draw(4, 6, seed=1), draw(20, 6, seed=2)
    B = K.T @ K
    assert solve_linear_edit(W, W @ B, B, 0.5).change.abs().max() < 1e-12


def test_the_order_of_the_pairs_does_not_matter() -> None:
    W, K, V = draw(4, 6, seed=1), draw(20, 6, seed=2), draw(20, 4, seed=3)
    one = solve_linear_edit(W, V.T @ K, K.T @ K, 0.5).change
    other = solve_linear_edit(W, V.flip(0).T @ K.flip(0), K.flip(0).T @ K.flip(0), 0.5).change
    assert_close(one, other, atol=1e-10, rtol=0)


def test_a_singular_system_warns_and_takes_the_smallest_change() -> None:
    W, K, V = draw(3, 8, seed=1), draw(4, 8, seed=2), draw(4, 3, seed=3)
    with pytest.warns(RuntimeWarning, match="closed form is singular.*ridge above 0"):
        solved = solve_linear_edit(W, V.T @ K, K.T @ K)
    assert solved.singular
    assert solved.condition == float("inf")
    smallest = torch.linalg.lstsq(K, V - K @ W.T, driver="gelsd").solution.T  # the least-norm solution
    assert_close(solved.change, smallest, atol=1e-8, rtol=0)
    assert_close((W + solved.change) @ K.T, V.T, atol=1e-8, rtol=0)


def test_a_negative_ridge_is_refused() -> None:
    with pytest.raises(AskError, match=r"ridge is -1\.0"):
        System(torch.eye(2), -1.0)


def test_no_direction_left_means_no_change() -> None:
    assert solve_linear_edit(draw(2, 3), draw(2, 3), torch.eye(3), 1.0, torch.zeros(3, 0)).change.abs().max() == 0


def test_recovery_of_an_untouched_model_is_the_shrunk_identity() -> None:
    Ws = [draw(9, 6, seed=i) for i in range(3)]
    gram = sum(W.T @ W for W in Ws)
    expected = torch.linalg.inv(gram + 0.3 * torch.eye(6, dtype=torch.float64)) @ gram
    assert_close(recovery(Ws, Ws, 0.3), expected, atol=1e-10, rtol=0)


def test_recovery_is_least_squares_for_every_concept() -> None:
    new, old = [draw(4, 6, seed=i) for i in range(3)], [draw(4, 6, seed=i + 9) for i in range(3)]
    c = draw(6, seed=5)
    rows = torch.cat([*new, 0.2**0.5 * torch.eye(6, dtype=torch.float64)])
    wanted = torch.cat([*(W @ c for W in old), torch.zeros(6, dtype=torch.float64)])
    assert_close(
        recovery(new, old, 0.2) @ c, torch.linalg.lstsq(rows, wanted[:, None]).solution[:, 0], atol=1e-8, rtol=0
    )


def test_the_null_basis_holds_none_of_the_strong_directions() -> None:
    Q = torch.linalg.qr(draw(5, 5))[0]
    B = Q @ torch.diag(torch.tensor([8.0, 1.0, 0.9, 0.1, 0.0], dtype=torch.float64)) @ Q.T
    for rule, left in (({"rank": 2}, 3), ({"floor": 0.95}, 3), ({"energy": 0.7}, 4), ({"energy": 0.85}, 3),
                       ({"energy": 0.0}, 5), ({"energy": 1.0}, 1), ({"rank": 9}, 0)):  # fmt: skip
        H = null_basis(B, **rule)
        assert H.shape == (5, left), rule
        assert_close(H.T @ H, torch.eye(left, dtype=torch.float64), atol=1e-10, rtol=0)
        assert torch.linalg.matrix_norm(H.T @ Q[:, : 5 - left]) < 1e-9 if 0 < left < 5 else True
    with pytest.raises(AskError, match="exactly one"):
        null_basis(B, rank=1, floor=0.1)


def test_a_restricted_basis_keeps_what_it_is_told_to_hold() -> None:
    H, C = torch.linalg.qr(draw(8, 6))[0], draw(8, 2, seed=3)
    inner = restrict(H, C)
    assert inner.shape == (8, 4)
    assert (inner.T @ C).abs().max() < 1e-10
    assert_close(H @ H.T @ inner, inner, atol=1e-10, rtol=0)
    change = solve_linear_edit(draw(3, 8, seed=1), draw(3, 8, seed=2), torch.eye(8), 0.1, inner).change
    assert (change @ C).abs().max() < 1e-10
    assert restrict(H, torch.cat([C, C], 1)).shape == (8, 4), "the same twice holds no more"
    assert restrict(H, torch.zeros(8, 0)).shape == (8, 6)


def test_a_hard_hold_is_the_limit_of_a_heavy_weight() -> None:
    """SPEED's two forms: equality by restricting the basis, or weight 1 / lambda on the held states."""
    W, A, C = draw(3, 6, seed=1), draw(3, 6, seed=2), draw(6, 2, seed=3)
    B = draw(9, 6, seed=4).T @ draw(9, 6, seed=4)
    hard = solve_linear_edit(W, A, B, 0.1, restrict(torch.eye(6), C)).change
    heavy = 1e9 * C @ C.T
    soft = solve_linear_edit(W, A + W @ heavy, B + heavy, 0.1).change
    assert_close(hard, soft, atol=1e-6, rtol=0)


def test_the_least_direction_is_the_last_singular_vector() -> None:
    W = draw(9, 5)
    expected = torch.linalg.svd(W)[2][-1]
    found = least_direction(W)
    assert_close(found * (found @ expected).sign(), expected, atol=1e-9, rtol=0)


def test_factors_are_as_narrow_as_the_share_allows() -> None:
    U, V = torch.linalg.qr(draw(6, 3))[0], torch.linalg.qr(draw(5, 3, seed=1))[0]
    change = U @ torch.diag(torch.tensor([3.0, 1.0, 0.1], dtype=torch.float64)) @ V.T
    up, down = factors(change)
    assert up.shape == (6, 3)
    assert_close(up @ down, change, atol=1e-10, rtol=0)
    up, down = factors(change, share=0.99)
    assert up.shape == (6, 2)
    assert (change - up @ down).norm().item() == pytest.approx(0.1)
    assert factors(change, most=1)[0].shape == (6, 1)
    assert factors(torch.zeros(3, 2))[0].shape[1] == 1
