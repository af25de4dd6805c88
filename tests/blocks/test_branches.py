"""A further prediction beside the guided pair: the same as one asked alone, and only where there is guidance."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from tests.tiny import tiny_sd, tiny_sdxl
from workbench.blocks.branches import Branch
from workbench.blocks.denoise import condition
from workbench.core.ask import Ask
from workbench.core.tape import Step

ASK = Ask(prompts=["a cat", "the red dog"], seeds=[1, 2])
ROWS = 4


@pytest.mark.parametrize("make", [tiny_sd, tiny_sdxl])
@torch.no_grad()
def test_the_branch_is_what_the_network_says_to_its_prompt(make: object) -> None:
    bundle = make()  # type: ignore[operator]
    cond = replace(condition(bundle, ASK, True, (16, 16)), step=Step(0, 4, 500.0))
    x, t = torch.randn(ROWS, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.full((ROWS,), 500)
    branch = Branch(bundle, "dog")
    made = branch.wrap(bundle.seams.predict)(x, t, cond)
    assert_close(made, bundle.predict(x, t, cond), atol=1e-5, rtol=1e-4)
    alone = condition(bundle, ASK.but(prompts=("dog", "dog")), False, (16, 16))
    assert_close(branch.output, bundle.predict(x[2:], t[2:], alone), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_nothing_is_added_outside_a_run_or_without_guidance() -> None:
    bundle, seen = tiny_sd(), list[int]()
    branch = Branch(bundle, "dog")

    def count(x: torch.Tensor, t: torch.Tensor, cond: object) -> torch.Tensor:
        seen.append(len(x))
        return x

    wrapped, x = branch.wrap(count), torch.zeros(ROWS, 4, 8, 8)
    guided = condition(bundle, ASK, True, (16, 16))
    wrapped(x, torch.zeros(ROWS), guided)
    assert branch.output is None
    plain = replace(condition(bundle, ASK, False, (16, 16)), step=Step(0, 4, 500.0))
    wrapped(x[:2], torch.zeros(2), plain)
    assert branch.output is None
    wrapped(x, torch.zeros(ROWS), replace(guided, step=Step(0, 4, 500.0)))
    assert branch.output is not None
    assert seen == [4, 2, 6]
