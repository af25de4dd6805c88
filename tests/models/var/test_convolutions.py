"""The convolutional halves of the VQ: shapes, attention against a slow twin, and how sides are halved and doubled."""

import math

import pytest
import torch
from torch import Tensor

from workbench.models.var.convolutions import Attention, Decoder, Encoder, Resample


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture
def attention() -> Attention:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return Attention(4, 2).double().requires_grad_(False)


def test_attention_is_its_slow_twin(attention: Attention) -> None:
    x = noise(2, 4, 2, 3)
    normal = attention.norm(x).flatten(2)  # [B, C, N]
    weight, bias = attention.qkv.weight[:, :, 0, 0], attention.qkv.bias
    out = torch.zeros_like(normal)
    for b in range(2):
        query, key, value = ((weight @ normal[b]).T + bias).split(4, 1)  # [N, C] each
        for i in range(6):
            scores = [float(query[i] @ key[j]) / math.sqrt(4) for j in range(6)]
            share = [math.exp(s) / sum(math.exp(t) for t in scores) for s in scores]
            out[b, :, i] = sum(share[j] * value[j] for j in range(6))
    wanted = x + attention.proj_out(out.reshape(x.shape))
    torch.testing.assert_close(attention(x), wanted, rtol=0, atol=1e-12)


def test_sides_are_halved_and_doubled() -> None:
    down, up = Resample(3, up=False).double(), Resample(3, up=True).double()
    x = noise(1, 3, 6, 8)
    assert down(x).shape == (1, 3, 3, 4)
    assert up(x).shape == (1, 3, 12, 16)
    # the padding lies right and below: the first place sees its own 3x3 corner
    wanted = (down.conv.weight * x[:, :, :3, :3]).sum((1, 2, 3)) + down.conv.bias
    torch.testing.assert_close(down(x)[0, :, 0, 0], wanted)


def test_the_decoder_undoes_the_encoders_sizes() -> None:
    encoder, decoder = Encoder(4, (1, 2, 2), 1, 3, 2), Decoder(6, (1, 2, 2), 1, 3, 2)
    latent = encoder(torch.zeros(2, 3, 16, 24))
    assert latent.shape == (2, 3, 4, 6)
    assert decoder(latent).shape == (2, 3, 16, 24)
    assert len(decoder.up[0].block) == len(encoder.down[0].block) + 1  # type: ignore[arg-type]
    assert not hasattr(encoder.down[2], "downsample")
    assert not hasattr(decoder.up[0], "upsample")
