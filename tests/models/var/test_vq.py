"""The multi-scale VQ: phi and the residual quantisation against loops in float64, and the names of its parameters."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from workbench.core.errors import AskError, CheckpointMismatch
from workbench.models.var.vq import MultiScaleVQ, Phi, shares

PATCHES = (1, 2, 4)


def tiny(**changes: object) -> MultiScaleVQ:
    """About 20,000 random parameters in float64; 16 pixels to a 4x4 latent."""
    shape = {
        "patch_nums": PATCHES, "vocab_size": 11, "latent_channels": 4, "channels": 8, "channel_mult": (1, 1, 2),
        "layers_per_block": 1, "norm_groups": 4,
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = MultiScaleVQ(**{**shape, **changes})  # type: ignore[arg-type]
        nn.init.normal_(model.quantize.embedding.weight)
    return model.double().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def model() -> MultiScaleVQ:
    return tiny()


def pictures(count: int = 2, side: int = 16) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1


# ------------------------------------------------------------------------------------------------- cases on paper


def test_the_shared_convolutions_are_the_originals() -> None:
    assert shares(10, 4) == (0, 0, 1, 1, 1, 2, 2, 3, 3, 3)
    assert shares(14, 4) == (0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3)
    assert shares(6, 4) == (0, 0, 1, 2, 3, 3)
    assert shares(8, 4) == (0, 0, 1, 1, 2, 2, 3, 3)
    assert shares(3, 0) == (0, 1, 2)
    assert shares(1, 4) == (0,)


def test_phi_of_the_identity_is_the_identity() -> None:
    phi = Phi(2, 0.5)
    nn.init.zeros_(phi.weight)
    nn.init.zeros_(phi.bias)
    with torch.no_grad():
        phi.weight[0, 0, 1, 1] = phi.weight[1, 1, 1, 1] = 1
    x = torch.randn(1, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(phi(x), x)


def test_one_code_that_is_the_mean_leaves_no_residual_of_a_flat_latent() -> None:
    model = tiny(quant_resi=0.0)
    flat = model.quantize.embedding.weight[5].view(1, 4, 1, 1).expand(1, 4, 4, 4).contiguous()
    found = model.quantise(flat)
    assert found.tokens[0].tolist() == [[5]]
    torch.testing.assert_close(found.prefixes[0], flat)


# ----------------------------------------------------------------------------------------------------- slow twins


def phi_by_hand(conv: Phi, x: Tensor) -> Tensor:
    """(1 - q) x + q conv(x), place by place."""
    B, C, h, w = x.shape
    out = torch.zeros_like(x)
    for b in range(B):
        for c in range(C):
            for i in range(h):
                for j in range(w):
                    total = conv.bias[c].clone()  # type: ignore[union-attr]
                    for di in range(3):
                        for dj in range(3):
                            y, z = i + di - 1, j + dj - 1
                            if 0 <= y < h and 0 <= z < w:
                                total += (conv.weight[c, :, di, dj] * x[b, :, y, z]).sum()
                    out[b, c, i, j] = (1 - conv.ratio) * x[b, c, i, j] + conv.ratio * total
    return out


def cubic(t: float, a: float = -0.75) -> float:
    t = abs(t)
    if t <= 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0.0


def lift(small: int, large: int) -> Tensor:
    """The matrix [large, small] of bicubic upsampling without corner alignment, edges repeated."""
    matrix = torch.zeros(large, small, dtype=torch.float64)
    for i in range(large):
        place = (i + 0.5) * small / large - 0.5
        base = int(place // 1)
        for j in range(base - 1, base + 3):
            matrix[i, min(max(j, 0), small - 1)] += cubic(place - j)
    return matrix


def lower(large: int, small: int) -> Tensor:
    """The matrix [small, large] of means over areas; areas of whole places, which may overlap."""
    matrix = torch.zeros(small, large, dtype=torch.float64)
    for i in range(small):
        first, last = i * large // small, -(-(i + 1) * large // small)
        matrix[i, first:last] = 1 / (last - first)
    return matrix


def test_phi_is_its_slow_twin(model: MultiScaleVQ) -> None:
    x = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    convolutions = model.quantize.quant_resi.qresi_ls
    for k, at in enumerate(shares(3, 4)):
        torch.testing.assert_close(model.phi(k, x), phi_by_hand(convolutions[at], x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("patches", [(1, 2, 4), (1, 3, 4)])
def test_the_residual_quantisation_is_its_slow_twin(patches: tuple[int, ...]) -> None:
    model = tiny(patch_nums=patches)
    f = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    book, found = model.quantize.embedding.weight, model.quantise(f)
    rest, f_hat = f.clone(), torch.zeros_like(f)
    for k, p in enumerate(patches):
        z = lower(4, p) @ rest @ lower(4, p).T if p < 4 else rest
        h = torch.zeros_like(z)
        for b in range(2):
            for i in range(p):
                for j in range(p):
                    far = [float((book[v] - z[b, :, i, j]).square().sum()) for v in range(len(book))]
                    best = far.index(min(far))
                    assert found.tokens[k][b, i * p + j] == best
                    h[b, :, i, j] = book[best]
        up = lift(p, 4) @ h @ lift(p, 4).T if p < 4 else h
        up = phi_by_hand(model.quantize.quant_resi.qresi_ls[shares(3, 4)[k]], up)
        f_hat, rest = f_hat + up, rest - up
        torch.testing.assert_close(found.prefixes[k], f_hat, rtol=0, atol=1e-12)
        torch.testing.assert_close(found.asked[k], z, rtol=0, atol=1e-12)


# ---------------------------------------------------------------------------------------------------- invariants


def test_tokens_give_back_the_prefixes_and_the_inputs(model: MultiScaleVQ) -> None:
    f = model.encode(pictures())
    found, f_hat, inputs = model.quantise(f), model.blank(2), []
    for k, tokens in enumerate(found.tokens):
        f_hat, following = model.accumulate(k, f_hat, model.embed(k, tokens))
        torch.testing.assert_close(f_hat, found.prefixes[k])
        inputs.append(following)
    assert inputs[-1] is f_hat
    rows = torch.cat([value.flatten(2).transpose(1, 2) for value in inputs[:-1]], 1)
    assert torch.equal(model.inputs(found.tokens), rows)
    assert [value.shape[-1] for value in inputs] == [2, 4, 4]


def test_a_row_does_not_depend_on_its_batch_mates(model: MultiScaleVQ) -> None:
    images = pictures(3)
    for whole, alone in zip(model.encode_tokens(images), model.encode_tokens(images[1:2]), strict=True):
        assert torch.equal(whole[1:2], alone)


def test_more_scales_leave_less_of_what_is_asked() -> None:
    """With a book of many codes near zero and zero itself, the residual that the last scale leaves is the least."""
    model = tiny(vocab_size=300, quant_resi=0.0)
    with torch.no_grad():
        model.quantize.embedding.weight[0] = 0
    f = torch.randn(4, 4, 4, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    errors = [float((f - prefix).square().mean()) for prefix in model.quantise(f).prefixes]
    assert errors[-1] < errors[0]


def test_by_angle_the_length_of_a_code_is_of_no_account() -> None:
    model = tiny(using_znorm=True)
    z = model.quantize.embedding.weight.T.reshape(1, 4, 11, 1) * 0.01
    assert model.nearest(z).tolist() == [list(range(11))]


def test_without_residuals_every_scale_is_the_whole_picture() -> None:
    model = tiny(residual=False)
    f = model.encode(pictures())
    found = model.quantise(f)
    for k, p in enumerate(PATCHES):
        z = lower(4, p) @ f @ lower(4, p).T
        assert torch.equal(found.tokens[k], model.nearest(z))
        up = lift(p, 4) @ model.embed(k, found.tokens[k]) @ lift(p, 4).T
        torch.testing.assert_close(found.prefixes[k], up if p < 4 else model.embed(k, found.tokens[k]))


def test_a_wide_latent_keeps_its_shape(model: MultiScaleVQ) -> None:
    found = model.quantise(model.encode(torch.zeros(1, 3, 16, 32, dtype=torch.float64)))
    assert [tokens.shape[1] for tokens in found.tokens] == [2, 8, 32]
    assert found.prefixes[-1].shape == (1, 4, 4, 8)


def test_the_gradient_goes_straight_through() -> None:
    model = tiny().train().requires_grad_(True)
    out = model(pictures())
    f = model.encode(pictures())
    assert torch.allclose(out.pictures, model.decoder(model.post_quant_conv(out.quantised.prefixes[-1])))
    out.pictures.sum().backward()
    assert model.encoder.conv_in.weight.grad.abs().sum() > 0  # type: ignore[union-attr]
    wanted = torch.stack([0.25 * (f - p).square().mean() + (f - p).square().mean() for p in out.quantised.prefixes])
    torch.testing.assert_close(out.loss, wanted.mean())


def test_a_row_may_stop_at_a_scale(model: MultiScaleVQ) -> None:
    out = model(pictures(), torch.tensor([0, 2]))
    for row, k in enumerate((0, 2)):
        made = model.decoder(model.post_quant_conv(out.quantised.prefixes[k][row : row + 1]))
        torch.testing.assert_close(out.pictures[row : row + 1], made)


# ------------------------------------------------------------------------------------------- names, files, refusals


def test_the_original_names_and_shapes_are_all_there() -> None:
    listed = json.loads(Path(__file__).with_name("vq_layout.json").read_text())
    with torch.device("meta"):
        model = MultiScaleVQ()
    assert {name: list(value.shape) for name, value in model.state_dict().items()} == listed
    assert sum(p.numel() for p in model.encoder.parameters()) == pytest.approx(44.1e6, rel=0.01)
    assert sum(p.numel() for p in model.decoder.parameters()) == pytest.approx(64.6e6, rel=0.01)


def test_one_and_separate_convolutions_have_the_original_names() -> None:
    assert "quantize.quant_resi.qresi.weight" in tiny(share_quant_resi=1).state_dict()
    assert "quantize.quant_resi.2.weight" in tiny(share_quant_resi=0).state_dict()


def test_a_folder_is_read_back_as_written(model: MultiScaleVQ, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    again = MultiScaleVQ.from_pretrained(tmp_path).double()
    assert again.patch_nums == PATCHES
    assert all(map(torch.equal, again.state_dict().values(), model.state_dict().values()))
    assert all(map(torch.equal, again.encode_tokens(pictures()), model.encode_tokens(pictures())))


def test_bad_input_is_refused_in_a_line(model: MultiScaleVQ) -> None:
    with pytest.raises(AskError, match="multiples of 4"):
        model.encode(torch.zeros(1, 3, 15, 16, dtype=torch.float64))
    with pytest.raises(AskError, match=r"outside 0\.\.10"):
        model.embed(0, torch.tensor([[11]]))
    with pytest.raises(AskError, match="3 tokens"):
        model.embed(1, torch.zeros(1, 3, dtype=torch.long))
    with pytest.raises(AskError, match="rising"):
        tiny(patch_nums=(1, 4, 2))


def test_a_checkpoint_of_another_shape_is_named(model: MultiScaleVQ) -> None:
    state = model.state_dict()
    model.check(state)
    state["quantize.embedding.weight"] = torch.zeros(12, 4)
    with pytest.raises(CheckpointMismatch, match=r"quantize\.embedding\.weight: \(12, 4\) where \(11, 4\)"):
        model.check(state)
