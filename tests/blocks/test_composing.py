"""Reading adapters for a composition: weights, triggers, full differences, biases, learned words."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from tests.tiny import tiny_sd, tiny_sdxl
from workbench.blocks import composing
from workbench.blocks.adapters import Adapter, random_adapter
from workbench.core.catalog import find
from workbench.core.delta import Delta
from workbench.core.errors import AskError
from workbench.core.fields import controls
from workbench.methods.compose.merge import Merge
from workbench.ops.low_rank import LowRank

TWO = ("random:1", "random:2")


def adopted(*adapters: Adapter, weights: tuple[float, ...] = ()) -> composing.Adopted:
    low = tuple(composing._matrices(adapter) for adapter in adapters)
    flat = tuple({k: v for k, v in adapter.dense.items() if v.ndim < 2} for adapter in adapters)
    return composing.Adopted(adapters, weights or (1.0,) * len(adapters), low, flat)


def test_adapters_are_read_with_their_weights() -> None:
    found = composing.read(tiny_sd(), Merge(adapters=TWO, weights=(0.5, 2.0)))
    assert (found.weights, found.highest, found.triggers) == ((0.5, 2.0), 4, ("", ""))
    key = found.keys()[0]
    expected = 0.5 * found.low[0].dense(key) + 2.0 * found.low[1].dense(key)
    assert_close(found.sum().dense(key), expected)
    assert composing.read(tiny_sd(), Merge(adapters=TWO)).weights == (1.0, 1.0)


def test_full_differences_of_matrices_are_factors_and_biases_are_added_up() -> None:
    key, weight = next((f"unet:{n}", p) for n, p in tiny_sd().parts["unet"].named_parameters() if p.ndim == 4)
    change, bias = torch.randn(weight.shape), torch.randn(weight.shape[0])
    one = Adapter("one", LowRank({}), {key: change, key.replace("weight", "bias"): bias})
    found = adopted(one, one, weights=(0.5, 0.25))
    delta = found.delta(found.sum())
    assert_close(delta.change(key), 0.75 * change.flatten(1), atol=1e-5, rtol=1e-5)
    assert_close(delta.change(key.replace("weight", "bias")), 0.75 * bias)
    assert delta.changed(key, weight.detach()).shape == weight.shape


def test_learned_words_are_worn_but_not_merged() -> None:
    with_words = replace(random_adapter(tiny_sd(), TWO[0]), rows={"text": torch.zeros(1, 32)}, name="learned")
    with pytest.raises(AskError, match=r"learned holds learned words, which cannot be merged. Wear it with lora"):
        adopted(with_words).delta()


def test_triggers_are_those_set_or_the_files_own() -> None:
    class Asked:
        card: Any = find("clora").card
        adapters = TWO
        weights: tuple[float, ...] = ()
        triggers: tuple[str, ...] = ()

    found = adopted(*(replace(random_adapter(tiny_sd(), name), trigger=f"word {name[-1]}") for name in TWO))
    asked = Asked()
    assert composing.called(asked, found) == ("word 1", "word 2")
    asked.triggers = (" a ", "b")
    assert composing.called(asked, found) == ("a", "b")
    asked.triggers = ("a",)
    with pytest.raises(AskError, match="2 adapters and 1 triggers"):
        composing.called(asked, found)


def test_a_rule_sees_those_adapters_that_change_a_matrix() -> None:
    seen: dict[str, int] = {}

    def rule(key: str, parts: Any, weights: Any) -> Any:
        seen[key] = len(parts)
        assert len(weights) == len(parts)
        return parts[0]

    delta = composing.merged(tiny_sd(), Merge(adapters=TWO), rule)
    assert isinstance(delta, Delta)
    assert set(seen.values()) == {2}


def test_unlike_shapes_of_one_matrix_are_refused() -> None:
    pair, other = (torch.zeros(4, 1), torch.zeros(1, 3)), (torch.zeros(5, 1), torch.zeros(1, 3))
    with pytest.raises(AskError, match=r"merge: unet:a.weight is changed as 4x3 and 5x3. These adapters belong"):
        composing._refuse_unlike(Merge(adapters=TWO), "unet:a.weight", [pair, other])


def test_a_random_adapter_follows_from_its_seed_and_fits_any_model() -> None:
    for bundle in (tiny_sd(), tiny_sdxl()):
        one, same, other = (random_adapter(bundle, f"random:{seed}").low_rank for seed in (1, 1, 2))
        key = next(iter(one))
        assert torch.equal(one.dense(key), same.dense(key))
        assert not torch.equal(one.dense(key), other.dense(key))
        weight = bundle.parts["unet"].get_parameter(key.partition(":")[2])
        assert float(one.dense(key).norm() / weight.norm()) == pytest.approx(0.3, rel=1e-3)
    with pytest.raises(AskError, match="'random:x' is no random adapter"):
        random_adapter(tiny_sd(), "random:x")


def test_every_composition_names_its_adapters_and_triggers_to_the_pages() -> None:
    for name in ("merge", "stf", "lego", "cabs", "compeft", "least-squares", "lora-switch", "lora-composite", "k-lora",
                 "masked-lora", "clora"):  # fmt: skip
        known = {control.name: control for control in controls(find(name))}
        assert known["adapters"].role == "adapter", name
        assert "weights" in known, name
        for field, role in (("triggers", "trigger"), ("regions", "region")):
            assert field not in known or known[field].role == role, name
