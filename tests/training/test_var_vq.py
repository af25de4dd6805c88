"""The recipe of the multi-scale VQ: its code book on paper, its scenes, its losses."""

import numpy as np
import pytest
import torch

from workbench.blocks.world import World
from workbench.models.var.vq import MultiScaleVQ, Quantised
from workbench.training import var_vq


def tiny(vocab: int = 3, channels: int = 2) -> MultiScaleVQ:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MultiScaleVQ(
            patch_nums=(1, 2), vocab_size=vocab, latent_channels=channels, channels=4, channel_mult=(1, 1),
            layers_per_block=1, norm_groups=2)  # fmt: skip
    model.quantize.embedding.weight.requires_grad_(False)
    return model


def quantised(first: list[int], second: list[int], value: float) -> Quantised:
    """A row whose two scales took these codes for latents that are all `value`."""
    tokens = [torch.tensor([first]), torch.tensor([second])]
    return Quantised(tokens, [torch.full((1, 2, 1, 1), value), torch.full((1, 2, 2, 2), value)], [])


def test_in_the_book_one_coarse_token_weighs_as_much_as_four_fine_ones() -> None:
    book = var_vq.Book(tiny(), decay=0.0)
    book.update(quantised([0], [1, 1, 1, 2], 2.0))
    # shares 1, 3/4 and 1/4 of a total of 2, in units of the mean use 2/3
    torch.testing.assert_close(book.counts, torch.tensor([1.5, 1.125, 0.375]))
    torch.testing.assert_close(book.weight.detach(), torch.full((3, 2), 2.0))


def test_the_book_moves_by_its_decay() -> None:
    model = tiny()
    model.quantize.embedding.weight.fill_(1.0)
    book = var_vq.Book(model, decay=0.5)
    book.update(quantised([0], [0, 0, 0, 0], 5.0))
    # halves of old and new: the count is 1 and 3, the sum 1 and 15
    torch.testing.assert_close(book.counts, torch.tensor([2.0, 0.5, 0.5]))
    torch.testing.assert_close(book.weight[0], torch.tensor([4.0, 4.0]))


def test_codes_that_nobody_uses_are_moved_to_residuals() -> None:
    book, generator = var_vq.Book(tiny()), torch.Generator().manual_seed(0)
    book.counts = torch.tensor([1.0, 0.01, 2.0])
    before = book.weight.clone()
    assert book.revive(quantised([0], [0, 0, 0, 0], 7.0), generator) == 1
    assert book.weight[1].tolist() == [7.0, 7.0]
    assert torch.equal(book.weight[[0, 2]], before[[0, 2]])
    assert book.revive(quantised([0], [0, 0, 0, 0], 7.0), generator) == 0


def test_k_means_finds_centres_that_are_there() -> None:
    generator = torch.Generator().manual_seed(1)
    places = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    rows = places.repeat(50, 1) + 0.01 * torch.randn(150, 2, generator=generator)
    found = var_vq.kmeans(rows, 12, generator)
    nearest = torch.cdist(places, found).amin(1)
    assert nearest.max() < 0.05


def test_the_book_begins_with_residuals_of_the_pictures() -> None:
    model, generator = tiny(8), torch.Generator().manual_seed(0)
    true = torch.rand(16, 3, 4, 4, generator=generator) * 2 - 1
    book = var_vq.Book(model)
    with torch.no_grad():
        before = model.quantise(model.encode(true))
        book.begin(model, true, generator)
        after = model.quantise(model.encode(true))
        f = model.encode(true)
    assert (f - after.prefixes[-1]).square().mean() < (f - before.prefixes[-1]).square().mean()


def test_equal_pictures_cost_nothing_and_a_shift_costs_its_height() -> None:
    true = torch.zeros(1, 3, 8, 8)
    assert var_vq.likeness(true, true).item() == 0
    assert var_vq.likeness(true + 0.5, true).item() == pytest.approx(0.75)  # 0.5 + 0.25, and no gradient


def test_the_listed_subjects_are_known_and_all_may_be_seen() -> None:
    world = World.load()
    about = var_vq.subject(world, "cpu")
    assert len(about.objects) >= 32
    assert len(about.styles) >= 2
    assert all(world.seen(label, style) for label in about.objects for style in about.styles)
    everything = var_vq.subject(world, "gpu")
    assert set(about.objects) < set(everything.objects)
    assert not set(everything.styles) & set(world.split["held_out_styles"])


def test_scenes_of_few_begin_those_of_many_and_show_one_object_each() -> None:
    world = World.load()
    about = var_vq.subject(world, "cpu")
    plans = var_vq.planned(world, about, 7, 20)
    assert plans[:5] == var_vq.planned(world, about, 7, 5)
    assert all(len(plan.objects) == 1 and plan.style in about.styles for plan in plans)
    pool = var_vq.drawn(world, plans[:2], torch.device("cpu"))
    assert pool.shape == (2, 3, 64, 64)
    assert np.array_equal(pool[0].permute(1, 2, 0), world.draw(plans[0], 64)[0])
    assert var_vq.pictures(pool, torch.arange(2)).abs().max() <= 1


@pytest.mark.parametrize("shape", sorted(var_vq.SHAPES))
def test_both_tiers_take_64_pixels_to_their_last_scale(shape: str) -> None:
    with torch.device("meta"):
        model = MultiScaleVQ(**var_vq.SHAPES[shape])
    assert model.factor * model.patch_nums[-1] == var_vq.SIZE


def test_a_step_teaches_every_part_but_the_book() -> None:
    model, generator = tiny(), torch.Generator().manual_seed(0)
    true = torch.rand(2, 3, 4, 4, generator=generator) * 2 - 1
    error, found = var_vq.step_loss(model, true, False, generator)
    error.backward()
    assert found is not None
    silent = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    # two scales use the first and the last of the four shared convolutions
    assert all("qresi_ls.1" in name or "qresi_ls.2" in name for name in silent)
    assert model.quantize.embedding.weight.grad is None
    assert var_vq.step_loss(model, true, True, generator)[1] is None
