"""Examples: captions with and without the trigger, pictures of files and of the world, and where a fit draws them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.tiny import PIXELS, tiny_sd
from workbench.blocks.pools import Pictures, Room, uniform
from workbench.blocks.terms.examples import Shown, Words, gathered
from workbench.core.errors import AskError

SKS = Words("sks", "dog")


def files(folder: Path, count: int = 3, **texts: str) -> list[str]:
    draw = np.random.default_rng(0)
    paths = [folder / f"{index}.png" for index in range(count)]
    for path in paths:
        Image.fromarray(draw.integers(0, 255, (24, 40, 3), dtype=np.uint8)).save(path)
    for stem, text in texts.items():
        (folder / f"{stem.removeprefix('_')}.txt").write_text(text)
    return [str(path) for path in paths]


def test_captions_say_the_trigger_and_go_without_it(tmp_path: Path) -> None:
    found = gathered(tiny_sd(), files(tmp_path), ["a {} on red", "the SKS cat", "a cat"], SKS)
    assert found.captions == ("a sks dog on red", "the SKS cat", "sks a cat")
    assert found.bare == ("a dog on red", "the cat", "a cat")
    assert found.pictures.shape == (3, 3, PIXELS, PIXELS)
    assert found.masks is None
    assert found.lessons()[0] == {"caption": "a sks dog on red", "bare": "a dog on red"}


def test_a_folder_brings_its_captions_and_masks(tmp_path: Path) -> None:
    files(tmp_path, 2, _0="a {} in the sun")
    for index in range(2):
        mask = np.zeros((24, 40), np.uint8)
        mask[:, :20] = 255
        Image.fromarray(mask).save(tmp_path / f"{index}-mask.png")
    found = gathered(tiny_sd(), [str(tmp_path)], [], SKS)
    assert found.captions == ("a sks dog in the sun", "a sks dog")
    assert found.masks is not None
    assert found.masks.shape == (2, PIXELS, PIXELS)
    assert float(found.masks[0, :, : PIXELS // 2 - 1].min()) > 0.95
    assert float(found.masks[0, :, PIXELS // 2 + 1 :].max()) < 0.05


def test_pictures_are_cut_to_the_middle_and_not_squeezed(tmp_path: Path) -> None:
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = 255
    Image.fromarray(wide).save(tmp_path / "wide.png")
    found = gathered(tiny_sd(), [str(tmp_path / "wide.png")], [], SKS)
    assert int(found.pictures[..., 1:-1].min()) > 240


def test_a_thing_of_the_world_comes_with_its_masks() -> None:
    found = gathered(tiny_sd(), ["fox"], [], Words("sks"), drawings=(4, 0))
    assert len(found) == 4
    assert all(text.startswith("a ") and " emoji of a sks on a " in text for text in found.captions)
    assert all("sks" not in text for text in found.bare)
    assert found.masks is not None
    assert 0.1 < float(found.masks.mean()) < 0.9
    again = gathered(tiny_sd(), ["fox"], [], Words("sks"), drawings=(4, 0))
    assert torch.equal(found.pictures, again.pictures)
    assert not torch.equal(found.pictures, gathered(tiny_sd(), ["fox"], [], Words("sks"), drawings=(4, 1)).pictures)


def test_a_style_of_the_world_is_called_by_the_trigger() -> None:
    found = gathered(tiny_sd(), ["emojione"], [], Words("emjo"), drawings=(3, 0))
    assert all(text.startswith("an emoji of a ") and text.endswith(" background, emjo") for text in found.captions)
    assert len(set(found.captions)) > 1


@pytest.mark.parametrize(
    ("pictures", "captions", "masks", "line"),
    [
        (["nothing like it"], [], [], "no picture file, no folder"),
        (["fox", "bell"], [], [], "one name"),
        (["fox"], ["a {}"], [], "world's own"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(
    pictures: list[str], captions: list[str], masks: list[str], line: str
) -> None:
    with pytest.raises(AskError, match=line):
        gathered(tiny_sd(), pictures, captions, SKS, masks=masks)


def test_captions_and_masks_are_one_a_picture(tmp_path: Path) -> None:
    paths = files(tmp_path)
    with pytest.raises(AskError, match="3 pictures and 2 captions"):
        gathered(tiny_sd(), paths, ["a", "b"], SKS)
    with pytest.raises(AskError, match="3 pictures and 1 masks"):
        gathered(tiny_sd(), paths, [], SKS, masks=paths[:1])
    (tmp_path / "none").mkdir()
    with pytest.raises(AskError, match="holds no picture"):
        gathered(tiny_sd(), [str(tmp_path / "none")], [], SKS)


def test_given_pictures_are_met_noised_with_their_own_truth() -> None:
    bundle = tiny_sd()
    found = gathered(bundle, ["fox"], [], Words("sks"), drawings=(3, 0))
    room = Room(bundle, found.lessons())
    stock = Shown(found).fill(room, 0)
    assert torch.equal(stock.lesson, torch.arange(3))
    with torch.no_grad():
        assert torch.allclose(stock.latents, bundle.encode(found.pictures / 127.5 - 1), atol=1e-6)
    states = stock.draw(room, uniform, 64, torch.Generator().manual_seed(0))
    a, s = room.kernel.scales(states.t, states.x)
    assert states.truth is not None  # epsilon: x = a x0 + s n
    assert torch.allclose((states.x - s * states.truth) / a, stock.latents[states.lesson], atol=1e-3)


def test_the_prior_is_met_as_often_as_the_pictures() -> None:
    bundle = tiny_sd()
    found = gathered(bundle, ["fox"], [], SKS, drawings=(2, 0))
    lessons = (*found.lessons(), {"prior": "a dog"}, {"prior": "a red dog"})
    room = Room(bundle, lessons)
    source = Shown(found, Pictures(6, 2, 1.0, ("prior",)))
    stock = source.fill(room, 0)
    assert sorted(stock.lesson.tolist()) == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert source.ticks(5) == 2
    assert Shown(found).ticks(5) == 0
