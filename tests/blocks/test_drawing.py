"""Sprites, placing and composing."""

import numpy as np

from workbench.blocks.drawing import Sheet, bounds, compose, place, resize
from workbench.core.places import ASSETS


def test_a_vector_and_a_solid_drawing_have_the_same_frame() -> None:
    for style in ("flat", "3d"):
        sprite = Sheet(style, ASSETS / "world").sprite("cat-face", 32)
        assert sprite.shape == (32, 32, 4)
        assert sprite[..., 3].max() > 200
        assert not sprite.flags.writeable


def test_what_hangs_over_the_edge_is_cut() -> None:
    sprite = np.full((4, 4, 4), 255, np.uint8)
    assert place(sprite, 8, -2, 6)[..., 3].sum() == 255 * 4
    assert place(sprite, 8, 9, 0).sum() == 0


def test_later_layers_hide_earlier_ones() -> None:
    red, blue = (np.zeros((2, 2, 4), np.uint8) for _ in range(2))
    red[...] = (255, 0, 0, 255)
    blue[0] = (0, 0, 255, 255)
    picture, covers = compose([red, blue], (255, 255, 255))
    assert picture[0, 0].tolist() == [0, 0, 255]
    assert picture[1, 0].tolist() == [255, 0, 0]
    assert covers[0].tolist() == [[0, 0], [1, 1]]


def test_half_coverage_mixes_with_the_ground() -> None:
    layer = np.zeros((1, 1, 4), np.uint8)
    layer[...] = (200, 100, 0, 51)  # coverage 0.2
    picture, _ = compose([layer], (100, 100, 100))
    assert picture[0, 0].tolist() == [120, 100, 80]


def test_resizing_leaves_no_dark_seam() -> None:
    sprite = np.zeros((8, 8, 4), np.uint8)
    sprite[:, :4] = (250, 200, 150, 255)
    small = resize(sprite, 4)
    seen = small[small[..., 3] > 128]
    assert (np.abs(seen[:, :3].astype(int) - (250, 200, 150)) <= 2).all()


def test_bounds_are_tight_and_empty_ones_zero() -> None:
    alpha = np.zeros((6, 6), np.float32)
    alpha[1:3, 2:5] = 1
    assert bounds(alpha) == (2, 1, 5, 3)
    assert bounds(np.zeros((6, 6), np.float32)) == (0, 0, 0, 0)
