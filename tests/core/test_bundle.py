"""A loaded model as methods see it."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.tiny import tiny_sd, tiny_sdxl
from workbench.core.bundle import Bundle, Condition, Handle, Site, TextStates
from workbench.core.errors import AskError, MissingPart
from workbench.core.patch import Patch
from workbench.core.tape import Ended, Step


def condition() -> Condition:
    states = torch.arange(4.0).view(4, 1, 1).expand(4, 3, 2)
    text = TextStates(states, pooled=torch.arange(4.0).view(4, 1), ids=torch.arange(4).view(4, 1).expand(4, 3))
    step = Step(0, 1, 999.0)
    extra = {"time_ids": torch.arange(4).view(4, 1)}
    return Condition(text, (5, 6, 5, 6), ("uncond", "uncond", "cond", "cond"), step, extra)


def test_rows_of_a_condition_keep_text_seed_role_step_and_extras_together() -> None:
    some = condition().rows([3, 0])
    assert some.text.states[:, 0, 0].tolist() == [3, 0]
    assert some.text.pooled.flatten().tolist() == [3, 0]
    assert some.text.ids[:, 0].tolist() == [3, 0]
    assert some.text.mask is None
    assert (some.seeds, some.roles) == ((6, 5), ("cond", "uncond"))
    assert some.extra["time_ids"].flatten().tolist() == [3, 0]
    assert some.step is condition().step or some.step == condition().step


def test_rows_with_a_role_are_found() -> None:
    assert condition().where("cond") == [2, 3]
    assert condition().where("uncond") == [0, 1]
    assert condition().where("branch") == []


def test_a_handle_reads_and_replaces_a_whole_matrix() -> None:
    bundle = tiny_sd()
    value = bundle.sites("cross-attention")[0].value
    old = value.weight
    with Patch(bundle) as patch:
        value.replace(patch, torch.zeros(16, 32, dtype=torch.float64))
        assert value.weight.dtype == old.dtype
        assert value.weight.abs().sum() == 0
        with pytest.raises(AskError, match=r"has shape \(16, 32\); \(3, 3\) was given"):
            value.replace(patch, torch.zeros(3, 3))
    assert value.weight is old


def test_rows_of_a_fused_matrix_are_replaced_alone() -> None:
    bundle = tiny_sd()
    mlp = bundle.sites("mlp")[0]
    up, gate = mlp.up.weight.clone(), mlp.gate.weight.clone()
    assert up.shape == gate.shape == (mlp.down.weight.shape[1], mlp.down.weight.shape[0])
    with Patch(bundle) as patch:
        mlp.gate.replace(patch, gate + 1)
        assert torch.equal(mlp.up.weight, up)
        assert torch.equal(mlp.gate.weight, gate + 1)
        mlp.up.replace(patch, up * 2)
        assert torch.equal(mlp.up.weight, up * 2)
        assert torch.equal(mlp.gate.weight, gate + 1)
    assert torch.equal(torch.cat([up, gate]), mlp.up.owner.weight)


def test_a_fused_handle_of_three_keeps_the_other_two() -> None:
    bundle, fused = tiny_sd(), nn.Linear(2, 6)
    names = ("query", "key", "value")
    handles = {name: Handle("unet:fused.weight", fused, rows=slice(2 * i, 2 * i + 2)) for i, name in enumerate(names)}
    site = Site("unet", "fused", "self-attention", fused, handles=handles)
    old = fused.weight.clone()
    with Patch(bundle) as patch:
        site.key.replace(patch, torch.zeros(2, 2))
        assert torch.equal(fused.weight[:2], old[:2])
        assert torch.equal(fused.weight[4:], old[4:])
        assert fused.weight[2:4].abs().sum() == 0
    assert torch.equal(fused.weight, old)
    with pytest.raises(MissingPart, match=r"unet:fused has no out\. It has: query, key, value\."):
        site.out  # noqa: B018


@pytest.mark.parametrize("bundle", [tiny_sd, tiny_sdxl], ids=["sd", "xl"])
def test_sites_are_where_they_say(bundle: type[Bundle]) -> None:
    model = bundle()
    names = [(site.kind, site.name) for site in model.all_sites]
    assert len(names) == len(set(names))
    for site in model.all_sites:
        assert model.parts[site.part].get_submodule(site.path) is site.module
        for handle in site.handles.values():
            part, _, path = handle.key.partition(":")
            owner = model.parts[part].get_submodule(path.rpartition(".")[0])
            assert owner is handle.owner
    assert {site.kind for site in model.all_sites} >= {
        "cross-attention", "self-attention", "mlp", "conv", "norm", "block", "residual", "skip", "stage"}  # fmt: skip


def test_sites_are_chosen_by_kind_and_level() -> None:
    bundle = tiny_sd()
    every = bundle.sites("cross-attention")
    assert [site for level in (0, 1) for site in bundle.sites("cross-attention", level)] != []
    assert {*bundle.sites("cross-attention", 0), *bundle.sites("cross-attention", 1)} == set(every)
    assert all(site.tokens == 64 >> (2 * site.level) for site in every)
    assert bundle.sites("cross-attention", 7) == ()


def test_skips_say_where_the_connection_begins() -> None:
    bundle, seen = tiny_sd(), {}
    with Patch(bundle) as patch:
        for site in bundle.sites("skip"):
            patch.hook(site.module, lambda m, a, k, site=site: seen.update({site.name: a[0].shape[1]}), "before")
        bundle.parts["unet"](torch.zeros(1, 4, 8, 8), 5, encoder_hidden_states=torch.zeros(1, 3, 32))
    for site in bundle.sites("skip"):
        assert 0 < site.split < seen[site.name]


def test_what_a_bundle_lacks_it_names() -> None:
    bare = replace(tiny_sd(), schedule=None, encoder=None, opener=None, name="bare")
    with pytest.raises(MissingPart, match="bare draws without a scheduler"):
        bare.scheduler("ddim", 3)
    with pytest.raises(MissingPart, match="bare has no picture encoder, so it cannot start from a picture"):
        bare.encode(torch.zeros(1, 3, 16, 16))
    with pytest.raises(MissingPart, match="bare was made without a loader, so it cannot open 'emoji-scorer'"):
        bare.open("emoji-scorer")


def test_pictures_go_to_latents_and_back_in_shape_and_without_chance() -> None:
    bundle = tiny_sd()
    pixels = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents = bundle.encode(pixels)
    assert latents.shape == (2, *bundle.shapes.latent)
    assert torch.equal(latents, bundle.encode(pixels))
    drawn = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    alone = torch.Generator().manual_seed(2)
    assert torch.equal(bundle.encode(pixels, drawn)[1:], bundle.encode(pixels[1:], [alone]))
    assert bundle.decode(latents).shape == (2, *bundle.shapes.image)
    assert (bundle.device.type, bundle.dtype) == ("cpu", torch.float32)


def test_listeners_are_told_in_order() -> None:
    bundle, heard = tiny_sd(), []
    with Patch(bundle) as patch:
        patch.each(lambda event: heard.append(("first", event)))
        patch.each(lambda event: heard.append(("second", event)))
        bundle.tell(Ended())
    assert [name for name, _ in heard] == ["first", "second"]
