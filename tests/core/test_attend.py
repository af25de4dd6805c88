"""Attention seen and changed at its one place."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import CLIPTextModel

from tests.tiny import tiny_sd, tiny_sdxl
from workbench.core.attend import Attention, intercept
from workbench.core.bundle import Site
from workbench.core.errors import PatchError
from workbench.core.patch import Patch


def probe(bundle: Any) -> torch.Tensor:
    """The raw network of a Stable Diffusion 1.x bundle on fixed rows."""
    generator = torch.Generator().manual_seed(0)
    x, states = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 7, 32, generator=generator)
    with torch.no_grad():
        return bundle.parts["unet"](x, torch.tensor([10, 700]), encoder_hidden_states=states, return_dict=False)[0]


def call(**changes: Any) -> Attention:
    generator = torch.Generator().manual_seed(0)
    heads = changes.pop("groups", 4)
    length = changes.pop("length", 5)
    query = torch.randn(2, 4, 6, 8, generator=generator)
    key, value = (torch.randn(2, heads, length, 8, generator=generator) for _ in range(2))
    return Attention(query, key, value, grouped=heads != 4, **changes)


def by_hand(of: Attention) -> torch.Tensor:
    """softmax(q k^T s + m) with loops over batch, head and query, in float64."""
    b, a, n, d = of.query.shape
    length, groups = of.key.shape[-2], of.key.shape[1]
    scale = of.scale if of.scale is not None else d**-0.5
    mask = None if of.mask is None else of.mask.expand(b, a, n, length)
    out = torch.zeros(b, a, n, length, dtype=torch.float64)
    for i in range(b):
        for h in range(a):
            for q in range(n):
                logits = []
                for k in range(length):
                    dot = sum(
                        float(x) * float(y)
                        for x, y in zip(of.query[i, h, q], of.key[i, h * groups // a, k], strict=True)
                    )
                    value = dot * scale
                    if of.causal and k > q:
                        value = -math.inf
                    if mask is not None:
                        seen = mask[i, h, q, k]
                        value = (value if seen else -math.inf) if mask.dtype == torch.bool else value + float(seen)
                    logits.append(value)
                top = max(logits)
                powers = [math.exp(x - top) for x in logits]
                out[i, h, q] = torch.tensor([p / sum(powers) for p in powers])
    return out


KEEP = torch.ones(1, 1, 1, 5, dtype=torch.bool)
KEEP[..., 3:] = False
CALLS = {
    "plain": call(),
    "scale": call(scale=0.3),
    "keys masked for all queries": call(mask=KEEP),
    "mask by query": call(mask=torch.rand(2, 1, 6, 5, generator=torch.Generator().manual_seed(1)) > 0.4),
    "bias": call(mask=torch.randn(2, 4, 6, 5, generator=torch.Generator().manual_seed(2))),
    "causal": call(causal=True, length=6),
    "grouped": call(groups=2),
    "grouped and biased": call(groups=1, mask=torch.randn(6, 5, generator=torch.Generator().manual_seed(3))),
}
CALLS["mask by query"].mask[..., 0] = True  # every query sees something
each = pytest.mark.parametrize("name", list(CALLS))


@each
def test_weights_equal_the_softmax_by_hand(name: str) -> None:
    torch.testing.assert_close(CALLS[name].weights().double(), by_hand(CALLS[name]), atol=1e-6, rtol=1e-5)


@each
def test_weights_times_values_equal_the_kernel(name: str) -> None:
    of = CALLS[name]
    value = of.value.repeat_interleave(4 // of.value.shape[1], dim=1)
    torch.testing.assert_close(of.weights() @ value, of.run(), atol=1e-5, rtol=1e-5)


@each
def test_some_rows_are_the_rows_of_all(name: str) -> None:
    of = CALLS[name]
    assert torch.equal(of.weights(slice(2, 5)), of.weights()[:, :, 2:5])


def test_weights_of_narrow_numbers_are_taken_in_float32() -> None:
    narrow = CALLS["plain"].but(query=CALLS["plain"].query.bfloat16(), key=CALLS["plain"].key.bfloat16())
    assert narrow.weights().dtype == torch.float32
    torch.testing.assert_close(narrow.weights().sum(-1), torch.ones(2, 4, 6))


@pytest.mark.parametrize("kind", ["cross-attention", "self-attention"])
def test_looking_at_every_site_leaves_the_output_bit_for_bit(kind: Any) -> None:
    bundle, seen = tiny_sd(), []
    plain = probe(bundle)
    with Patch(bundle) as patch:
        for site in bundle.sites(kind):
            patch.attend(site, lambda call, site=site: (seen.append((site.name, call)), call.run())[1])
        assert torch.equal(probe(bundle), plain)
    assert [name for name, _ in seen] == [site.name for site in bundle.sites(kind)]
    for site, (_, of) in zip(bundle.sites(kind), seen, strict=True):
        assert of.query.shape[1] == site.heads
        assert of.query.shape[-2] == site.tokens
        assert of.key.shape[-2] == (7 if kind == "cross-attention" else site.tokens)
        torch.testing.assert_close(of.weights() @ of.value, of.run(), atol=1e-5, rtol=1e-5)
    assert torch.equal(probe(bundle), plain)


def test_a_head_gate_equals_scaled_columns_of_the_output() -> None:
    bundle = tiny_sd()
    site = bundle.sites("self-attention")[0]
    width = site.out.weight.shape[1] // site.heads
    gate = torch.tensor([0.0, 0.5]).view(1, 2, 1, 1)
    with Patch(bundle) as patch:
        patch.attend(site, lambda call: call.run() * gate)
        gated = probe(bundle)
    with Patch(bundle) as patch:
        site.out.replace(patch, site.out.weight * gate.flatten().repeat_interleave(width))
        scaled = probe(bundle)
    torch.testing.assert_close(gated, scaled, atol=1e-6, rtol=1e-6)
    assert not torch.equal(gated, probe(bundle))


def test_several_stack_and_a_later_one_sees_the_call_as_the_earlier_left_it() -> None:
    bundle, order = tiny_sd(), []
    site = bundle.sites("cross-attention")[0]

    def sharper(of: Attention) -> torch.Tensor:
        order.append("edit")
        return of.but(query=2 * of.query).run()

    def watch(of: Attention) -> torch.Tensor:
        order.append("watch")
        seen.append(of.query)
        return of.run()

    seen: list[torch.Tensor] = []
    with Patch(bundle) as patch:
        patch.attend(site, watch)
        probe(bundle)
    with Patch(bundle) as patch:
        patch.attend(site, sharper)
        patch.attend(site, watch)
        probe(bundle)
    assert order == ["watch", "edit", "watch"]
    assert torch.equal(seen[1], 2 * seen[0])


def test_an_edit_that_answers_by_itself_leaves_a_watcher_unasked() -> None:
    bundle, seen = tiny_sd(), []
    site = bundle.sites("cross-attention")[0]
    with Patch(bundle) as patch:
        patch.attend(site, lambda of: of.weights() @ of.value)
        patch.attend(site, lambda of: (seen.append(of), of.run())[1])
        probe(bundle)
    assert seen == []


def test_xl_sites_and_text_models_are_seen_too() -> None:
    bundle = tiny_sdxl()
    encoder = bundle.parts["text"]
    assert isinstance(encoder, CLIPTextModel)
    name, module = next((name, m) for name, m in encoder.named_modules() if name.endswith("self_attn"))
    site, calls = Site("text", name, "self-attention", module), []
    plain = bundle.read(["a cat"]).states
    with Patch(bundle) as patch:
        patch.attend(site, lambda of: (calls.append(of), of.run())[1])
        assert torch.equal(bundle.read(["a cat"]).states, plain)
    (of,) = calls
    assert of.causal or of.mask is not None
    assert torch.triu(of.weights()[0, 0], 1).abs().max() == 0  # a text token sees no later one
    torch.testing.assert_close(of.weights() @ of.value, of.run(), atol=1e-5, rtol=1e-5)


def test_gradients_flow_through_an_interception() -> None:
    of = call()
    query = of.query.clone().requires_grad_(True)
    attended = intercept(lambda q: F.scaled_dot_product_attention(q, of.key, of.value), lambda c: 2 * c.run(), "toy")
    attended(query).sum().backward()
    doubled = query.grad
    query.grad = None
    F.scaled_dot_product_attention(query, of.key, of.value).sum().backward()
    torch.testing.assert_close(doubled, 2 * query.grad)


def test_options_given_by_place_and_by_name_are_read_alike() -> None:
    of, seen = call(mask=KEEP), []

    def forward() -> None:
        F.scaled_dot_product_attention(of.query, of.key, of.value, KEEP, 0.0, False)
        F.scaled_dot_product_attention(of.query, key=of.key, value=of.value, attn_mask=KEEP, scale=0.5)

    intercept(forward, lambda c: (seen.append(c), c.run())[1], "toy")()
    assert seen[0].mask is seen[1].mask is KEEP
    assert [c.scale for c in seen] == [None, 0.5]


def test_a_module_that_attends_another_way_is_named() -> None:
    linear = nn.Linear(2, 2)
    attended = intercept(linear.forward, lambda c: c.run(), "unet:mid.attn1")
    with pytest.raises(PatchError, match=r"unet:mid\.attn1 did not call scaled_dot_product_attention.*Load the model"):
        attended(torch.zeros(1, 2))
