"""What ships in assets/models: ordinary folders that diffusers and transformers load, small enough to track."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPModel

from workbench.blocks.world import World
from workbench.models.judge import Judge
from workbench.models.weights import shards
from workbench.training import unet
from workbench.training.loop import MODELS, diffusers, signed
from workbench.training.scorer import share

SCORER, JUDGE = MODELS / "emoji-scorer", MODELS / "emoji-judge"
MOST = 45 * 2**20


@pytest.fixture(scope="module")
def pipe() -> Any:
    loaded = diffusers.StableDiffusionPipeline.from_pretrained(unet.FOLDER)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def test_the_models_fit_their_budget() -> None:
    assert sum(path.lstat().st_size for path in MODELS.rglob("*") if path.is_file()) <= MOST


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


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: value for file in shards(folder, ("model",))[0] for name, value in load_file(file).items()}


@pytest.mark.parametrize("folder", [unet.FOLDER / "text_encoder", SCORER])
def test_text_weights_carry_the_prefix_older_readers_need(folder: Path) -> None:
    names = [n for n in tensors(folder) if "embeddings.token_embedding" in n]
    assert names == ["text_model.embeddings.token_embedding.weight"]


def test_the_text_encoder_is_the_scorers_text_tower() -> None:
    mine, scorers = tensors(unet.FOLDER / "text_encoder"), tensors(SCORER)
    for name, weight in mine.items():
        assert torch.equal(weight, scorers[name]), name


def test_transformers_reads_the_scorer_whole() -> None:
    clip, facts = CLIPModel.from_pretrained(SCORER, output_loading_info=True)
    assert not facts["missing_keys"]
    assert set(tensors(SCORER)) == set(clip.state_dict())


@pytest.mark.parametrize("same", [True, False])
def test_a_scorer_keeps_its_text_tower_once_where_the_denoiser_has_the_same(tmp_path: Path, same: bool) -> None:
    own = {"text_model.a": torch.arange(6.0), "vision_model.b": torch.ones(2, 2)}
    tower, folder = tmp_path / "unet" / "text_encoder" / "model.safetensors", tmp_path / "scorer"
    tower.parent.mkdir(parents=True)
    folder.mkdir()
    save_file({"text_model.a": own["text_model.a"] + (0 if same else 1)}, tower)
    save_file(own, folder / "model.safetensors")
    share(folder, tower)
    share(folder, tower)
    found = tensors(folder)
    assert {name: value.tolist() for name, value in found.items()} == {k: v.tolist() for k, v in own.items()}
    assert (folder / "model.safetensors").exists() != same
    assert any(path.is_symlink() for path in folder.iterdir()) == same


@pytest.mark.parametrize(
    "notes",
    sorted(set(MODELS.rglob("training*.json")) - set(MODELS.glob("emoji-lora/*/*.json"))),
    ids=lambda p: str(p.relative_to(MODELS)),
)
def test_every_training_says_how_long_it_took(notes: Path) -> None:
    facts = json.loads(notes.read_text("utf-8"))
    assert {"recipe", "device", "torch", "final", "curve"} <= set(facts)
    assert facts["final"]["seconds"] > 0
    assert facts["final"]["step"] > 0


def test_the_judge_knows_the_whole_world() -> None:
    world, model = World.load(), Judge.load(JUDGE)
    assert model.config.objects == world.concepts
    assert model.config.styles == world.styles
