"""The transformer against the paper's equations in float64, its official sizes, and what it refuses."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from workbench.core.errors import AskError
from workbench.models.var import VARTransformer
from workbench.models.var.transformer import block_causal, named

SCALES = (1, 2, 3)
LENGTH = 14


def lively(seed: int = 0, **changes: object) -> VARTransformer:
    """A small transformer whose every parameter matters: small gates and heads would hide mistakes."""
    settings = {"depth": 2, "width": 16, "heads": 2, "patch_nums": SCALES, "vocab_size": 12, "latent_channels": 4}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = VARTransformer(**{**settings, "num_classes": 3, **changes})
        with torch.no_grad():
            for value in net.parameters():
                value.normal_(0, 0.3)
    return net.double().eval().requires_grad_(False)


def by_hand(net: VARTransformer, label: int, inputs: Tensor) -> Tensor:
    """Logits [L, V] of one image, token after token, from the equations."""
    p = dict(net.named_parameters())
    width, heads, eps = net.width, net.heads, 1e-6
    d = width // heads

    def ada(name: str, cond: Tensor) -> Tensor:
        gated = torch.stack([c / (1 + math.e**-c) for c in cond])
        return p[f"{name}.1.weight"] @ gated + p[f"{name}.1.bias"]

    def norm(row: Tensor) -> Tensor:
        return (row - row.mean()) / ((row - row.mean()).square().mean() + eps).sqrt()

    def linear(name: str, row: Tensor) -> Tensor:
        return p[f"{name}.weight"] @ row + p[f"{name}.bias"]

    cond = p["class_emb.weight"][label]
    level = [k for k, side in enumerate(SCALES) for _ in range(side * side)]
    rows = [cond + p["pos_start"][0, 0]] + [linear("word_embed", row) for row in inputs]
    rows = [row + p["lvl_embed.weight"][level[i]] + p["pos_1LC"][0, i] for i, row in enumerate(rows)]
    for b in range(2):
        root = f"blocks.{b}"
        if f"{root}.ada_gss" in p:
            six = p[f"{root}.ada_gss"][0, 0] + ada("shared_ada_lin", cond).view(6, width)
        else:
            six = ada(f"{root}.ada_lin", cond).view(6, width)
        g1, g2, s1, s2, b1, b2 = six
        zero = torch.zeros(width, dtype=torch.float64)
        bias = torch.cat([p[f"{root}.attn.q_bias"], zero, p[f"{root}.attn.v_bias"]])
        qkv = [p[f"{root}.attn.mat_qkv.weight"] @ (norm(row) * (1 + s1) + b1) + bias for row in rows]
        seen = []
        for i in range(len(rows)):
            found = []
            for a in range(heads):
                q, ks, vs = (slice(part * width + a * d, part * width + (a + 1) * d) for part in range(3))
                query = qkv[i][q]
                others = [j for j in range(len(rows)) if level[j] <= level[i]]
                keys = [qkv[j][ks] for j in others]
                if f"{root}.attn.scale_mul_1H11" in p:
                    much = math.exp(min(float(p[f"{root}.attn.scale_mul_1H11"][0, a, 0, 0]), math.log(100)))
                    scores = [much * float(query @ k) / float(query.norm() * k.norm()) for k in keys]
                else:
                    scores = [float(query @ k) / (4 * math.sqrt(d)) for k in keys]
                weights = [math.exp(score) for score in scores]
                found.append(sum(w * qkv[j][vs] for w, j in zip(weights, others, strict=True)) / sum(weights))
            seen.append(linear(f"{root}.attn.proj", torch.cat(found)))
        rows = [row + g1 * s for row, s in zip(rows, seen, strict=True)]
        for i, row in enumerate(rows):
            inner = linear(f"{root}.ffn.fc1", norm(row) * (1 + s2) + b2)
            bent = torch.stack(
                [0.5 * u * (1 + math.tanh(math.sqrt(2 / math.pi) * (u + 0.044715 * u**3))) for u in inner]
            )
            rows[i] = row + g2 * linear(f"{root}.ffn.fc2", bent)
    scale, shift = ada("head_nm.ada_lin", cond).view(2, width)
    return torch.stack([linear("head", norm(row) * (1 + scale) + shift) for row in rows])


def given(seed: int = 1, rows: int = 2) -> Tensor:
    return torch.randn(rows, LENGTH - 1, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("changes", [{}, {"shared_aln": True}, {"attn_l2_norm": False}], ids=["plain", "shared", "dot"])
def test_logits_equal_the_equations_written_out_token_by_token(changes: dict[str, bool]) -> None:
    net, inputs = lively(**changes), given()
    logits = net(torch.tensor([2, 3]), inputs)
    for i, label in enumerate((2, 3)):
        assert_close(logits[i].double(), by_hand(net, label, inputs[i]), atol=1e-5, rtol=1e-5)  # head in float32


def test_a_scale_sees_no_finer_one() -> None:
    net, inputs = lively(), given()
    other = inputs.clone()
    other[:, 4:] += 1.0  # scale 2 alone
    first, second = net(torch.tensor([0, 1]), inputs), net(torch.tensor([0, 1]), other)
    assert torch.equal(first[:, :5], second[:, :5])
    assert (first[:, 5:] - second[:, 5:]).abs().amax((0, 2)).min() > 1e-4


def test_the_mask_on_paper() -> None:
    mask = block_causal(((1, 1), (1, 2)), torch.device("cpu"))
    assert mask.tolist() == [[True, False, False], [True, True, True], [True, True, True]]


@pytest.mark.parametrize(("depth", "millions"), [(16, 310), (20, 601), (24, 1033), (30, 2010), (36, 2354)])
def test_depths_have_the_official_number_of_parameters(depth: int, millions: int) -> None:
    big = {"shared_aln": True, "patch_nums": (1, 2, 3, 4, 6, 9, 13, 18, 24, 32)} if depth == 36 else {}
    with torch.device("meta"):
        net = VARTransformer(depth=depth, **big)
    assert round(sum(value.numel() for value in net.parameters()) / 1e6) == millions
    assert (net.width, net.heads) == (64 * depth, depth)


def test_text_and_classes_share_one_null_row() -> None:
    net = lively(pooled_dim=6)
    words = torch.randn(2, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    dropped = net(words, given(), dropped=torch.tensor([True, True]))
    assert torch.equal(dropped, net(torch.tensor([3, 3]), given()))
    assert not torch.allclose(net(words, given()), dropped)
    alone = lively(num_classes=0, pooled_dim=6)
    assert torch.equal(alone.embed(words, torch.tensor([False, True]))[1], alone.null())


def test_one_table_of_places_serves_any_grid() -> None:
    net = lively(prediction="direct", position="area")
    grids = ((1, 1), (2, 3))
    logits = net(torch.tensor([0]), given(rows=1)[:, :6], grids=grids)
    assert logits.shape == (1, 7, 12)
    # rows 16 to 31 and, as 32 / 3 = 10.67, columns 21 to 31 are the last of 2x3 places
    assert_close(net.places(grids)[-1], net.pos_1LC[0, :, 16:32, 21:32].mean((1, 2)))


def test_a_folder_keeps_the_model(tmp_path: Path) -> None:
    net = lively(shared_aln=True).float()
    net.save_pretrained(tmp_path)
    again = VARTransformer.from_pretrained(tmp_path)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in net.state_dict().items())
    assert_close(again(torch.tensor([1]), given(rows=1).float()), net(torch.tensor([1]), given(rows=1).float()))


def test_masks_and_levels_of_original_checkpoints_are_skipped_and_strangers_are_not() -> None:
    net = lively()
    state = dict(net.state_dict())
    state |= {"lvl_1L": torch.zeros(1, LENGTH), "attn_bias_for_masking": torch.zeros(1, 1, LENGTH, LENGTH)}
    state["blocks.0.attn.zero_k_bias"] = torch.zeros(16)
    assert str(net.load_state_dict(state)) == "<All keys matched successfully>"
    with pytest.raises(RuntimeError, match="stranger"):
        net.load_state_dict({**state, "stranger": torch.zeros(1)})


def test_stochastic_depth_is_for_training_alone() -> None:
    net = lively(drop_path=0.5)
    assert torch.equal(net(torch.tensor([1, 2]), given()), net(torch.tensor([1, 2]), given()))
    net.train()
    torch.manual_seed(0)
    assert not torch.equal(net(torch.tensor([1, 2]), given()), net(torch.tensor([1, 2]), given()))


def test_a_schedule_the_model_has_no_places_for_is_refused() -> None:
    with pytest.raises(AskError, match=r"The schedule is 1, 2x3; this model knows the places of 1, 2, 3 alone"):
        lively()(torch.tensor([0]), given(rows=1)[:, :6], grids=((1, 1), (2, 3)))
    with pytest.raises(AskError, match="13 tokens were given for the scales 1, 2, 3"):
        lively(position="area")(torch.tensor([0]), given(rows=1)[:, :-1])
    with pytest.raises(AskError, match="needs classes, text, or both"):
        lively(num_classes=0)
    with pytest.raises(AskError, match="width is 15 and heads is 2"):
        lively(width=15)
    assert named(((2, 2),)) == "2"
