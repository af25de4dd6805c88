"""Least squares: exact where inputs differ, the mean where they are the same, against loops; inputs are those seen."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from tests.methods.compose.layouts import fitted
from tests.tiny import tiny_sd
from workbench.blocks.adapters import random_adapter
from workbench.core.errors import AskError
from workbench.core.tape import ignore
from workbench.methods.compose.least_squares import LeastSquares, patches, solved

TWO = ("random:1", "random:2")


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_inputs_in_different_directions_keep_both_adapters_exactly() -> None:
    changes, inputs = [drawn(1, 6, 12), drawn(2, 6, 12)], [drawn(3, 12, 4), drawn(4, 12, 4)]  # rank 4 of 12 each
    made = solved(changes, [x @ x.T for x in inputs], 1e-12)
    for change, x in zip(changes, inputs, strict=True):
        assert_close(made @ x, change @ x, atol=1e-7, rtol=0)
    for other in (sum(changes), sum(changes) / 2):
        assert float(((other - changes[0]) @ inputs[0]).norm() / (changes[0] @ inputs[0]).norm()) > 0.5


def test_the_same_inputs_give_the_mean() -> None:
    changes, x = [drawn(1, 6, 12), drawn(2, 6, 12)], drawn(3, 12, 40)
    assert_close(solved(changes, [x @ x.T] * 2, 1e-12), (changes[0] + changes[1]) / 2, atol=1e-9, rtol=0)


def test_an_adapter_that_leaves_a_matrix_alone_wants_it_left_alone_for_its_inputs() -> None:
    change, inputs = drawn(1, 6, 12), [drawn(3, 12, 4), drawn(4, 12, 4)]
    made = solved([change, None], [x @ x.T for x in inputs], 1e-12)
    assert_close(made @ inputs[0], change @ inputs[0], atol=1e-7, rtol=0)
    assert float((made @ inputs[1]).abs().max()) < 1e-7


def test_it_equals_the_normal_equations_by_loops_in_float64() -> None:
    changes, inputs = [drawn(1, 3, 5), drawn(2, 3, 5)], [drawn(3, 5, 7), drawn(4, 5, 7)]
    grams = [[[sum(x[i][n] * x[j][n] for n in range(7)) for j in range(5)] for i in range(5)]
             for x in (part.tolist() for part in inputs)]  # fmt: skip
    total = [[grams[0][i][j] + grams[1][i][j] for j in range(5)] for i in range(5)]
    ridge = 0.1 * sum(total[i][i] for i in range(5)) / 5
    wanted = [[sum(change[o][k] * gram[k][j] for change, gram in zip([c.tolist() for c in changes], grams, strict=True)
                   for k in range(5)) for j in range(5)] for o in range(3)]  # fmt: skip
    system = torch.tensor(total, dtype=torch.float64) + ridge * torch.eye(5, dtype=torch.float64)
    slow = torch.linalg.solve(system.T, torch.tensor(wanted, dtype=torch.float64).T).T
    assert_close(solved(changes, [x @ x.T for x in inputs], 0.1), slow, atol=1e-11, rtol=0)


@pytest.mark.parametrize("settings", [{}, {"stride": 2, "padding": 1}, {"dilation": 2}])
def test_a_convolution_multiplies_its_matrix_with_its_patches(settings: dict[str, int]) -> None:
    conv = nn.Conv2d(3, 4, 3, bias=False, **settings).double()
    x = drawn(0, 2, 3, 8, 8)
    made = patches(conv, x) @ conv.weight.detach().flatten(1).T
    assert_close(made, conv(x).detach().flatten(2).transpose(1, 2).flatten(0, 1))
    line = nn.Linear(8, 4).double()
    assert_close(patches(line, x) @ line.weight.detach().T, F.linear(x, line.weight.detach()).flatten(0, -2))


def test_the_merge_answers_each_adapters_inputs_better_than_the_sum_does() -> None:
    edit = LeastSquares(adapters=TWO, prompts=("a cat", "a dog"), steps=2, pictures=1)
    delta = fitted(edit)
    lows = [random_adapter(tiny_sd(), name).low_rank for name in TWO]
    keys = [key for key in delta.keys() if "to_q" in key]  # noqa: SIM118
    errors = {"fit": 0.0, "sum": 0.0}
    for low, prompt in zip(lows, edit.prompts, strict=True):
        grams = edit.inputs(tiny_sd(), low, [prompt], keys, ignore)
        for key in keys:
            for name, change in (("fit", delta.change(key)), ("sum", lows[0].dense(key) + lows[1].dense(key))):
                gap = change.double() - low.dense(key).double()
                errors[name] += float((gap @ grams[key] * gap).sum())
    assert errors["fit"] < 0.5 * errors["sum"]


def test_prompts_are_the_triggers_or_asked_for() -> None:
    with pytest.raises(AskError, match=r"random:1 names no trigger word.*Set prompts"):
        fitted(LeastSquares(adapters=TWO))
    with pytest.raises(AskError, match="2 adapters and 1 prompts"):
        fitted(LeastSquares(adapters=TWO, prompts="a cat"))
    edit = LeastSquares(adapters=TWO, pictures=3)
    assert edit.said(tiny_sd(), ("cat", "dog"))[0][:2] == ["cat", "a cat"]


def test_a_rank_makes_it_a_lora() -> None:
    delta = fitted(LeastSquares(adapters=TWO, prompts=("a cat", "a dog"), steps=1, pictures=1, rank=3))
    assert {delta.tensors[f"{key}.up"].shape[1] for key in delta.keys()} == {3}  # noqa: SIM118
