"""Parameter groups: what is in them, and that training in a model's place leaves the model alone."""

import dataclasses

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from tests.tiny import tiny_sd, tiny_sdxl
from workbench.blocks.groups import Trainee, select
from workbench.core.bundle import Bundle, Handle
from workbench.core.errors import MethodError, MissingPart
from workbench.core.patch import Patch, differences, fingerprint


def keys(bundle: Bundle, group: str) -> list[str]:
    return [handle.key for handle in select(bundle, group)]  # type: ignore[arg-type]


@pytest.mark.parametrize("make", [tiny_sd, tiny_sdxl])
def test_the_groups_are_what_their_names_say(make: object) -> None:
    bundle = make()  # type: ignore[operator]
    sites = bundle.sites("cross-attention")
    assert keys(bundle, "xattn_k") == [site.key.key for site in sites]
    assert keys(bundle, "xattn_v") == [site.value.key for site in sites]
    assert set(keys(bundle, "xattn_kv")) == {*keys(bundle, "xattn_k"), *keys(bundle, "xattn_v")}
    assert len(keys(bundle, "xattn")) == 5 * len(sites)  # q, k, v, out and the bias of out
    every = {f"unet:{name}" for name, _ in bundle.parts["unet"].named_parameters()}
    assert set(keys(bundle, "full")) == every
    rest = set(keys(bundle, "noxattn"))
    assert not rest & set(keys(bundle, "xattn"))
    left = every - rest - set(keys(bundle, "xattn"))
    assert left
    assert all(".norm" in key or "conv_norm_out" in key for key in left)


def test_each_parameter_is_named_once_and_is_where_its_key_says() -> None:
    with Patch(tiny_sd()) as patch:
        for group in ("xattn", "noxattn", "full"):
            handles = select(tiny_sd(), group)
            assert len({handle.key for handle in handles}) == len(handles)
            assert all(patch.find(handle.key) == (handle.owner, handle.name) for handle in handles)


def test_a_model_without_cross_attention_is_told_so() -> None:
    bundle = dataclasses.replace(
        tiny_sd(), name="plain", all_sites=tuple(s for s in tiny_sd().all_sites if s.kind != "cross-attention")
    )
    with pytest.raises(MissingPart, match=r"The group xattn is told by cross-attention; plain is a unet model"):
        select(bundle, "xattn")
    assert len(select(bundle, "full")) == len(select(tiny_sd(), "full"))


def test_the_models_own_values_are_never_written_to() -> None:
    bundle = tiny_sd()
    before = fingerprint(bundle, deep=True)
    with Patch(bundle) as patch:
        handle = select(bundle, "xattn_k")[0]
        own = handle.weight
        trainee = Trainee(patch, [handle])
        trainee.live[0].data.add_(1.0)
        assert handle.weight is trainee.live[0]
        with trainee.resting():
            assert torch.equal(handle.weight, own)
        assert_close(handle.weight.data, own + 1)
        assert_close(trainee.delta({}).tensors[handle.key], torch.ones_like(own))
    assert differences(before, fingerprint(bundle, deep=True)) == []


def test_masked_entries_stay_bit_for_bit_under_momentum_and_weight_decay() -> None:
    bundle = tiny_sd()
    with Patch(bundle) as patch:
        handle = select(bundle, "xattn_v")[0]
        mask = (torch.arange(handle.weight.numel()) % 2).reshape(handle.weight.shape).float()
        trainee = Trainee(patch, [handle], masks={handle.key: mask})
        optimiser = torch.optim.AdamW(trainee.values, lr=0.1, weight_decay=0.5)
        for _ in range(3):
            trainee.take({handle.key: torch.ones_like(handle.weight)})
            optimiser.step()
            trainee.settle()
        live, own = trainee.live[0].detach(), trainee.base[0]
        assert torch.equal(live[mask == 0], own[mask == 0])
        assert (live[mask == 1] != own[mask == 1]).all()
        assert not optimiser.state[trainee.live[0]]["exp_avg"][mask == 0].any()


def test_low_rank_factors_follow_the_gradient_of_their_product() -> None:
    bundle = tiny_sd()
    with Patch(bundle) as patch:
        handles = [h for h in select(bundle, "noxattn") if h.key.endswith(("conv1.weight", "proj_in.weight"))][:2]
        trainee = Trainee(patch, handles, rank=3, alpha=6.0, seed=1)
        assert trainee.scale == 2.0
        assert torch.equal(trainee.live[0], trainee.base[0])  # the upper factor begins at zero
        for up, _ in trainee.factors:
            up.data.normal_(generator=torch.Generator().manual_seed(0))
        trainee.settle()
        gradients = {key: torch.randn_like(live) for key, live in zip(trainee.keys, trainee.live, strict=True)}
        trainee.take(gradients)
        for key, base, live, (up, down) in zip(trainee.keys, trainee.base, trainee.live, trainee.factors, strict=True):
            u, d = up.detach().double().requires_grad_(), down.detach().double().requires_grad_()
            whole = base.double() + 2.0 * (u @ d).reshape(base.shape)
            assert_close(live.detach().double(), whole.detach(), atol=1e-6, rtol=1e-5)
            (whole * gradients[key].double()).sum().backward()
            assert_close(up.grad, u.grad.float(), atol=1e-5, rtol=1e-4)
            assert_close(down.grad, d.grad.float(), atol=1e-5, rtol=1e-4)
        delta = trainee.delta({})
        assert_close(delta.changed(trainee.keys[0], trainee.base[0]), trainee.live[0].detach())


def test_low_rank_factors_do_not_take_masks() -> None:
    handles = select(tiny_sd(), "xattn_k")[:1]
    with Patch(tiny_sd()) as patch, pytest.raises(MethodError, match="cannot be masked"):
        Trainee(patch, handles, rank=2, masks={handles[0].key: torch.ones_like(handles[0].weight)})


def test_of_a_fused_matrix_only_the_selected_rows_move() -> None:
    fused = nn.Linear(4, 6, bias=False).requires_grad_(False)
    with Patch(tiny_sd()) as patch:
        handles = [Handle("unet:fused.weight", fused, rows=slice(2, 4))]
        trainee = Trainee(patch, handles)
        trainee.take({"unet:fused.weight": torch.ones(6, 4)})
        assert trainee.live[0].grad.any(1).tolist() == [False, False, True, True, False, False]
        trainee.live[0].data.add_(1)
        trainee.settle()
        moved = (trainee.delta({}).tensors["unet:fused.weight"] != 0).any(1).tolist()
    assert moved == [False, False, True, True, False, False]
