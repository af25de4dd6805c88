"""Putting and taking back on real diffusers modules."""

import copy
import gc
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import nn

from tests.tiny import sd_pipe, tiny_sd
from workbench.core.bundle import Bundle
from workbench.core.delta import Delta
from workbench.core.errors import BundleInUse, PatchError
from workbench.core.patch import Patch, differences, fingerprint
from workbench.core.scene import using
from workbench.core.tape import Ended, Started, Step
from workbench.models.unet import from_pipeline


@pytest.fixture
def bundle() -> Iterator[Bundle]:
    """The shared bundle, which a test must leave as it was."""
    bundle = tiny_sd()
    before = fingerprint(bundle, deep=True)
    yield bundle
    assert differences(before, fingerprint(bundle, deep=True)) == []


@pytest.fixture
def spoilt() -> Bundle:
    """A bundle of one's own."""
    return from_pipeline(sd_pipe(), name="tiny-sd")


class ChildProcessor(nn.Module):
    """An attention processor that is a module, so diffusers registers it as a child."""

    def __init__(self) -> None:
        super().__init__()
        self.extra = nn.Parameter(torch.ones(1))
        self.plain = AttnProcessor2_0()

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        return self.plain(*args, **kwargs) * self.extra


def probe(bundle: Bundle) -> torch.Tensor:
    """The raw network on fixed rows."""
    generator = torch.Generator().manual_seed(0)
    x, states = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 7, 32, generator=generator)
    return bundle.parts["unet"](x, torch.tensor([10, 700]), encoder_hidden_states=states, return_dict=False)[0]


def attention(bundle: Bundle) -> Any:
    return bundle.sites("cross-attention")[0].module


def test_a_parameter_is_put_and_the_very_object_comes_back(bundle: Bundle) -> None:
    linear = attention(bundle).to_v
    old, order, plain = linear.weight, list(linear._parameters), probe(bundle)
    with Patch(bundle) as patch:
        patch.put(linear, "weight", nn.Parameter(old * 2, requires_grad=False))
        assert linear.weight is not old
        assert not torch.equal(probe(bundle), plain)
    assert linear.weight is old
    assert list(linear._parameters) == order
    assert torch.equal(probe(bundle), plain)


def test_a_parameter_may_give_way_to_none_and_to_a_plain_tensor_that_is_refused(bundle: Bundle) -> None:
    linear = attention(bundle).to_out[0]
    names = list(linear.state_dict())
    with Patch(bundle) as patch:
        patch.put(linear, "bias", None)
        assert linear.bias is None
        assert list(linear.state_dict()) == ["weight"]
        with pytest.raises(PatchError, match=r"Linear\.weight is a parameter; wrap the tensor in nn\.Parameter"):
            patch.put(linear, "weight", torch.zeros(2))
    assert list(linear.state_dict()) == names


def test_a_missing_bias_may_be_added_and_leaves_no_trace(bundle: Bundle) -> None:
    linear = attention(bundle).to_v
    assert linear.bias is None
    with Patch(bundle) as patch:
        patch.put(linear, "bias", nn.Parameter(torch.ones(linear.out_features)))
        assert "bias" in linear.state_dict()
    assert linear._parameters["bias"] is None
    assert "bias" not in linear.state_dict()


@pytest.mark.parametrize("persistent", [True, False])
def test_a_buffer_is_put_in_its_slot_with_its_persistence(spoilt: Bundle, persistent: bool) -> None:
    module = attention(spoilt)
    module.register_buffer("first", torch.zeros(1))
    module.register_buffer("gain", torch.ones(2), persistent=persistent)
    module.register_buffer("last", torch.zeros(1))
    before = fingerprint(spoilt)
    with Patch(spoilt) as patch:
        patch.put(module, "gain", torch.zeros(2))
        assert list(module._buffers) == ["first", "gain", "last"]
        patch.put(module, "gain", nn.Parameter(torch.zeros(2)))
        assert "gain" in module._parameters
        assert "gain" not in module._buffers
    assert differences(before, fingerprint(spoilt)) == []
    assert list(module._buffers) == ["first", "gain", "last"]
    assert ("gain" in module.state_dict()) is persistent


def test_a_child_module_is_put_and_the_order_of_children_is_kept(bundle: Bundle) -> None:
    module = attention(bundle)
    children, plain = list(module._modules), probe(bundle)
    other = copy.deepcopy(module.to_k)
    with Patch(bundle) as patch:
        patch.put(module, "to_k", other)
        assert list(module._modules) == children
        assert torch.equal(probe(bundle), plain)  # an equal twin
        patch.put(module, "to_k", None)
        patch.put(module, "to_k", lambda states: other(states))  # leaves the children, becomes a plain attribute
        assert "to_k" not in module._modules
        assert torch.equal(probe(bundle), plain)
    assert list(module._modules) == children
    assert module.to_k is not other


def test_a_plain_processor_gives_way_to_a_registered_one_and_back(bundle: Bundle) -> None:
    module = attention(bundle)
    old, names, plain = module.processor, list(vars(module)), probe(bundle)
    assert "processor" in vars(module)
    with Patch(bundle) as patch:
        child = ChildProcessor()
        patch.put(module, "processor", child)
        assert "processor" in module._modules
        assert "processor" not in vars(module)
        assert torch.equal(probe(bundle), plain)
        child.extra.data.fill_(2.0)
        assert not torch.equal(probe(bundle), plain)
    assert vars(module)["processor"] is old
    assert list(vars(module)) == names


def test_a_registered_processor_gives_way_to_a_plain_one_and_back(spoilt: Bundle) -> None:
    module = attention(spoilt)
    module.set_processor(ChildProcessor())
    old, before = module.processor, fingerprint(spoilt)
    assert module._modules["processor"] is old
    with Patch(spoilt) as patch:
        patch.put(module, "processor", AttnProcessor2_0())
        assert "processor" not in module._modules
        probe(spoilt)
    assert module._modules["processor"] is old
    assert differences(before, fingerprint(spoilt)) == []


def test_diffusers_own_set_processor_while_patched_is_undone_too(bundle: Bundle) -> None:
    module = attention(bundle)
    with Patch(bundle) as patch:
        patch.put(module, "processor", AttnProcessor2_0())
        module.set_processor(ChildProcessor())  # moves the name to another store behind our back


def test_forward_is_put_on_the_instance_and_taken_off(bundle: Bundle) -> None:
    module = attention(bundle)
    plain, inner = probe(bundle), module.forward
    with Patch(bundle) as patch:
        patch.put(module, "forward", lambda *args, **kwargs: 2 * inner(*args, **kwargs))
        assert not torch.equal(probe(bundle), plain)
    assert "forward" not in vars(module)
    assert torch.equal(probe(bundle), plain)


def test_tied_weights_are_replaced_in_every_alias_and_restored(spoilt: Bundle) -> None:
    unet, text = spoilt.parts["unet"], spoilt.parts["text"]
    first, second = (site.value.owner for site in spoilt.sites("cross-attention")[:2])
    tied = nn.Parameter(torch.zeros(16, 32), requires_grad=False)
    first.weight = tied
    unet.twin = nn.Linear(32, 16, bias=False)
    unet.twin.weight = tied
    text.far = nn.ParameterDict({"weight": tied})
    before, new = fingerprint(spoilt), nn.Parameter(torch.ones(16, 32), requires_grad=False)
    with Patch(spoilt) as patch:
        patch.put(first, "weight", new)
        assert unet.twin.weight is first.weight is text.far["weight"] is new
        assert second.weight is not new
    assert unet.twin.weight is first.weight is text.far["weight"] is tied
    assert differences(before, fingerprint(spoilt)) == []


def test_two_puts_of_one_slot_come_back_to_the_first(bundle: Bundle) -> None:
    linear = attention(bundle).to_v
    old = linear.weight
    with Patch(bundle) as patch:
        for factor in (2.0, 3.0):
            patch.put(linear, "weight", nn.Parameter(linear.weight * factor, requires_grad=False))
        assert torch.equal(linear.weight, old * 2 * 3)
    assert linear.weight is old


def test_attributes_of_plain_objects_and_new_ones_come_back(bundle: Bundle) -> None:
    module = attention(bundle)
    with Patch(bundle) as patch:
        patch.put(module.processor, "note", [1])
        patch.put(module, "scale", 0.5)
        patch.put(module, "fresh", "here")
        assert module.processor.note == [1]
        assert (module.scale, module.fresh) == (0.5, "here")
    assert not hasattr(module, "fresh")
    assert not hasattr(module.processor, "note")


def test_hooks_run_before_and_after_and_leave_nothing(bundle: Bundle) -> None:
    module, seen = attention(bundle), []

    def before(module: nn.Module, args: Any, kwargs: Any) -> Any:
        seen.append("before")
        return args, kwargs

    def after(module: nn.Module, args: Any, kwargs: Any, output: torch.Tensor) -> torch.Tensor:
        seen.append("after")
        return output * 0

    plain = probe(bundle)
    with Patch(bundle) as patch:
        patch.hook(module, before, "before")
        patch.hook(module, after)
        assert not torch.equal(probe(bundle), plain)
    assert seen == ["before", "after"]
    assert torch.equal(probe(bundle), plain)


def test_seams_are_wrapped_outside_in_and_unwrapped(bundle: Bundle) -> None:
    inner, order = bundle.seams.guide, []

    def named(name: str) -> Any:
        def around(guide: Any) -> Any:
            def wrapped(*args: Any) -> Any:
                order.append(name)
                return guide(*args)

            return wrapped

        return around

    with Patch(bundle) as patch:
        patch.wrap("guide", named("first"))
        patch.wrap("guide", named("second"))
        bundle.seams.guide(torch.ones(1), torch.zeros(1), 2.0, None)
    assert order == ["second", "first"]
    assert bundle.seams.guide is inner


def test_listeners_hear_events_while_the_patch_lasts(bundle: Bundle) -> None:
    heard: list[object] = []
    events = [Started(1, (0,)), Step(0, 1, 0.0), Ended()]
    with Patch(bundle) as patch:
        patch.each(heard.append)
        for event in events:
            bundle.tell(event)
    bundle.tell(Ended())
    assert heard == events


def test_a_failure_half_way_through_entering_undoes_what_was_done(bundle: Bundle) -> None:
    module = attention(bundle)

    def half(patch: Patch) -> None:
        patch.put(module.to_v, "weight", nn.Parameter(torch.zeros(16, 32)))
        patch.hook(module, lambda *_: None)
        patch.wrap("decode", lambda decode: decode)
        raise RuntimeError("half-way")

    with pytest.raises(RuntimeError, match="half-way"), using(bundle, record=half):
        raise AssertionError("never entered")  # pragma: no cover


def test_an_error_in_the_body_undoes_everything(bundle: Bundle) -> None:
    def body() -> None:
        with Patch(bundle) as patch:
            patch.put(attention(bundle), "scale", 0.5)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        body()


def test_nested_patches_come_off_in_reverse(bundle: Bundle) -> None:
    linear = attention(bundle).to_v
    old = linear.weight
    with Patch(bundle) as outer:
        outer.put(linear, "weight", nn.Parameter(old * 2, requires_grad=False))
        middle = linear.weight
        with Patch(bundle) as inner:
            inner.put(linear, "weight", nn.Parameter(old * 3, requires_grad=False))
            inner.put(linear, "bias", nn.Parameter(torch.ones(16)))
        assert linear.weight is middle
        assert linear.bias is None
    assert linear.weight is old


def test_an_abandoned_generator_undoes_when_it_is_collected(bundle: Bundle) -> None:
    linear = attention(bundle).to_v
    old = linear.weight

    def edited() -> Iterator[None]:
        with Patch(bundle) as patch:
            patch.put(linear, "weight", nn.Parameter(old * 2, requires_grad=False))
            yield

    generator = edited()
    next(generator)
    assert linear.weight is not old
    del generator
    gc.collect()
    assert linear.weight is old


def test_a_delta_is_put_by_the_line_that_exports_it(bundle: Bundle) -> None:
    site = bundle.sites("cross-attention")[0]
    delta = Delta("weights", {site.value.key: torch.full((16, 32), 0.25)})
    expected = delta.changed(site.value.key, site.value.weight, 0.5)
    with Patch(bundle) as patch:
        patch.delta(delta, 0.5)
        assert torch.equal(site.value.weight, expected)
    with Patch(bundle) as patch, pytest.raises(PatchError, match=r"has no parameter unet:mid_block\.nothing\.weight"):
        patch.delta(Delta("weights", {"unet:mid_block.nothing.weight": torch.zeros(1)}))
    with Patch(bundle) as patch, pytest.raises(PatchError, match="fitted on another model"):
        patch.delta(Delta("weights", {"prior:weight": torch.zeros(1)}))


def test_writes_in_place_and_written_back_show_in_the_fingerprint(spoilt: Bundle) -> None:
    weight, before = attention(spoilt).to_v.weight, fingerprint(spoilt)
    with torch.no_grad():
        kept = weight.clone()
        weight.mul_(2)
        assert differences(before, fingerprint(spoilt)) == [
            "unet:down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_v"
        ]
        weight.copy_(kept)
    assert torch.equal(weight, kept)
    assert differences(before, fingerprint(spoilt)) != []


def test_writes_that_torch_does_not_count_show_in_the_deep_fingerprint(spoilt: Bundle) -> None:
    weight, before = attention(spoilt).to_v.weight, fingerprint(spoilt, deep=True)
    weight.data.mul_(2)
    assert differences(before, fingerprint(spoilt, deep=True)) != []
    weight.data.mul_(0.5)
    assert differences(before, fingerprint(spoilt, deep=True)) == []


@pytest.mark.parametrize(
    "leak",
    [
        lambda b: attention(b).register_forward_hook(lambda *_: None),
        lambda b: attention(b).to_v.weight.requires_grad_(True),
        lambda b: setattr(attention(b).to_v.weight, "grad", torch.zeros(16, 32)),
        lambda b: setattr(attention(b).to_v.weight, "data", torch.zeros(16, 32)),
        lambda b: setattr(attention(b), "left", 1),
        lambda b: setattr(attention(b).processor, "left", 1),
        lambda b: attention(b).train(),
        lambda b: setattr(attention(b), "processor", AttnProcessor2_0()),
        lambda b: setattr(b.seams, "guide", lambda *_: None),
        lambda b: setattr(b.seams, "listeners", (print,)),
        lambda b: b.parts["unet"].register_buffer("left", torch.zeros(1)),
        lambda b: setattr(b.parts["unet"], "__class__", type("Other", (type(b.parts["unet"]),), {})),
    ],
)
def test_leaks_of_every_sort_show_in_the_fingerprint(spoilt: Bundle, leak: Any) -> None:
    before = fingerprint(spoilt)
    assert before == fingerprint(spoilt)
    leak(spoilt)
    assert differences(before, fingerprint(spoilt)) != []


def test_drawing_leaves_the_fingerprint_alone(bundle: Bundle) -> None:
    probe(bundle)
    bundle.read(["a cat"])
    bundle.decode(torch.zeros(1, 4, 8, 8))
    bundle.encode(torch.zeros(1, 3, 16, 16))


def test_offloaded_parts_are_refused_wherever_in_them_one_writes(spoilt: Bundle) -> None:
    from accelerate.hooks import ModelHook, add_hook_to_module

    add_hook_to_module(spoilt.parts["unet"], ModelHook())
    site = spoilt.sites("cross-attention")[0]
    with Patch(spoilt) as patch:
        for act in (
            lambda: patch.put(site.module.to_v, "weight", nn.Parameter(torch.zeros(16, 32))),
            lambda: patch.hook(site.module, lambda *_: None),
            lambda: patch.attend(site, lambda call: call.run()),
        ):
            with pytest.raises(BundleInUse, match=r"offloaded by accelerate\. Load the model without offload"):
                act()
        patch.put(spoilt.parts["vae"].decoder.conv_in, "bias", None)  # another part is free


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch 2.13's own, as it imports the compiler
@pytest.mark.parametrize("place", ["whole", "block", "wrapped"])
def test_compiled_parts_are_refused(spoilt: Bundle, place: str) -> None:
    unet: Any = spoilt.parts["unet"]
    if place == "wrapped":
        dict.__setitem__(spoilt.parts, "unet", torch.compile(unet))  # type: ignore[arg-type]
    else:
        (unet if place == "whole" else unet.down_blocks[0]).compile()
    with Patch(spoilt) as patch, pytest.raises(BundleInUse, match=r"compiled\. Patch first, compile afterwards"):
        patch.put(attention(spoilt), "scale", 1.0)


def test_attention_under_gradient_checkpointing_is_refused(spoilt: Bundle) -> None:
    spoilt.parts["unet"].enable_gradient_checkpointing()
    site = spoilt.sites("self-attention")[0]
    with Patch(spoilt) as patch, pytest.raises(BundleInUse, match="gradient checkpointing"):
        patch.attend(site, lambda call: call.run())
