"""The low-frequency filter against the published window, and on paper."""

import math

import pytest
import torch
from torch.testing import assert_close

from workbench.ops.fourier import scale_low


def test_scale_one_gives_the_very_same_tensor() -> None:
    x = torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    assert scale_low(x, 1.0) is x


def test_a_constant_is_scaled_and_a_checkerboard_is_not() -> None:
    board = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(2, 2)[None, None]
    assert_close(scale_low(torch.ones(1, 1, 4, 4), 0.2), torch.full((1, 1, 4, 4), 0.2))
    assert_close(scale_low(board, 0.2), board)


def test_the_first_harmonic_is_scaled_half_way() -> None:
    wave = torch.cos(2 * math.pi * torch.arange(8.0) / 8).expand(1, 1, 8, 8)
    assert_close(scale_low(wave, 0.2), wave * 0.6, atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [(8, 8), (5, 7), (1, 4), (2, 2)])
def test_it_equals_a_shifted_window_in_float64(size: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    h, w = size
    slow = torch.zeros_like(x)
    for u in range(h):
        for v in range(w):
            low = u in {0, h - 1} and v in {0, w - 1}
            wave_h = torch.exp(-2j * math.pi * u * torch.arange(h, dtype=torch.float64) / h)
            wave_w = torch.exp(-2j * math.pi * v * torch.arange(w, dtype=torch.float64) / w)
            mode = torch.einsum("bchw,h,w->bc", x.to(torch.complex128), wave_h, wave_w)
            part = torch.einsum("bc,h,w->bchw", mode, wave_h.conj(), wave_w.conj()).real / (h * w)
            slow += part * (0.3 if low else 1.0)
    assert_close(scale_low(x, 0.3), slow, atol=1e-6, rtol=0)


def test_half_precision_goes_in_and_out() -> None:
    assert scale_low(torch.ones(1, 1, 4, 4, dtype=torch.bfloat16), 0.5).dtype == torch.bfloat16
