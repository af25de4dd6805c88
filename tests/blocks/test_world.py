"""The emoji world: everything follows from the seed, masks are exact, and the split is kept."""

import numpy as np
import pytest

from workbench.blocks.drawing import bounds, compose, place, resize
from workbench.blocks.world import BACKGROUNDS, Jitter, World

NONE = (0, 0, 0, 0)


@pytest.fixture(scope="module")
def world() -> World:
    return World.load()


def test_the_world_holds_738_objects_in_seven_styles(world: World) -> None:
    assert len(world.objects) == len(set(world.concepts)) == 738
    assert len(world.styles) == 7
    assert set(world.licences) == {*world.styles, "names"}


def test_the_split_is_what_the_design_says(world: World) -> None:
    assert world.split["held_out_styles"] == ["emojione"]
    assert len(world.split["held_out_objects"]) == 20
    assert len(world.split["held_out_pairs"]) == round(0.05 * 718 * 6)
    assert len(world.tier) == len(set(world.tier)) <= 80
    assert not set(world.tier) & set(world.split["held_out_objects"])
    assert {"cat face", "dog face", "red apple"} <= set(world.tier)


def test_a_seed_draws_the_same_scenes_again_and_a_longer_row_begins_with_the_shorter(world: World) -> None:
    three, five = world.scenes(4, 3), world.scenes(4, 5)
    for one, other in zip(three, five[:3], strict=True):
        assert one.caption == other.caption
        assert np.array_equal(one.picture, other.picture)
    assert not np.array_equal(world.scenes(5)[0].picture, three[0].picture)


def test_scenes_ignore_the_global_generator(world: World) -> None:
    first = world.scenes(1)[0].picture
    np.random.seed(9)  # noqa: NPY002
    assert np.array_equal(world.scenes(1)[0].picture, first)


def test_layers_over_the_background_are_the_picture(world: World) -> None:
    """The picture is the background where nothing covers it, and painting the layers by hand gives it back."""
    for drawing in world.scenes(11, 6, two=0.5):
        made = np.full((128, 128, 3), BACKGROUNDS[drawing.background], np.float64)
        for layer in drawing.layers:
            alpha = layer.picture[..., 3:].astype(np.float64) / 255
            made = made * (1 - alpha) + layer.picture[..., :3] * alpha
        assert np.abs(made - drawing.picture).max() <= 0.51  # rounding to whole levels, in fp32
        bare = sum(layer.alpha for layer in drawing.layers) == 0
        assert (drawing.picture[bare] == BACKGROUNDS[drawing.background]).all()


def test_what_lies_on_top_hides_what_lies_below() -> None:
    below, above = np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8)
    below[:, :2] = (255, 0, 0, 255)
    above[:, 1:3] = (0, 255, 0, 255)
    picture, (low, high) = compose([below, above], (0, 0, 255))
    assert low.sum(0).tolist() == [4, 0, 0, 0]
    assert high.sum(0).tolist() == [0, 4, 4, 0]
    assert picture[0].tolist() == [[255, 0, 0], [0, 255, 0], [0, 255, 0], [0, 0, 255]]


def test_a_sprite_over_the_edge_is_cut_and_one_outside_leaves_nothing() -> None:
    sprite = np.full((4, 4, 4), 255, np.uint8)
    assert bounds(place(sprite, 8, 6, -2)[..., 3] / np.float32(255)) == (6, 0, 8, 2)
    assert bounds(place(sprite, 8, 9, 9)[..., 3] / np.float32(255)) == NONE


def test_scaling_makes_no_dark_seams() -> None:
    """A white disc on transparent black stays white at its soft edge."""
    sprite = np.zeros((32, 32, 4), np.uint8)
    sprite[8:24, 8:24] = 255
    small = resize(sprite, 12)
    assert small[small[..., 3] > 8][:, :3].min() > 240


def test_boxes_bound_what_is_visible(world: World) -> None:
    for drawing in world.scenes(2, 8):
        for layer in drawing.layers:
            x0, y0, x1, y1 = layer.box
            outside = layer.alpha.copy()
            outside[y0:y1, x0:x1] = 0
            assert outside.max() <= 0.1
            assert layer.alpha[y0:y1, x0:x1].max() > 0.5


def test_two_objects_stand_left_and_right_in_the_order_said(world: World) -> None:
    for drawing in world.scenes(3, 8, objects=["cat face", "pizza"], two=1.0):
        left, right = drawing.layers
        assert left.box[0] + left.box[2] < right.box[0] + right.box[2]
        words = {label: (label, *world.synonyms(label)) for label in (left.object, right.object)}
        first, second = (min(drawing.caption.find(w) for w in words[o] if w in drawing.caption) for o in words)
        assert first < second


def test_training_scenes_hold_nothing_held_out(world: World) -> None:
    draw = np.random.default_rng(0)
    for _ in range(400):
        plan = world.plan(draw)
        assert all(world.seen(label, plan.style) for label in plan.objects)


def test_held_out_scenes_reach_everything(world: World) -> None:
    draw = np.random.default_rng(0)
    plans = [world.plan(draw, held_out=True) for _ in range(600)]
    assert {p.style for p in plans} == set(world.styles)
    assert {o for p in plans for o in p.objects} & set(world.split["held_out_objects"])


def test_names_given_are_honoured(world: World) -> None:
    (drawing,) = world.scenes(0, objects=["fox"], styles=["emojione"], backgrounds=["pink"])
    assert (drawing.layers[0].object, drawing.style, drawing.background) == ("fox", "emojione", "pink")


def test_captions_say_only_what_is_true_and_leave_parts_out(world: World) -> None:
    draw = np.random.default_rng(1)
    said = [world.say(draw, ["cat face"], "noto", "red") for _ in range(300)]
    assert all(("noto" in text) == named and ("red" in text) == grounded for text, named, grounded in said)
    assert {"cat", "a cat face", "a noto emoji of a cat on a red background"} <= {text for text, _, _ in said}


def test_synonyms_name_one_object_of_the_tier_only(world: World) -> None:
    words = [word for label in world.tier for word in world.synonyms(label)]
    assert len(words) == len(set(words))
    assert world.synonyms("cat face")[0] == "cat"


def test_ink_is_seen_on_black(world: World) -> None:
    (drawing,) = world.scenes(0, objects=["cat face"], styles=["ink"], backgrounds=["black"], two=0.0)
    assert drawing.picture.max() == 255


def test_every_style_draws_every_size(world: World) -> None:
    for style in world.styles:
        sprite = world.sprite("red apple", style, 48)
        assert sprite.shape == (48, 48, 4)
        assert 0.1 < (sprite[..., 3] > 127).mean() < 1
        assert not sprite.flags.writeable


def test_icon_names_find_objects_too_and_unknown_words_say_so(world: World) -> None:
    assert world.thing("cat-face") is world.thing("cat face")
    with pytest.raises(KeyError, match="catt"):
        world.thing("catt")


def test_jitter_is_kept(world: World) -> None:
    fixed = Jitter(single=(0.5, 0.5), shift=0.0, loose=0.0)
    plan = world.plan(np.random.default_rng(0), two=0.0, jitter=fixed)
    assert plan.frames == ((0.25, 0.25, 0.5),)
