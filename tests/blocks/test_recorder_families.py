"""The recorder on every kind of network: what it sees equals a softmax of the projections' outputs, in float64."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from tests import joint
from tests.tiny import tokenizer
from workbench.blocks.recorder import Look, Recorder
from workbench.core.bundle import Bundle, Seams, Shapes, Site
from workbench.core.errors import BundleInUse, PatchError
from workbench.core.patch import Patch

B, T = 2, 6


def bundle_of(model: nn.Module, sites: Sequence[Site]) -> Bundle:
    """A bundle that only holds a module and its sites."""
    seams = Seams(*[lambda *a: None] * 5)  # type: ignore[arg-type]
    return Bundle("toy", "dit", "0", {"net": model}, Shapes((4, 8, 8), (3, 8, 8)), seams, tuple(sites))


def seen(model: nn.Module, attentions: dict[str, nn.Module], call: Callable[[], Any]) -> dict[str, Tensor]:
    """What the recorder says of every attention: all weights [B, A, N, L]. The answer must not change by looking."""
    plain = call()
    sites = [Site("net", name, "self-attention", module) for name, module in attentions.items()]
    recorder = Recorder()
    recorder.attention(sites, "w", lambda look: torch.cat(list(look.weights()), -2))
    with Patch(bundle_of(model, sites)) as patch, recorder.during(B, (8, 8)):
        recorder.attach(patch)
        assert torch.equal(call(), plain)
    return {site.path: recorder.taken("w", site)[0] for site in sites}


class Kept:
    """Outputs of submodules by name, in float64."""

    def __init__(self, model: nn.Module, names: Sequence[str], call: Callable[[], Any]) -> None:
        self.values: dict[str, Tensor] = {}
        hooks = [
            model.get_submodule(name).register_forward_hook(
                lambda m, a, out, name=name: self.values.update({name: out.double()})
            )
            for name in names
        ]
        call()
        for hook in hooks:
            hook.remove()

    def heads(self, name: str, count: int) -> Tensor:
        """[B, A, S, d] of a projection [B, S, A d], or of a normalisation after the split [B, S, A, d]."""
        value = self.values[name]
        return (value if value.ndim == 4 else value.unflatten(-1, (count, -1))).transpose(1, 2)


def softmax(q: Tensor, k: Tensor, mask: Tensor | float = 0.0) -> Tensor:
    return (q @ k.mT / math.sqrt(q.shape[-1]) + mask).softmax(-1)


def randn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@torch.no_grad()
def test_sd3_pictures_first_text_last() -> None:
    model = joint.sd3()
    x, text, pooled = randn(B, 4, 8, 8), randn(B, T, 16), randn(B, 12)
    call = lambda: model(x, text, pooled, torch.full((B,), 500.0), return_dict=False)[0]  # noqa: E731
    attentions = {f"transformer_blocks.{i}.attn": b.attn for i, b in enumerate(model.transformer_blocks)}
    found = seen(model, attentions, call)
    # queries are normalised [B, A, S, d] here, after the heads were split
    names = [f"{path}.{norm}" for path in attentions for norm in ("norm_q", "norm_k", "norm_added_q", "norm_added_k")]
    kept = Kept(model, names, call).values
    for path in attentions:
        q = torch.cat([kept[f"{path}.norm_q"], kept[f"{path}.norm_added_q"]], 2)
        k = torch.cat([kept[f"{path}.norm_k"], kept[f"{path}.norm_added_k"]], 2)
        assert found[path].shape == (B, 2, 16 + T, 16 + T)
        assert_close(found[path].double(), softmax(q, k), atol=1e-6, rtol=0)


def turned(x: Tensor, ids: Tensor, axes: Sequence[int] = (4, 6, 6), theta: float = 10_000.0) -> Tensor:
    """FLUX's rotary positions on [B, A, S, d], pair by pair and in float64."""
    out, start = x.clone(), 0
    for axis, width in enumerate(axes):
        for pair in range(width // 2):
            angle = ids[:, axis].double() * theta ** (-2 * pair / width)
            a, b = x[..., start + 2 * pair], x[..., start + 2 * pair + 1]
            out[..., start + 2 * pair] = a * angle.cos() - b * angle.sin()
            out[..., start + 2 * pair + 1] = a * angle.sin() + b * angle.cos()
        start += width
    return out


@torch.no_grad()
def test_flux_text_first_with_rotary_positions_in_both_kinds_of_block() -> None:
    model = joint.flux()
    x, text, pooled, ids = randn(B, 16, 16), randn(B, T, 16), randn(B, 12), joint.picture_ids()
    call = lambda: model(  # noqa: E731
        x, text, pooled, torch.full((B,), 0.5), ids, torch.zeros(T, 3), return_dict=False)[0]  # fmt: skip
    double = {f"transformer_blocks.{i}.attn": b.attn for i, b in enumerate(model.transformer_blocks)}
    single = {f"single_transformer_blocks.{i}.attn": b.attn for i, b in enumerate(model.single_transformer_blocks)}
    found = seen(model, {**double, **single}, call)
    names = [f"{path}.{norm}" for path in double for norm in ("norm_q", "norm_k", "norm_added_q", "norm_added_k")]
    kept = Kept(model, [*names, *(f"{path}.{norm}" for path in single for norm in ("norm_q", "norm_k"))], call)
    places = torch.cat([torch.zeros(T, 3), ids])
    for path in (*double, *single):
        parts = [[f"{path}.norm_added_{which}", f"{path}.norm_{which}"] for which in "qk"]
        parts = [[name for name in names_ if name in kept.values] for names_ in parts]
        q, k = (turned(torch.cat([kept.heads(name, 2) for name in group], 2), places) for group in parts)
        assert_close(found[path].double(), softmax(q, k), atol=1e-6, rtol=0)


@torch.no_grad()
def test_pixart_cross_attention_honours_the_mask_of_its_text() -> None:
    model = joint.pixart()
    x, text = randn(B, 4, 8, 8), randn(B, T, 10)
    mask = torch.ones(B, T)
    mask[0, 3:] = 0
    call = lambda: model(  # noqa: E731
        x, text, torch.full((B,), 500), encoder_attention_mask=mask, return_dict=False,
        added_cond_kwargs={"resolution": None, "aspect_ratio": None})[0]  # fmt: skip
    attentions = {f"transformer_blocks.{i}.{name}": getattr(block, name)
                  for i, block in enumerate(model.transformer_blocks) for name in ("attn1", "attn2")}  # fmt: skip
    found = seen(model, attentions, call)
    kept = Kept(model, [f"{path}.{name}" for path in attentions for name in ("to_q", "to_k")], call)
    for path in attentions:
        bias = (1 - mask.double())[:, None, None] * -10_000 if path.endswith("attn2") else 0.0
        q, k = kept.heads(f"{path}.to_q", 2), kept.heads(f"{path}.to_k", 2)
        assert_close(found[path].double(), softmax(q, k, bias), atol=1e-6, rtol=0)
    assert float(found["transformer_blocks.0.attn2"][0, :, :, 3:].max()) == 0


@torch.no_grad()
def test_clip_both_towers_and_the_causal_one() -> None:
    from transformers import CLIPConfig, CLIPModel

    common = {"intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "projection_dim": 12}
    config = CLIPConfig(
        text_config={**common, "hidden_size": 16, "vocab_size": len(tokenizer()), "max_position_embeddings": 20},
        vision_config={**common, "hidden_size": 24, "image_size": 32, "patch_size": 8}, projection_dim=12)  # fmt: skip
    model = joint.seeded(lambda: CLIPModel(config))
    pixels, ids = randn(B, 3, 32, 32), torch.randint(5, 20, (B, 7), generator=torch.Generator().manual_seed(0))
    for tower, call in (
        ("vision_model", lambda: model.vision_model(pixel_values=pixels).pooler_output),
        ("text_model", lambda: model.text_model(input_ids=ids).last_hidden_state),
    ):
        attentions = {name: module for name, module in model.named_modules()
                      if name.startswith(tower) and name.endswith("self_attn")}  # fmt: skip
        assert len(attentions) == 2
        found = seen(model, attentions, call)
        kept = Kept(model, [f"{path}.{name}" for path in attentions for name in ("q_proj", "k_proj")], call)
        for path in attentions:
            q, k = kept.heads(f"{path}.q_proj", 2), kept.heads(f"{path}.k_proj", 2)
            size = q.shape[-2]
            future = torch.full((size, size), -math.inf, dtype=torch.float64).triu(1) if tower == "text_model" else 0.0
            assert_close(found[path].double(), softmax(q, k, future), atol=1e-6, rtol=0)


def test_a_compiled_part_is_refused_before_anything_is_recorded() -> None:
    model = joint.sd3()
    site = Site("net", "transformer_blocks.0.attn", "self-attention", model.transformer_blocks[0].attn)
    model.transformer_blocks[0].compile(backend="eager")
    recorder = Recorder()
    recorder.attention([site], "w", lambda look: look.call.query)
    refusal = pytest.raises(BundleInUse, match="is compiled")
    with refusal, Patch(bundle_of(model, [site])) as p:
        recorder.attach(p)


def test_a_site_that_was_never_called_is_named() -> None:
    model = joint.sd3()
    site = Site("net", "transformer_blocks.0.attn", "self-attention", model.transformer_blocks[0].attn)
    recorder = Recorder()
    recorder.attention([site], "w", lambda look: look.call.query)
    with Patch(bundle_of(model, [site])) as patch, recorder.during(B, (8, 8)):
        recorder.attach(patch)
    with pytest.raises(PatchError, match=r"No call of net:transformer_blocks\.0\.attn was seen in 1 steps"):
        recorder.taken("w", site)


def test_a_large_self_attention_is_read_in_pieces_of_a_known_size() -> None:
    """SDXL at 1024 px has 4,096 places and 10 heads: 640 MiB in one, at most 40 a piece."""
    from workbench.blocks import recorder as recording
    from workbench.core.attend import Attention

    largest = 10 * recording.CHUNK * 4096 * 4
    assert largest <= 40 << 20
    q, k = randn(1, 1, 4096, 8), randn(1, 1, 4096, 8)
    look = Look(Site("net", "a", "self-attention", nn.Identity()), Attention(q, k, k), None, (64, 64))
    sizes = [part.shape[-2] for part in look.weights()]
    assert sizes == [recording.CHUNK] * 16
