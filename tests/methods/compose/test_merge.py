"""Merging: exact sums, truncation, the rules on dense changes, export, and what is refused."""

import re
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from tests.contract.stage import ASK, drawn, drawn_with
from tests.methods.compose.layouts import dense, fitted, random_factors, saved
from tests.tiny import tiny_sd
from workbench.blocks.adapters import random_adapter
from workbench.core.catalog import method
from workbench.core.errors import AskError
from workbench.core.method import Edit
from workbench.methods.compose.merge import Merge
from workbench.ops import merging_adapters as rules
from workbench.ops.noise import row_generator
from workbench.runs.export import export_model

TWO, WEIGHTS = ("random:1", "random:2"), (0.7, -0.4)
KEY = next(iter(random_adapter(tiny_sd(), "random:1").low_rank))


def changes(key: str = KEY) -> torch.Tensor:
    return torch.stack([dense(random_adapter(tiny_sd(), name).low_rank.factors[key]) for name in TWO])


def test_a_sum_is_the_sum_without_terms_that_belong_to_no_adapter() -> None:
    delta = fitted(Merge(adapters=TWO, weights=WEIGHTS))
    expected = WEIGHTS[0] * changes()[0] + WEIGHTS[1] * changes()[1]
    assert delta.tensors[f"{KEY}.up"].shape[1] == 8  # the ranks of both
    assert_close(delta.change(KEY).double(), expected, atol=1e-6, rtol=1e-5)
    factors = [random_adapter(tiny_sd(), name).low_rank.factors[KEY] for name in TWO]
    crossed = (factors[0][0] + factors[1][0]) @ (factors[0][1] + factors[1][1])  # what adding factors would give
    assert float((crossed - changes().sum(0)).norm() / changes().sum(0).norm()) > 0.5


def test_svd_is_the_nearest_of_its_rank_and_exact_where_that_suffices() -> None:
    total = changes().sum(0)
    left, sizes, right = torch.linalg.svd(total)
    for rank, expected in ((0, 4), (2, 2), (8, 8)):
        delta = fitted(Merge(adapters=TWO, rule="svd", rank=rank))
        assert delta.tensors[f"{KEY}.up"].shape[1] == expected
        best = left[:, :expected] * sizes[:expected] @ right[:expected]
        assert_close(delta.change(KEY).double(), best, atol=1e-5, rtol=1e-5)
    assert_close(delta.change(KEY).double(), total, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rule", ["ties", "magnitude", "dare", "dare-ties"])
def test_dense_rules_are_applied_matrix_by_matrix(rule: str) -> None:
    edit = Merge(adapters=TWO, weights=WEIGHTS, rule=rule, density=0.4, seed=5)
    generators = [row_generator(5, "dare", KEY, index) for index in range(2)]
    known = {
        "ties": lambda: rules.ties(changes(), WEIGHTS, 0.4),
        "magnitude": lambda: rules.magnitude(changes(), WEIGHTS, 0.4),
        "dare": lambda: rules.dare(changes(), WEIGHTS, 0.4, generators),
        "dare-ties": lambda: rules.dare(changes(), WEIGHTS, 0.4, generators, elect=True),
    }
    assert_close(fitted(edit).change(KEY).double(), known[rule](), atol=1e-5, rtol=1e-4)
    narrow = fitted(edit.but(rank=3))
    assert narrow.tensors[f"{KEY}.up"].shape[1] == 3


def test_what_dare_drops_follows_from_seed_matrix_and_adapter() -> None:
    one, same, other = (fitted(Merge(adapters=TWO, rule="dare", seed=seed)).change(KEY) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_merged_weights_draw_what_live_adapters_draw() -> None:
    ask = ASK.row(0)
    live = drawn_with(tiny_sd(), method("lora", adapters=TWO, weights=WEIGHTS), ask=ask)
    merged = drawn_with(tiny_sd(), Merge(adapters=TWO, weights=WEIGHTS), ask=ask)
    merged.near(live, "merged against live")
    assert not merged.equals(drawn(tiny_sd(), ask))


def test_strength_scales_without_a_new_fit() -> None:
    one, half = Merge(adapters=TWO), Merge(adapters=TWO, strength=0.5)
    assert one.fit_key == half.fit_key
    weight = tiny_sd().parts["unet"].get_parameter(KEY.partition(":")[2])
    delta = fitted(one)
    assert torch.equal(delta.changed(KEY, weight, 0.0), weight)
    moved = delta.changed(KEY, weight, 0.5) - weight
    assert_close(moved, 0.5 * delta.change(KEY), atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("name", ["merge", "stf", "lego", "cabs", "compeft"])
def test_a_merge_is_exported_as_a_lora(name: str, tmp_path: Path) -> None:
    edit = method(name, adapters=TWO)
    assert isinstance(edit, Edit)
    done = export_model(tiny_sd(), [edit], tmp_path / name, "lora")
    assert done.changed == len(random_adapter(tiny_sd(), "random:1").low_rank)
    assert done.lost < 0.011  # a LoRA keeps all but 1e-4 of the squared change


def test_a_matrix_that_one_adapter_leaves_alone_is_the_others(tmp_path: Path) -> None:
    first, second = sorted(random_adapter(tiny_sd(), "random:1").low_rank)[:2]
    low = random_adapter(tiny_sd(), "random:1").low_rank
    sources = (saved(tmp_path, "a", {first: low.factors[first]}), saved(tmp_path, "b", {second: low.factors[second]}))
    for rule in ("sum", "ties"):
        delta = fitted(Merge(adapters=sources, rule=rule, density=1.0))
        for key in (first, second):
            assert_close(delta.change(key), low.dense(key), atol=1e-5, rtol=1e-4)


def test_adapters_that_do_not_fit_together_or_the_model_are_refused_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(AskError, match=re.escape("at most 16 are worn")):
        Merge(adapters=[f"random:{i}" for i in range(40)])
    with pytest.raises(AskError, match=r"there are 2 adapters and 3 weights. Give one weight each, or none"):
        fitted(Merge(adapters=TWO, weights=(1.0, 2.0, 3.0)))
    with pytest.raises(AskError, match="at least 1 item"):
        Merge(adapters=())
    strange = saved(tmp_path, "strange", {KEY: random_factors(1, 9, 5)})
    with pytest.raises(Exception, match=r"^[^\n]+$") as caught:
        fitted(Merge(adapters=(strange, "random:1")))
    assert "strange" in str(caught.value)
