"""The recipe of emoji-dit on a tiny configuration: it learns, goes on where it stopped, and writes what draws."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from workbench.core.ask import Ask
from workbench.methods.generate.diffuse import Diffuse
from workbench.models.load import load
from workbench.training import dit, loop, unet

TINY: dict[str, Any] = {"batch": 4, "scenes": 6, "width": 32, "depth": 1, "pixels": 32, "lr": 6e-3, "device": "cpu"}


def test_the_shape_that_ships_has_a_thousand_picture_tokens() -> None:
    with torch.device("meta"):
        model = dit.build(dit.Shape())
    assert (model.config.sample_size // model.config.patch_size) ** 2 == 1024
    assert 8e6 < sum(weight.numel() for weight in model.parameters()) < 14e6


def test_the_error_is_that_of_the_velocity() -> None:
    """A model that answers zero is wrong by the mean square of noise - x0: 2 for latents of deviation 1."""

    class Silent(torch.nn.Module):
        def forward(self, hidden_states: torch.Tensor, **_: Any) -> tuple[torch.Tensor]:
            return (torch.zeros_like(hidden_states),)

    clean = torch.randn(64, 8, 16, 16, generator=torch.Generator().manual_seed(1))
    nothing = torch.zeros(64, 1, 1)
    wrong = dit.error(Silent(), clean, nothing, nothing[:, 0], torch.Generator().manual_seed(0))
    assert wrong.item() == pytest.approx(2, abs=0.04)  # 64 x 2048 draws


def test_texts_are_those_of_the_pipeline(tmp_path: Path) -> None:
    """What the model is trained on is what our reader, which equals diffusers', says of the folder."""
    shape = dit.Shape(32, 1, 32)
    dit.ship(dit.build(shape).state_dict(), shape, tmp_path / "emoji-dit", loop.Log({}))
    bundle = load(str(tmp_path / "emoji-dit"), dtype="float32")
    states, pooled = dit.Texts("cpu")(["a cat", ""])
    text = bundle.read(["a cat", ""])
    assert text.pooled is not None
    torch.testing.assert_close(states, text.states, atol=0.02, rtol=0.01)  # fp16 on disk
    torch.testing.assert_close(pooled, text.pooled, atol=0.02, rtol=0.01)
    assert states.shape == (2, 77 + 256, 320)


@pytest.mark.slow
def test_a_few_steps_lower_the_loss_and_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "CACHE", tmp_path)
    folder = tmp_path / "emoji-dit"
    first = dit.train(steps=30, folder=str(folder), **TINY)
    second = dit.train(steps=30, folder=str(folder), **TINY)
    assert (first["step"], second["step"], second["samples"]) == (30, 60, 240)
    assert second["loss"] < 0.9 * first["loss"]
    notes = json.loads((folder / "transformer" / "training.json").read_text())
    assert notes["recipe"] == "dit"
    assert [point["step"] for point in notes["curve"]] == [30, 60]
    assert notes["final"]["seconds"] >= first["seconds"]
    bundle = load(str(folder))
    assert (bundle.family, bundle.shapes.image) == ("mmdit", (3, 32, 32))
    drawn = Diffuse(scheduler="euler", steps=2).sample(bundle, Ask(prompts="a cat"), lambda step: None)
    assert drawn.shape == (1, 3, 32, 32)


def test_latents_of_the_pool_are_kept_and_few_begin_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "CACHE", tmp_path)
    from workbench.blocks.world import World

    world, vae = World.load(), dit.autoencoder()
    few = dit.pool(world, vae, 2, 32, 7)
    many = dit.pool(world, vae, 3, 32, 7)
    assert few.shape == (2, 8, 4, 4)
    torch.testing.assert_close(many[:2], few)
    assert vae.config.shift_factor == 0.0
    assert unet.planned(world, 7, 3)[:2] == unet.planned(world, 7, 2)
