"""What ships in assets/models: ordinary folders that diffusers and transformers load, small enough to track."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from workbench.blocks.world import World
from workbench.models.judge import Judge
from workbench.training import unet
from workbench.training.loop import MODELS, diffusers, signed

SCORER, JUDGE = MODELS / "emoji-scorer", MODELS / "emoji-judge"
MOST = 45 * 2**20


@pytest.fixture(scope="module")
def pipe() -> Any:
    loaded = diffusers.StableDiffusionPipeline.from_pretrained(unet.FOLDER)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def test_the_models_fit_their_budget() -> None:
    assert sum(path.stat().st_size for path in MODELS.rglob("*") if path.is_file()) <= MOST


def test_the_folder_is_a_plain_pipeline(pipe: Any) -> None:
    assert pipe.safety_checker is None
    assert pipe.scheduler.config.prediction_type == "v_prediction"
    assert pipe.unet.config.cross_attention_dim == pipe.text_encoder.config.hidden_size
    assert pipe.tokenizer.model_max_length == 77
    assert pipe.unet.config.in_channels == pipe.vae.config.latent_channels


def test_it_draws_128_pixels_and_the_seed_decides(pipe: Any) -> None:
    def draw(seed: int) -> np.ndarray:
        generator = torch.Generator().manual_seed(seed)
        return pipe("a cat", num_inference_steps=2, generator=generator, output_type="np").images[0]

    assert draw(0).shape == (128, 128, 3)
    assert np.array_equal(draw(0), draw(0))
    assert not np.array_equal(draw(0), draw(1))


def test_latents_have_deviation_one(pipe: Any) -> None:
    """The scale that plain pipelines divide by makes the latents of true drawings about N(0, 1)."""
    world = World.load()
    pictures = signed([d.picture for d in world.scenes(5, 8, objects=world.tier)])
    with torch.no_grad():
        latents = pipe.vae.encode(pictures).latent_dist.mean * pipe.vae.config.scaling_factor
    assert abs(latents.mean().item()) < 0.1
    assert 0.85 < latents.std().item() < 1.15


@pytest.mark.parametrize("folder", [unet.FOLDER / "text_encoder", SCORER])
def test_text_weights_carry_the_prefix_older_readers_need(folder: Path) -> None:
    names = [n for n in load_file(folder / "model.safetensors") if "embeddings.token_embedding" in n]
    assert names == ["text_model.embeddings.token_embedding.weight"]


def test_the_text_encoder_is_the_scorers_text_tower() -> None:
    mine, scorers = (
        load_file(unet.FOLDER / "text_encoder" / "model.safetensors"),
        load_file(SCORER / "model.safetensors"),
    )
    for name, weight in mine.items():
        assert torch.equal(weight, scorers[name]), name


@pytest.mark.parametrize("notes", sorted(MODELS.rglob("training*.json")), ids=lambda p: str(p.relative_to(MODELS)))
def test_every_training_says_how_long_it_took(notes: Path) -> None:
    facts = json.loads(notes.read_text("utf-8"))
    assert {"recipe", "device", "torch", "final", "curve"} <= set(facts)
    assert facts["final"]["seconds"] > 0
    assert facts["final"]["step"] > 0


def test_the_judge_knows_the_whole_world() -> None:
    world, model = World.load(), Judge.load(JUDGE)
    assert model.config.objects == world.concepts
    assert model.config.styles == world.styles
