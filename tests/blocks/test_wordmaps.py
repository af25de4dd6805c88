"""Words over the picture: sites that count, columns that average tokens, maps of several sites."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from tests.tiny import tiny_sd
from workbench.blocks.recorder import Look
from workbench.blocks.spans import spans, tokens
from workbench.blocks.wordmaps import averaging, cross_sites, follow, gather, overlap, spread_of, word_maps
from workbench.core.attend import Attention
from workbench.core.errors import AskError
from workbench.core.report import Film


def test_fine_sites_count_or_those_asked_for() -> None:
    assert {(s.level, s.side) for s in cross_sites(tiny_sd())} == {(0, "down"), (0, "up")}  # 8 cells: the finest alone
    assert all(s.side == "mid" for s in cross_sites(tiny_sd(), side="mid"))
    assert all(s.level == 1 for s in cross_sites(tiny_sd(), level=1))
    with pytest.raises(AskError, match=r"no cross-attention at level 5, side up\. There are: level 0 down"):
        cross_sites(tiny_sd(), 5, "up")


def test_columns_average_tokens_and_occurrences_and_sum_the_prompt() -> None:
    bundle, prompt = tiny_sd(), "a bird and a cat, bird"
    columns = averaging(bundle, [prompt, "cat"], [follow(bundle, prompt, ("bird", "cat")), follow(bundle, "cat", ())])
    assert columns.shape == (2, 77, 3)
    one, two = spans(bundle, prompt, "bird")
    expected = torch.zeros(77)
    expected[one + two] = 1 / (2 * len(one))
    assert_close(columns[0, :, 0], expected)
    assert columns[0, :, -1].sum() == len(tokens(bundle, prompt))
    assert columns[1, :, 1].abs().sum() == 0  # the second prompt has one word
    assert columns[1, 1, 0] == 1


def test_all_tokens_together_look_everywhere_alike() -> None:
    flat = torch.rand(1, 64, 5, generator=torch.Generator().manual_seed(0)).softmax(-1)
    assert_close(gather([flat, flat], (8, 8)).sum(-1), torch.ones(1, 8, 8))


def test_words_of_each_head_have_the_mean_of_all() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 3, 16, 4, generator=generator), torch.randn(2, 3, 5, 4, generator=generator)
    columns = torch.rand(2, 5, 2, generator=generator)
    look = Look(tiny_sd().sites("cross-attention")[0], Attention(q, k, k), None, (4, 4))
    heads = word_maps(columns, heads=True)(look)
    assert heads.shape == (2, 3, 16, 2)
    assert_close(heads.mean(1), word_maps(columns)(look))
    assert_close(heads, look.call.weights() @ columns[:, None])


def test_overlap_on_paper() -> None:
    one, two = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])
    assert overlap([Film(np.stack([one, two]), ("a", "b"))]) == 0
    assert overlap([Film(np.stack([one, one]), ("a", "b"))]) == pytest.approx(1)
    assert overlap([Film(one[None], ("a",))]) == 1


def test_spread_of_an_even_map_and_of_a_point() -> None:
    assert spread_of(torch.ones(4, 4)) == (1.0, 1.0)
    assert spread_of(torch.eye(16)[:1].reshape(4, 4)) == (0.0, 16.0)
