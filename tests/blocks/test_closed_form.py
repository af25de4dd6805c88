"""What closed-form edits share: matrices in order, sums over prompts, one operator for all, fused matrices."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from tests.tiny import tiny_sd, tiny_sdxl
from workbench.blocks.closed_form import (
    erase_moments,
    keep_moments,
    kept_states,
    operator,
    text_matrices,
    told,
    weight_of,
    weights_delta,
)
from workbench.blocks.concepts import phrases
from workbench.blocks.moments import Moments
from workbench.core.bundle import Handle
from workbench.core.errors import MissingPart
from workbench.ops.linear_edit import System


@pytest.mark.parametrize("make", [tiny_sd, tiny_sdxl])
def test_keys_and_values_of_every_cross_attention_take_the_text(make) -> None:
    bundle = make()
    handles = text_matrices(bundle, "uce")
    sites = bundle.sites("cross-attention")
    assert len(handles) == 2 * len(sites) == len({handle.key for handle in handles})
    assert {handle.weight.shape[1] for handle in handles} == {bundle.shapes.text[1]}
    assert len(text_matrices(bundle, "uce", "values")) == len(sites)
    with pytest.raises(MissingPart, match="uce edits cross-attention"):
        text_matrices(replace(bundle, all_sites=()), "uce")


def test_sums_over_prompts_equal_loops() -> None:
    bundle = tiny_sd()
    found = erase_moments(bundle, ["cat", "dog"], "red", "all")
    a = b = 0
    for concept in ("cat", "dog"):
        mine, theirs = phrases(bundle, concept, "red")
        for one, other in zip(mine, theirs, strict=True):
            k, v = (bundle.read([p.text]).states[0].double() for p in (one, other))
            for i in range(len(k)):
                a, b = a + torch.outer(v[i], k[i]) / len(mine), b + torch.outer(k[i], k[i]) / len(mine)
    assert_close(found.b, b, atol=1e-3, rtol=1e-5)  # the reader's float32 differs in batches
    assert_close(found.a, a, atol=1e-3, rtol=1e-5)
    kept = keep_moments(bundle, ["dog"], "last")
    assert torch.equal(kept.a, kept.b)
    assert keep_moments(bundle, [], "last").b.abs().max() == 0


def test_one_operator_is_every_matrixs_own_solution() -> None:
    generator = torch.Generator().manual_seed(0)
    K, V, S = (torch.randn(n, 6, generator=generator, dtype=torch.float64) for n in (9, 9, 4))
    W = torch.randn(3, 6, generator=generator, dtype=torch.float64)
    move, system = operator(Moments.of(K, V), Moments.of(S, S), 0.1)
    ridge = 0.1 * float((K.T @ K + S.T @ S).trace()) / 6
    rows = torch.cat([K, S, ridge**0.5 * torch.eye(6, dtype=torch.float64)])
    wanted = torch.cat([(V - K) @ W.T, torch.zeros(4 + 6, 3, dtype=torch.float64)])
    assert_close(W @ move, torch.linalg.lstsq(rows, wanted).solution.T, atol=1e-8, rtol=0)
    assert system.condition > 1


def test_a_fused_matrix_changes_in_its_own_rows_alone() -> None:
    owner = nn.Linear(4, 6, bias=False)
    halves = [Handle("unet:kv.weight", owner, rows=slice(0, 3)), Handle("unet:kv.weight", owner, rows=slice(3, 6))]
    delta = weights_delta(halves, [torch.ones(3, 4), 2 * torch.ones(3, 4)], {"a": "b"})
    assert list(delta.tensors) == ["unet:kv.weight"]
    assert delta.tensors["unet:kv.weight"][:, 0].tolist() == [1, 1, 1, 2, 2, 2]
    assert weight_of(halves[1]).shape == (3, 4)
    alone = weights_delta(halves[1:], [torch.ones(3, 4)], {})
    assert alone.tensors["unet:kv.weight"][:, 0].tolist() == [0, 0, 0, 1, 1, 1]
    said = told([System(torch.eye(4), 1.0)], halves, [torch.zeros(3, 4)] * 2)
    assert (said["matrices"], said["singular"], said["relative_change"], said["condition"]) == ("2", "no", "0", "1")


def test_kept_states_are_spread_evenly_when_there_are_too_many() -> None:
    every = kept_states(tiny_sd(), ["cat", "dog"], "all")
    assert every.shape == (2 * 2 * 77, 32)
    some = kept_states(tiny_sd(), ["cat", "dog"], "all", most=100)
    assert torch.equal(some, every[::4])


def test_many_preserved_words_are_said_in_two_prompts_each_and_take_turns() -> None:
    bundle, words = tiny_sd(), [f"{a}{b}" for a in "abcdefgh" for b in "ijklm"]
    ways = phrases(bundle, "cat", "cat")[0]
    a = 0
    for i, word in enumerate(words):
        for way in (ways[2 * i % len(ways)], ways[(2 * i + 1) % len(ways)]):
            a = (
                a
                + bundle.read([f"{way.before}{word}"]).states[0].double().T
                @ bundle.read([f"{way.before}{word}"]).states[0].double()
            )
    assert_close(keep_moments(bundle, words, "all").b, a / 2, atol=2e-2, rtol=1e-5)
