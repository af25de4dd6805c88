"""The lora edit: weights, places and schedules against the equation, its neutral setting, and its refusals."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.loras import FORMATS, saved
from tests.tiny import SIDE, tiny_sd, tiny_sdxl
from workbench.blocks.adapters import random_adapter
from workbench.blocks.denoise import condition
from workbench.core.ask import Ask
from workbench.core.bundle import Bundle, Condition
from workbench.core.errors import AskError
from workbench.core.patch import Patch, differences, fingerprint
from workbench.core.scene import using
from workbench.core.tape import Step
from workbench.methods.compose.lora import Lora

TWO = ("random:1", "random:2")


def said(bundle: Bundle, step: Step | None = None) -> Tensor:
    x = torch.randn(2, 4, SIDE, SIDE, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        told = condition(bundle, Ask(prompts=("a cat", "the red dog")), False, (2 * SIDE, 2 * SIDE))
        cond = Condition(told.text, told.seeds, told.roles, step, told.extra)
        return bundle.predict(x, torch.tensor([300, 700]), cond)


def edited(edit: Lora, step: Step | None = None) -> Tensor:
    with using(tiny_sd(), edit) as bundle:
        return said(bundle, step)


def slow(weights: dict[str, dict[str, float]]) -> Tensor:
    """A second way: W + sum w up down put into the model, adapter by adapter and matrix by matrix, in float64."""
    bundle = tiny_sd()
    lows = {source: random_adapter(bundle, source).low_rank for source in weights}
    with Patch(bundle) as patch:
        for source, factors in weights.items():
            low = lows[source]
            for key in low:
                owner, name = patch.find(key)
                own = getattr(owner, name).detach().double()
                up, down = (part.double() for part in low.factors[key])
                new = own + factors.get(key, factors["else"]) * (up @ down)
                patch.put(owner, name, torch.nn.Parameter(new.float(), requires_grad=False))
        return said(bundle)


def test_two_adapters_are_the_weighted_sum() -> None:
    found = edited(Lora(adapters=TWO, weights=(0.7, -0.4)))
    assert_close(found, slow({"random:1": {"else": 0.7}, "random:2": {"else": -0.4}}), rtol=1e-4, atol=1e-5)


def test_the_halves_and_single_places_are_scaled_apart() -> None:
    """Every matrix of a place is scaled, where block dictionaries elsewhere miss some."""
    low = random_adapter(tiny_sd(), "random:1").low_rank
    factors = {"else": 1.0}
    for key in low:
        factors[key] = {"down": 0.0, "up_b": 0.5}.get(key[5:9], 1.0)
        if "up_blocks.1" in key:
            factors[key] = 0.25
    edit = Lora(adapters=["random:1"], down=0.0, up=0.5, blocks=["unet:up_blocks.1=0.25"])
    assert_close(edited(edit), slow({"random:1": factors}), rtol=1e-4, atol=1e-5)
    assert {0.0, 0.5, 0.25} <= set(factors.values())


def test_the_text_tower_is_scaled_apart(tmp_path: Path) -> None:
    tensors, _ = FORMATS["kohya"](tiny_sd())
    file = str(saved({k: v for k, v in tensors.items() if k.startswith("lora_te")}, tmp_path / "te.safetensors"))
    whole, none = Lora(adapters=[file]), Lora(adapters=[file], text=0.0)
    assert torch.equal(edited(none), said(tiny_sd()))
    assert not torch.allclose(edited(whole), said(tiny_sd()), atol=1e-4)


def test_a_schedule_is_a_line_over_the_run() -> None:
    edit = Lora(adapters=["random:1"], schedule=(0.0, 1.0))
    early, middle, late = (Step(index, 5, 500.0) for index in (0, 2, 4))
    assert torch.equal(edited(edit, early), said(tiny_sd()))
    assert_close(edited(edit, middle), slow({"random:1": {"else": 0.5}}), rtol=1e-4, atol=1e-5)
    assert_close(edited(edit, late), slow({"random:1": {"else": 1.0}}), rtol=1e-4, atol=1e-5)


def test_places_and_schedules_of_one_adapter_are_its_own() -> None:
    """The second adapter's place counts before the common one, wherever the common one is narrower or wider."""
    low = random_adapter(tiny_sd(), "random:1").low_rank
    first = {"else": 1.0, **{key: 0.5 for key in low if "up_blocks.1" in key}}
    second = {"else": 1.0, **{key: -1.0 for key in low if "up_blocks.1" in key}}
    own = Lora(adapters=TWO, blocks=["unet:up_blocks.1=0.5", "2/unet:up_blocks.1=-1"])
    assert_close(edited(own), slow({"random:1": first, "random:2": second}), rtol=1e-4, atol=1e-5)
    wider = Lora(adapters=TWO, blocks=["unet:up_blocks.1.attentions=0.5", "2/unet:up_blocks.1=-1"])
    assert any("up_blocks.1.attentions" in key for key in low)
    assert_close(edited(wider), slow({"random:1": first, "random:2": second}), rtol=1e-4, atol=1e-5)
    timed = Lora(adapters=TWO, schedule=(0.0, 1.0), schedules=((), (1.0, 0.0)))
    early, late = slow({"random:2": {"else": 1.0}}), slow({"random:1": {"else": 1.0}})
    assert_close(edited(timed, Step(0, 5, 500.0)), early, rtol=1e-4, atol=1e-5)
    assert_close(edited(timed, Step(4, 5, 500.0)), late, rtol=1e-4, atol=1e-5)


def test_weight_zero_changes_nothing_bit_for_bit() -> None:
    assert torch.equal(edited(Lora(adapters=TWO, weights=(0.0, 0.0))), said(tiny_sd()))


def test_one_setting_is_not_shared_between_adapters() -> None:
    """A dictionary of blocks given to two adapters elsewhere reaches the first alone."""
    both = Lora(adapters=TWO, down=0.0, mid=0.0, up=0.0)
    assert torch.equal(edited(both), said(tiny_sd()))


def test_the_model_is_what_it_was_after_many_uses() -> None:
    bundle = tiny_sd()
    before = fingerprint(bundle, deep=True)
    for weight in (1.0, -2.0, 0.3):
        with using(bundle, Lora(adapters=TWO, weights=(weight, weight))):
            said(bundle)
    assert differences(before, fingerprint(bundle, deep=True)) == []


def test_pictures_are_drawn_with_it() -> None:
    from workbench.methods.generate.diffuse import Diffuse

    ask, sampler = Ask(prompts=["a cat"], seeds=[3]), Diffuse(steps=2)
    plain = sampler.sample(tiny_sdxl(), ask, lambda step: None)
    with using(tiny_sdxl(), Lora(adapters=["random:1"])) as bundle:
        assert not torch.equal(sampler.sample(bundle, ask, lambda step: None), plain)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"adapters": ["random:1"] * 40}, "names 40 adapters, and at most 16 are worn at once. Merge some"),
        ({"adapters": []}, "at least 1"),
        ({"adapters": TWO, "weights": [float("nan"), 1.0]}, "finite"),
    ],
)
def test_bad_settings_are_refused_in_one_line(settings: dict[str, object], line: str) -> None:
    with pytest.raises(AskError, match=line) as refused:
        Lora(**settings)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"adapters": TWO, "weights": [1.0]}, "2 adapters and 1 weights"),
        ({"adapters": ["random:1"], "blocks": ["unet:up_blocks.9=1"]}, "no place 'unet:up_blocks.9'"),
        ({"adapters": ["random:1"], "blocks": ["up=much"]}, "no factor of a place"),
        ({"adapters": TWO, "blocks": ["3/unet:up_blocks.1=1"]}, "is about adapter 3; there are 2"),
        ({"adapters": TWO, "schedules": [[1.0]]}, "2 adapters and 1 schedules"),
    ],
)
def test_bad_requests_are_refused_with_the_value(settings: dict[str, object], line: str) -> None:
    with pytest.raises(AskError, match=line), using(tiny_sd(), Lora(**settings)):
        pass


def test_a_seeded_number_of_the_tiny_model() -> None:
    assert float(edited(Lora(adapters=["random:1"])).double().abs().mean()) == pytest.approx(GOLDEN, rel=1e-4)


GOLDEN = 0.238802
