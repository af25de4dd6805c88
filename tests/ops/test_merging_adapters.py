"""Dense merge rules on paper, against loops in float64, and against peft's own functions."""

import warnings
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from workbench.ops import merging_adapters as rules
from workbench.ops.noise import row_generator

WEIGHTS = (0.7, 1.3, 0.4)


def changes(count: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 5, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def trimmed(matrix: list[list[float]], density: float) -> list[list[float]]:
    sizes = sorted((abs(v) for row in matrix for v in row), reverse=True)
    count = int(density * len(sizes))
    least = sizes[count - 1] if count else float("inf")
    return [[v if abs(v) >= least else 0.0 for v in row] for row in matrix]


def sign(value: float) -> int:
    return (value > 0) - (value < 0)


def agreed(parts: list[Any], weights: tuple[float, ...]) -> torch.Tensor:
    rows, columns = len(parts[0]), len(parts[0][0])
    made = [[0.0] * columns for _ in range(rows)]
    for i in range(rows):
        for j in range(columns):
            side = sign(sum(part[i][j] for part in parts))
            voters = [w * part[i][j] for part, w in zip(parts, weights, strict=True) if sign(part[i][j]) == side]
            made[i][j] = sum(voters) / max(len(voters), 1)
    return torch.tensor(made, dtype=torch.float64)


def test_ties_on_paper() -> None:
    one, two = torch.tensor([[4.0, -2.0, 0.1, 1.0]]), torch.tensor([[2.0, 3.0, 0.2, -1.5]])
    # trimmed to two each: [4, -2, 0, 0] and [2, 3, 0, 0]; the second column elects +, so -2 has no voice
    assert_close(rules.ties(torch.stack([one, two]), (1.0, 1.0), 0.5), torch.tensor([[3.0, 3.0, 0.0, 0.0]]))


@pytest.mark.parametrize("density", [0.1, 0.5, 1.0])
def test_ties_and_magnitude_equal_loops_in_float64(density: float) -> None:
    stack = changes()
    parts = [trimmed(matrix, density) for matrix in stack.tolist()]
    assert_close(rules.ties(stack, WEIGHTS, density), agreed(parts, WEIGHTS), atol=1e-14, rtol=0)
    summed = sum(w * torch.tensor(part, dtype=torch.float64) for part, w in zip(parts, WEIGHTS, strict=True))
    assert_close(rules.magnitude(stack, WEIGHTS, density), summed, atol=1e-14, rtol=0)


def test_dare_equals_loops_in_float64_and_keeps_the_mean() -> None:
    stack = changes(2)
    made = rules.dare(stack, (1.0, 2.0), 0.4, [row_generator(i, "t") for i in range(2)])
    total = torch.zeros(5, 6, dtype=torch.float64)
    for index, matrix in enumerate(stack.tolist()):
        chance = torch.rand(5, 6, generator=row_generator(index, "t")).tolist()
        for i in range(5):
            for j in range(6):
                if chance[i][j] < 0.4:
                    total[i, j] += (1.0, 2.0)[index] * matrix[i][j] / 0.4
    assert_close(made, total, atol=1e-14, rtol=0)
    many = torch.stack([rules.dropped(stack[0], 0.4, row_generator(i, "m")) for i in range(4000)]).mean(0)
    # the standard error of each mean is |t| sqrt(1.5 / 4000) = 0.02 |t|, |t| < 3
    assert_close(many, stack[0], atol=0.3, rtol=0)
    assert torch.equal(rules.dropped(stack[0], 1.0, row_generator(0)), stack[0])


def test_rules_are_those_of_peft() -> None:
    from peft.utils import merge_utils

    stack, weights = changes(), torch.tensor(WEIGHTS, dtype=torch.float64)
    theirs = merge_utils.ties(list(stack), weights, 0.5)
    assert_close(rules.ties(stack, WEIGHTS, 0.5), theirs, atol=1e-12, rtol=0)
    theirs = merge_utils.magnitude_prune(list(stack), weights, 0.5)
    assert_close(rules.magnitude(stack, WEIGHTS, 0.5), theirs, atol=1e-12, rtol=0)
    # at density 1 nothing is drawn, so their random rules are comparable, too
    generators = [row_generator(i) for i in range(3)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that nothing will be dropped
        theirs = merge_utils.dare_ties(list(stack), weights, 1.0)
        linear = merge_utils.dare_linear(list(stack), weights, 1.0)
    assert_close(rules.dare(stack, WEIGHTS, 1.0, generators, elect=True), theirs, atol=1e-12, rtol=0)
    assert_close(rules.dare(stack, WEIGHTS, 1.0, generators), linear, atol=1e-12, rtol=0)


def test_entries_that_are_zero_have_no_voice() -> None:
    stack = torch.tensor([[[0.0, 0.0]], [[2.0, 0.0]]])
    assert rules.elected(stack).tolist() == [[[False, True]], [[True, True]]]
    assert rules.ties(stack, (1.0, 1.0), 1.0).tolist() == [[2.0, 0.0]]


def test_the_number_of_kept_entries_is_the_density() -> None:
    change = changes(1)[0]
    for density, count in ((0.0, 0), (0.1, 3), (0.5, 15), (1.0, 30)):
        kept = rules.keep_largest(change, density)
        assert int((kept != 0).sum()) == count
        assert torch.equal(kept[kept != 0], change[kept != 0])
