import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from tests.tiny import tokenizer
from workbench.core.bundle import Bundle
from workbench.core.errors import CheckpointMismatch, MissingPart
from workbench.models.load import load
from workbench.models.scorer import Look, bundle, read, sites


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """A tiny random CLIPModel folder."""
    from transformers import CLIPConfig, CLIPModel

    words = tokenizer()
    marks = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id}
    common = {"intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "projection_dim": 12}
    text = {**common, "hidden_size": 16, "vocab_size": len(words), "max_position_embeddings": 20, **marks}
    vision = {**common, "hidden_size": 24, "image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12))
    folder = tmp_path / "clip"
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def direct(folder: Path) -> Any:
    """The plain transformers model."""
    from transformers import CLIPModel

    return CLIPModel.from_pretrained(folder)


@torch.no_grad()
def test_embeddings_are_those_of_transformers_at_unit_length(clip: Path) -> None:
    loaded, plain = load(str(clip)), direct(clip)
    pixels = torch.rand(2, 3, 32, 32) * 2 - 1
    texts = ["the cat", "a red dog on the flat"]
    ids = tokenizer()(texts, padding="max_length", max_length=20, return_tensors="pt").input_ids
    text = plain.text_projection(plain.text_model(ids).pooler_output)
    picture = plain.visual_projection(plain.vision_model(Look(32)(pixels)).pooler_output)
    pooled = loaded.read(texts).pooled
    assert pooled is not None
    torch.testing.assert_close(pooled, F.normalize(text, dim=-1), atol=1e-6, rtol=0)
    torch.testing.assert_close(loaded.encode(pixels), F.normalize(picture, dim=-1), atol=1e-6, rtol=0)


def test_a_clip_folder_becomes_a_bundle(clip: Path) -> None:
    loaded = load(str(clip))
    assert (loaded.family, loaded.name) == ("clip", "clip")
    assert loaded.shapes.image == (3, 32, 32)
    assert loaded.shapes.text == (20, 16)
    assert loaded.read(["x" * 500]).states.shape == (1, 20, 16)
    assert loaded.about["parts"]["clip"]["class"] == "CLIPModel"
    assert not any(weight.requires_grad for weight in loaded.parts["clip"].parameters())


def test_both_towers_have_sites_whose_handles_are_their_matrices(clip: Path) -> None:
    loaded = load(str(clip))
    attention, mlps = loaded.sites("self-attention"), loaded.sites("mlp")
    assert [len(found) for found in (attention, mlps, loaded.sites("block"))] == [4, 4, 4]
    assert [site.tokens for site in attention] == [20, 20, 17, 17]
    assert {site.heads for site in attention} == {2}
    for site in loaded.all_sites:
        assert loaded.parts["clip"].get_submodule(site.path) is site.module
        for handle in site.handles.values():
            name = handle.key.removeprefix("clip:")
            assert loaded.parts["clip"].get_parameter(name) is handle.weight
    assert attention[0].query.weight.shape == (16, 16)
    assert mlps[-1].down.weight.shape == (24, 32)


def test_it_refuses_to_draw(clip: Path) -> None:
    loaded = load(str(clip))
    with pytest.raises(MissingPart, match="clip judges pictures and draws none"):
        loaded.decode(torch.zeros(1))
    with pytest.raises(MissingPart, match="clip judges pictures and draws none"):
        loaded.seams.predict(torch.zeros(1), torch.zeros(1), None)


@pytest.mark.parametrize("crop", [True, False])
def test_pictures_of_any_shape_are_made_square(crop: bool) -> None:
    look = Look(32, (0.5,) * 3, (0.5,) * 3, crop)
    assert look(torch.zeros(2, 3, 50, 90)).shape == (2, 3, 32, 32)
    assert look(torch.zeros(2, 3, 20, 10)).shape == (2, 3, 32, 32)
    same = torch.rand(1, 3, 32, 32) * 2 - 1
    torch.testing.assert_close(look(same), same)


def test_a_crop_keeps_the_middle() -> None:
    picture = torch.full((1, 3, 8, 24), -1.0)
    picture[..., 8:16] = 1.0
    assert Look(8, (0.5,) * 3, (0.5,) * 3, True)(picture).min() == 1.0


def test_the_folder_says_how_to_look(clip: Path) -> None:
    path = clip / "preprocessor_config.json"
    path.write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "do_center_crop": False}))
    assert read(clip)[2] == Look(32, (0.5,) * 3, (0.25,) * 3, False)
    path.write_text(json.dumps({"image_mean": [0.5], "image_std": [0, 0, 0]}))
    with pytest.raises(CheckpointMismatch, match="three numbers each"):
        read(clip)


def test_a_tokenizer_of_another_model_is_refused(clip: Path) -> None:
    path = clip / "tokenizer.json"
    facts = json.loads(path.read_text())
    facts["model"]["vocab"] |= {f"extra{i}": 1000 + i for i in range(5)}
    path.write_text(json.dumps(facts))
    with pytest.raises(CheckpointMismatch, match="belong to different models"):
        load(str(clip))


def test_a_missing_weight_is_named(clip: Path) -> None:
    tensors = load_file(clip / "model.safetensors")
    del tensors["visual_projection.weight"]
    save_file(tensors, clip / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointMismatch, match=r"1 are not there \(first: visual_projection\.weight\)"):
        load(str(clip))


def test_a_bundle_can_be_made_of_a_model_at_hand(clip: Path) -> None:
    model, words, look = read(clip)
    made = bundle(model, words, look, name="mine")
    assert isinstance(made, Bundle)
    assert len(list(sites(model))) == len(made.all_sites)
