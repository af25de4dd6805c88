"""Latents at the scale, shift and spread that a model uses."""

from types import SimpleNamespace

import torch

from tests.tiny import _vae
from workbench.models.vae import decoder, encoder, pixels_a_cell


def pixels() -> torch.Tensor:
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_a_shift_is_taken_off_before_the_scale_and_put_back_after_it() -> None:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        vae = _vae(shift_factor=0.25, scaling_factor=2.0).eval()
        raw = vae.encode(pixels()).latent_dist.mode()
        latents = encoder(vae)(pixels(), None)
        torch.testing.assert_close(latents, (raw - 0.25) * 2.0)
        torch.testing.assert_close(decoder(vae)(latents), vae.decode(raw).sample, atol=1e-5, rtol=1e-5)


def test_moments_by_channel_come_before_a_shift() -> None:
    raw = torch.ones(1, 2, 1, 1)
    config = SimpleNamespace(latents_mean=[1.0, 3.0], latents_std=[2.0, 4.0], scaling_factor=0.5, shift_factor=9.0)

    def decode(latents: torch.Tensor, return_dict: bool) -> tuple[torch.Tensor]:
        return (latents,)

    vae = SimpleNamespace(config=config, decode=decode, dtype=torch.float32)
    assert decoder(vae)(raw).flatten().tolist() == [1 * 2 / 0.5 + 1, 1 * 4 / 0.5 + 3]


def test_row_i_is_drawn_from_generator_i() -> None:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        vae = _vae().eval()
        same = pixels()[:1].expand(2, -1, -1, -1)
        first, second = encoder(vae)(same, [torch.Generator().manual_seed(seed) for seed in (5, 5)])
        assert torch.equal(first, second)
        _, other = encoder(vae)(same, [torch.Generator().manual_seed(seed) for seed in (5, 6)])
        assert not torch.equal(first, other)


def test_each_halving_doubles_the_pixels_of_a_cell() -> None:
    assert pixels_a_cell(_vae()) == 2
    tiny = SimpleNamespace(config=SimpleNamespace(encoder_block_out_channels=(8,) * 4))
    assert pixels_a_cell(tiny) == 8
