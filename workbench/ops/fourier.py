"""Filters in the frequency domain."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# torch.linalg, torch.fft and torch.special carry no types

import torch
from jaxtyping import Float
from torch import Tensor


def scale_low(x: Float[Tensor, "B C h w"], scale: float) -> Float[Tensor, "B C h w"]:
    """Multiply the lowest frequencies 0 and -1 of both axes by `scale`, the others by 1; real part of the result.

    The window of two bins a side is that of the published filter (threshold 1 about the shifted centre): it holds
    -1 but not +1, so after taking the real part the first harmonic is scaled half way, by (1 + scale) / 2.
    Computed in float32 or wider. Scale 1 gives `x` itself.
    """
    if scale == 1.0:
        return x
    wide = x if x.dtype in (torch.float32, torch.float64) else x.float()
    spectrum = torch.fft.fft2(wide)
    mask = torch.ones(x.shape[-2:], dtype=wide.dtype, device=x.device)
    rows = torch.tensor([0, x.shape[-2] - 1], device=x.device)
    columns = torch.tensor([0, x.shape[-1] - 1], device=x.device)
    mask[rows[:, None], columns] = scale
    return torch.fft.ifft2(spectrum * mask).real.to(x.dtype)
