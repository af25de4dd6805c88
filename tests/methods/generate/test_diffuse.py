"""Ordinary sampling: guidance as written, seeds, strength, and a golden number."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny import tiny_sd
from workbench.blocks.pictures import save_png
from workbench.core.ask import Ask
from workbench.core.bundle import Condition
from workbench.core.errors import AskError
from workbench.core.tape import Step, ignore
from workbench.methods.generate.diffuse import Diffuse


def test_guidance_follows_the_equation() -> None:
    bundle = tiny_sd()
    positive, negative = torch.tensor([[[[3.0]]]]), torch.tensor([[[[1.0]]]])
    cond = Condition(bundle.read([""]), (0,), ("cond",))
    assert bundle.seams.guide(positive, negative, 2.5, cond).item() == 1 + 2.5 * (3 - 1)


def test_the_same_seed_draws_the_same_and_another_does_not() -> None:
    draw = Diffuse(steps=2)
    first, again = (draw.sample(tiny_sd(), Ask(prompts="a cat", seeds=7), ignore) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, draw.sample(tiny_sd(), Ask(prompts="a cat", seeds=8), ignore))


def test_without_guidance_the_network_sees_each_image_once() -> None:
    rows: list[int] = []
    unet = tiny_sd().parts["unet"]
    handle = unet.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    Diffuse(steps=2, guidance=1.0).sample(tiny_sd(), Ask(prompts="a cat"), ignore)
    Diffuse(steps=2, guidance=2.0).sample(tiny_sd(), Ask(prompts="a cat"), ignore)
    handle.remove()
    assert rows == [1, 1, 2, 2]


def test_strength_says_how_many_steps_a_picture_takes(tmp_path: Path) -> None:
    save_png(tmp_path / "a.png", np.zeros((16, 16, 3), np.uint8), {})
    steps: list[Step] = []
    ask = Ask(prompts="a cat", image=tmp_path / "a.png")
    Diffuse(steps=8, strength=0.5).sample(tiny_sd(), ask, steps.append)
    assert len(steps) == steps[0].total == 4
    with pytest.raises(AskError, match="leaves none to take"):
        Diffuse(steps=8, strength=0.0).sample(tiny_sd(), ask, ignore)


def test_what_the_mask_keeps_stays_pixel_for_pixel(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    mask = np.zeros((16, 16, 3), np.uint8)
    mask[:, 8:] = 255
    save_png(tmp_path / "a.png", picture, {})
    save_png(tmp_path / "m.png", mask, {})
    ask = Ask(prompts="a cat", image=tmp_path / "a.png", mask=tmp_path / "m.png")
    drawn = Diffuse(steps=2, strength=1.0).sample(tiny_sd(), ask, ignore)[0].permute(1, 2, 0).numpy()
    assert np.array_equal(drawn[:, :8], picture[:, :8])
    assert not np.array_equal(drawn[:, 8:], picture[:, 8:])
