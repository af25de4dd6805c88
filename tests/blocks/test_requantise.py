"""Keeping part of a picture: masks on grids, feathered pasting, and the codes of what is missing."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.tiny import tiny_sd, tiny_var
from workbench.blocks import requantise
from workbench.blocks.requantise import Canvas, Keeper, Source
from workbench.core.ask import Ask
from workbench.core.errors import AskError, MissingPart


def canvas(columns: int, side: int = 16) -> Canvas:
    """A grey picture whose first columns are new."""
    new = torch.zeros(1, 1, side, side)
    new[..., :columns] = 1
    return Canvas(torch.zeros(1, 3, side, side), new)


def test_a_place_of_which_half_is_new_stays() -> None:
    assert canvas(3).kept((8, 8))[0, 0, 0].tolist() == [0, 1, 1, 1, 1, 1, 1, 1]


def test_places_follow_the_mask_and_very_coarse_scales_are_kept_whole() -> None:
    kept = canvas(8).kept((8, 8))
    assert requantise.places(kept, (4, 4))[0, 0, 0].tolist() == [0, 0, 1, 1]
    assert requantise.places(kept, (1, 1)).item() == 1
    assert requantise.places(kept, (2, 2))[0, 0].tolist() == [[0, 1], [0, 1]]
    assert requantise.places(torch.zeros(1, 1, 8, 8), (1, 1)).item() == 0


def test_feather_rises_on_the_new_side_alone() -> None:
    soft = requantise.soften(canvas(6, 8).new, 3.0)
    assert soft[0, 0, 4].tolist() == pytest.approx([1, 1, 1, 0.75, 0.5, 0.25, 0, 0])
    assert requantise.soften(canvas(6, 8).new, 0.0)[0, 0, 0].tolist() == [1, 1, 1, 1, 1, 1, 0, 0]


def test_pasting_keeps_kept_pixels_exactly() -> None:
    images = torch.full((2, 3, 16, 16), 200, dtype=torch.uint8)
    for feather in (0.0, 2.0):
        out = canvas(8).paste(images, feather)
        assert (out[..., 8:] == 128).all()
        assert (out[..., :4] == 200).all()


def test_without_a_state_what_is_missing_is_the_picture() -> None:
    bundle = tiny_var()
    pixels = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    source = Source.of(bundle, pixels, 2)
    x = torch.zeros(2, 4, 8, 8)
    assert torch.equal(source.missing(0, x), source.own(0))
    codes = torch.full((2, 4, 2, 2), 9.0)
    kept = torch.zeros(1, 1, 8, 8)
    kept[..., 4:] = 1
    mixed = Keeper(source, kept, "replace")(1, codes, x)
    assert (mixed[..., 0] == 9).all()
    assert torch.equal(mixed[..., 1], source.own(1)[..., 1])
    assert Keeper(source, torch.zeros(1, 1, 8, 8), "requantise")(1, codes, x) is codes


def test_what_is_missing_is_the_nearest_code_place_by_place() -> None:
    bundle = tiny_var()
    pixels = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    source = Source.of(bundle, pixels, 1)
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    found, book = source.missing(5, x), bundle.parts["vq"].quantize.embedding.weight
    for i in range(8):
        for j in range(8):
            wanted = min(book, key=lambda code, i=i, j=j: float((code - (source.f - x)[0, :, i, j]).square().sum()))
            assert torch.equal(found[0, :, i, j], wanted)


def test_pictures_and_masks_are_read_at_the_models_size(tmp_path: Path) -> None:
    picture, mask = np.zeros((32, 32, 3), np.uint8), np.zeros((32, 32), np.uint8)
    mask[:, :16] = 255
    Image.fromarray(picture).save(tmp_path / "p.png")
    Image.fromarray(mask).save(tmp_path / "m.png")
    found = requantise.canvas(
        tiny_var(), Ask(prompts="class:1", image=tmp_path / "p.png", mask=tmp_path / "m.png"), "it"
    )
    assert found.pixels.shape == (1, 3, 16, 16)
    assert (found.pixels == -1).all()
    assert found.new[..., :8].all()
    assert not found.new[..., 8:].any()


def test_a_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / "p.png")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "m.png")
    ask = Ask(prompts="class:1", image=tmp_path / "p.png", mask=tmp_path / "m.png")
    with pytest.raises(AskError, match="mask is 8x8 and the picture 16x16"):
        requantise.canvas(tiny_var(), ask, "it")


def test_a_model_without_scales_has_no_quantiser() -> None:
    with pytest.raises(MissingPart, match="no multi-scale VQ"):
        requantise.quantiser(tiny_sd())
    with pytest.raises(AskError, match="anew"):
        Source.of(tiny_var(prediction="direct"), torch.zeros(1, 3, 16, 16), 1)
