"""The collapse detector: silent on sound pictures, loud on each kind of broken ones."""

import torch

from workbench.blocks.collapse import collapsed, idle
from workbench.blocks.judging import Seen

RIGHT = torch.ones(12, dtype=torch.bool)


def seen(pixels: torch.Tensor, features: torch.Tensor | None = None) -> Seen:
    unit = pixels.float() / 255
    rough = (unit.diff(dim=-1).abs().mean((1, 2, 3)) + unit.diff(dim=-2).abs().mean((1, 2, 3))) / 2
    count = len(pixels)
    features = torch.eye(count) if features is None else features
    return Seen(torch.zeros(count, 3), torch.zeros(count, 2), features, unit.flatten(1).std(1), rough, pixels)


def smooth(count: int = 12) -> torch.Tensor:
    ramp = torch.linspace(0, 255, 16).to(torch.uint8)
    return ramp.expand(count, 3, 16, 16).clone()


def noise(count: int = 12) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, 16, 16), generator=generator, dtype=torch.uint8)


def test_equal_pictures_are_sound_and_idle() -> None:
    assert collapsed(seen(smooth()), seen(smooth()), RIGHT, RIGHT) == ()
    assert idle(seen(smooth()), seen(smooth()))
    assert not idle(seen(smooth()), seen(smooth().flip(-1)))


def test_half_of_the_right_pictures_lost_is_a_collapse_and_a_few_are_not() -> None:
    few, most = RIGHT.clone(), RIGHT.clone()
    few[:4], most[:7] = False, False
    assert collapsed(seen(smooth()), seen(smooth()), RIGHT, few) == ()
    assert "of 12 control pictures the judge named rightly, 5 still are" in collapsed(
        seen(smooth()), seen(smooth()), RIGHT, most
    )
    assert collapsed(seen(smooth()), seen(smooth()), ~RIGHT, ~RIGHT) == ()  # the model never drew them


def test_flat_noisy_and_equal_pictures_are_each_named() -> None:
    flat = collapsed(seen(smooth()), seen(torch.full_like(smooth(), 128)), RIGHT, RIGHT)
    assert any("flat" in line for line in flat)
    rough = collapsed(seen(smooth()), seen(noise()), RIGHT, RIGHT)
    assert any("noisy" in line for line in rough)
    alike = collapsed(seen(smooth()), seen(smooth(), torch.ones(12, 12)), RIGHT, RIGHT)
    assert any("alike" in line for line in alike)
