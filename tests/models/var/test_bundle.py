"""A VAR as a bundle: prompts, classes, guidance, sites of fused projections, and pairs that do not match."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from tests.tiny import tiny_var, var_parts
from workbench.core.bundle import Condition
from workbench.core.errors import AskError, CheckpointMismatch, MissingPart
from workbench.core.patch import Patch
from workbench.models.var import MultiScaleVQ
from workbench.models.var.bundle import from_parts, guide


def test_prompts_are_classes_words_or_nothing() -> None:
    bundle = tiny_var()
    states = bundle.read(["class:3", "a cat", "the red dog", ""]).states
    net = bundle.parts["var"]
    assert torch.equal(states[0, 0], net.class_emb.weight[3])  # type: ignore[union-attr, index]
    assert torch.equal(states[3, 0], net.class_emb.weight[5])  # type: ignore[union-attr, index]
    pooled = bundle.open("tiny-clip").read(["a cat"]).pooled
    assert pooled is not None
    assert_close(states[1, 0], net.text_emb(pooled)[0])  # type: ignore[operator]
    assert not torch.equal(states[1], states[2])


def test_guidance_on_paper() -> None:
    p, n = torch.tensor([[2.0]]), torch.tensor([[1.0]])
    assert guide(p, n, 3.0, None).item() == 4.0  # type: ignore[arg-type]
    assert torch.equal(guide(p, n, 1.0, None), p)  # type: ignore[arg-type]


def test_sites_of_the_fused_projection_read_and_write_their_rows() -> None:
    bundle = tiny_var()
    site = bundle.sites("self-attention")[1]
    fused = site.module.mat_qkv.weight  # type: ignore[union-attr]
    assert torch.equal(site.value.weight, fused[64:])
    with Patch(bundle) as patch:
        site.key.replace(patch, torch.zeros(32, 32))
        now = site.module.mat_qkv.weight  # type: ignore[union-attr]
        assert not now[32:64].any()
        assert torch.equal(now[:32], fused[:32])
        assert torch.equal(now[64:], fused[64:])
    assert site.module.mat_qkv.weight is fused  # type: ignore[union-attr]
    kinds = [[s.name for s in bundle.sites(kind)] for kind in ("block", "norm", "self-attention", "mlp")]  # type: ignore[arg-type]
    assert kinds == [[f"var:blocks.{i}{end}" for i in range(2)] for end in ("", ".norm", ".attn", ".ffn")]
    assert (site.heads, site.tokens) == (2, 64)


def test_rows_of_a_condition_share_the_memory() -> None:
    from workbench.blocks.scales import Memory, own_grids

    bundle = tiny_var()
    memory = Memory(own_grids(bundle), 3)
    cond = Condition(bundle.read(["", "", ""]), (1, 2, 3), ("cond",) * 3, memory=memory)
    part = cond.rows([2, 0]).rows([1])
    assert part.memory.at == (0,)
    assert part.memory.keep is memory.keep


def test_a_model_says_what_it_cannot_be_asked() -> None:
    vq, net = var_parts()
    lonely = from_parts(vq, net, name="lonely")
    with pytest.raises(MissingPart, match="lonely was made without a loader"):
        lonely.read(["a cat"])
    words = from_parts(*var_parts(num_classes=0), name="words")
    with pytest.raises(AskError, match="words reads words and has no classes"):
        words.read(["class:1"])
    classes = from_parts(*var_parts(pooled_dim=0), name="classes")
    with pytest.raises(AskError, match="The prompt is 'a cat'; classes draws classes"):
        classes.read(["a cat"])
    stranger = from_parts(vq, net, name="stranger", opener=lambda name: tiny_var())
    with pytest.raises(CheckpointMismatch, match="whose embedding is not the one it knows"):
        stranger.read(["a cat"])


def test_a_vq_and_a_transformer_of_different_models_are_refused() -> None:
    vq, net = var_parts()
    config = {"patch_nums": (1, 2, 3, 4, 6, 8), "vocab_size": 24, "latent_channels": 4, "channels": 8,
              "channel_mult": (1, 1), "layers_per_block": 1, "norm_groups": 4}  # fmt: skip
    for changes, words in (
        ({"vocab_size": 30}, "differ in their codes in the vocabulary: 30 and 24"),
        ({"latent_channels": 8}, "differ in their channels of the latent: 8 and 4"),
        ({"patch_nums": (1, 2, 8)}, "differ in their scales: 1, 2, 8 and 1, 2, 3, 4, 6, 8"),
        ({"residual": False}, "differ in their prediction: direct and residual"),
    ):
        with pytest.raises(CheckpointMismatch, match=words):
            from_parts(MultiScaleVQ(**{**config, **changes}), net, name="pair")
    assert replace(from_parts(vq, net, name="pair")).family == "var"
