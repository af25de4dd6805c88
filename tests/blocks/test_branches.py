"""A further prediction beside the guided pair: the same as one asked alone, and only where there is guidance."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from tests.tiny import tiny_sd, tiny_sdxl
from workbench.blocks.branches import Branch, Branches, images, masked
from workbench.blocks.denoise import condition
from workbench.blocks.gates import Now
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


@torch.no_grad()
def test_branches_are_separate_calls_made_one() -> None:
    bundle = tiny_sd()
    cond = replace(condition(bundle, ASK, True, (16, 16)), step=Step(0, 4, 500.0))
    x, t = torch.randn(ROWS, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.full((ROWS,), 500)
    other = condition(bundle, ASK.but(prompts=("dog", "dog")), True, (16, 16))
    branches = Branches(2, retell=lambda branch, told: replace(told, text=other.text) if branch else told)
    made = branches.wrap(bundle.seams.predict)(x, t, cond)
    assert_close(made, (bundle.predict(x, t, cond) + bundle.predict(x, t, other)) / 2, atol=1e-5, rtol=1e-4)


def test_gates_open_in_their_own_branch() -> None:
    bundle = tiny_sd()
    cond = condition(bundle, ASK, True, (16, 16))
    branches = Branches(3)
    wide = branches.spread(cond)
    assert wide.roles == cond.roles * 3
    assert branches.rows(1, wide) == [6, 7]
    for branch in range(3):
        values = branches.gate(branch)(Now("unet:a.weight", (12, 4, 4), "picture", wide, (2, 2)))
        assert isinstance(values, torch.Tensor)
        assert values.flatten().nonzero().flatten().tolist() == [4 * branch + i for i in range(4)]
    assert branches.gate(0)(Now("text:a.weight", (1, 4, 4), "text", None, (2, 2))) == 1.0
    nested = Branches(2).spread(wide)  # another edit's branches around these are told apart from them
    assert branches.gate(2)(Now("unet:a.weight", (24, 4, 4), "picture", nested, (2, 2))).sum() == 8  # type: ignore[union-attr]


def test_a_blend_takes_each_place_from_its_masks() -> None:
    made = torch.stack([torch.zeros(1, 1, 1, 3), torch.ones(1, 1, 1, 3), torch.full((1, 1, 1, 3), 4.0)])
    masks = torch.tensor([[1.0, 0, 0], [0, 1.0, 1.0], [0, 0, 1.0]])[:, None, None, None]
    assert masked(made, masks).flatten().tolist() == [0.0, 1.0, 2.5]


def test_rows_belong_to_images_in_their_order() -> None:
    cond = condition(tiny_sd(), ASK, True, (16, 16))
    assert images(cond, 2) == [0, 1, 0, 1]
    assert images(cond.rows([0, 2, 1, 3]), 2) == [0, 0, 1, 1]
    assert images(Branches(2).spread(cond), 2) == [0, 1, 0, 1] * 2
