"""Close-ups: true drawings with their masks where the world has the concept, the model's own pictures elsewhere."""

from dataclasses import replace

import pytest
import torch

from tests.tiny import tiny_sd
from workbench.blocks.closeups import Closeups, closeups
from workbench.blocks.world import World
from workbench.core.errors import Stopped
from workbench.core.tape import ignore


def emoji_like():
    return replace(tiny_sd(), world=World.load())


def test_an_objects_drawings_come_with_its_mask() -> None:
    bundle = emoji_like()
    found = closeups(bundle, "kitten", ["a kitten"], 2, 0, ignore)
    assert found.latents.shape == (2, *bundle.shapes.latent)
    assert found.masks.shape == (2, 1, 16, 16)
    assert 0.05 < float(found.masks.mean()) < 0.95
    scene = World.load().scenes(0, 2, objects=["cat", "cat face"], two=0.0, size=16, held_out=True)[1]
    assert torch.equal(found.masks[1, 0], torch.from_numpy(scene.layers[0].alpha).float())


def test_a_style_is_everywhere_in_its_drawings() -> None:
    assert float(closeups(emoji_like(), "ink", ["an ink emoji"], 1, 0, ignore).masks.min()) == 1.0


def test_a_model_without_a_world_draws_its_own_and_can_be_stopped() -> None:
    found = closeups(tiny_sd(), "cat", ["cat", "a cat"], 3, 5, ignore)
    again = closeups(tiny_sd(), "cat", ["cat", "a cat"], 3, 5, ignore)
    assert found.latents.shape[0] == 3
    assert torch.equal(found.latents, again.latents)
    assert float(found.masks.min()) == 1.0

    def stop(step: object) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        closeups(tiny_sd(), "cat", ["cat"], 1, 0, stop)


def test_places_are_those_half_full_and_all_where_there_are_none() -> None:
    mask = torch.zeros(1, 1, 4, 4)
    mask[0, 0, :2, :2] = 1.0
    mask[0, 0, 2, 2] = 1.0
    found = Closeups(torch.zeros(1, 4, 2, 2), mask)
    assert found.inside(0, (2, 2)).tolist() == [True, False, False, False]
    assert found.inside(0, (1, 1)).tolist() == [True], "a grid too coarse for the concept looks everywhere"
