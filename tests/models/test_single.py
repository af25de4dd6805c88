import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.models.ldm import save_original, small_assets, small_pipeline
from workbench.core.ask import Ask
from workbench.core.errors import CheckpointMismatch, MissingPart, ModelError, UnsupportedFamily
from workbench.core.places import ASSETS
from workbench.methods.generate.diffuse import Diffuse
from workbench.models import single
from workbench.models.load import load
from workbench.models.single import Single, configuration, detect, vocabulary

FIRST = "model.diffusion_model.input_blocks.0.0.weight"
KEY = "model.diffusion_model.input_blocks.{}.1.transformer_blocks.0.attn2.to_k.weight"
VAE = "first_stage_model.decoder.conv_in.weight"
TEXTS = {
    "sd1": ("cond_stage_model.transformer.text_model.final_layer_norm.weight",),
    "sd2": ("cond_stage_model.model.ln_final.weight",),
    "sdxl": ("conditioner.embedders.0.transformer.text_model.final_layer_norm.weight",
             "conditioner.embedders.1.model.ln_final.weight")}  # fmt: skip


def names(kind: str, channels: int = 4) -> dict[str, tuple[int, ...]]:
    """The names and shapes by which a checkpoint is known."""
    width = {"sd1": 768, "sd2": 1024, "sdxl": 2048}[kind]
    tensors = {FIRST: (320, channels, 3, 3), KEY.format(4 if kind == "sdxl" else 1): (640, width), VAE: (512, 4, 3, 3)}
    return tensors | dict.fromkeys(TEXTS[kind], (768,))


@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl"])
def test_the_architecture_is_read_off_names_and_shapes(kind: str) -> None:
    found = detect("model.safetensors", names(kind), {})
    assert (found.kind, found.channels) == (kind, 4)
    assert found.prediction == ("v_prediction" if kind == "sd2" else "epsilon")


def test_an_inpainting_model_is_told_by_its_nine_channels() -> None:
    found = detect("model.safetensors", names("sd1", 9), {})
    config = json.loads((configuration(found) / "unet" / "config.json").read_text())
    assert found.channels == config["in_channels"] == 9


def test_what_was_predicted_comes_from_metadata_then_marks_then_the_name() -> None:
    assert detect("v2-1_512-ema", names("sd2"), {}) == Single("sd2", 4, "epsilon", True)
    assert detect("x", names("sd2"), {"modelspec.prediction_type": "epsilon"}).prediction == "epsilon"
    assert detect("x", names("sd1"), {"modelspec.prediction_type": "v"}).prediction == "v_prediction"
    marked = detect("x", {**names("sdxl"), "v_pred": (0,), "ztsnr": (0,)}, {})
    assert (marked.prediction, marked.zero_snr) == ("v_prediction", True)


@pytest.mark.parametrize(
    ("tensors", "kind", "words"),
    [
        ({"lora_unet_down.lora_up.weight": (1,)}, UnsupportedFamily, "x is a LoRA"),
        ({"unet.mid_block.to_q.lora_A.weight": (1,)}, UnsupportedFamily, "x is a LoRA"),
        ({"double_blocks.0.img_attn.norm.key_norm.scale": (1,)}, UnsupportedFamily, "a FLUX model; read here"),
        ({"model.diffusion_model.joint_blocks.0.x": (1,)}, UnsupportedFamily, "an SD3 model"),
        ({"control_model.time_embed.0.weight": (1,)}, UnsupportedFamily, "a ControlNet"),
        ({"down_blocks.0.resnets.0.norm1.weight": (1,)}, UnsupportedFamily, "one part of a model"),
        ({"w": (1,)}, UnsupportedFamily, "not in the layout of Stable Diffusion"),
        ({}, UnsupportedFamily, "not in the layout of Stable Diffusion"),
        ({FIRST: (320, 4, 3, 3), KEY.format(4): (640, 1280)}, UnsupportedFamily, "an SDXL refiner"),
        ({FIRST: (320, 4, 3, 3)}, UnsupportedFamily, "text width 0"),
    ],
)
def test_anything_else_is_named_in_the_refusal(tensors: Any, kind: type[ModelError], words: str) -> None:
    with pytest.raises(kind, match=words):
        detect("x", tensors, {})


@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl"])
def test_a_checkpoint_without_a_part_is_refused(kind: str) -> None:
    for gone, what in ((VAE, "picture decoder"), (TEXTS[kind][-1], "text encoder")):
        with pytest.raises(MissingPart, match=f"has no {what}"):
            detect("x", {name: shape for name, shape in names(kind).items() if name != gone}, {})


#: Parameters of the published models, a fact of each architecture.
COUNTS = {
    ("sd1", "unet"): 859_520_964, ("sd2", "unet"): 865_910_724, ("sdxl", "unet"): 2_567_463_684,
    ("sd1", "vae"): 83_653_863, ("sdxl", "vae"): 83_653_863, ("sd1", "text_encoder"): 123_060_480,
    ("sd2", "text_encoder"): 340_387_840, ("sdxl", "text_encoder_2"): 694_659_840}  # fmt: skip


@pytest.mark.parametrize(("kind", "part"), COUNTS)
def test_the_shipped_configurations_make_the_published_architectures(kind: str, part: str) -> None:
    import diffusers
    import transformers

    config = json.loads((ASSETS / "configs" / kind / part / "config.json").read_text())
    with torch.device("meta"):
        if part.startswith("text"):
            cls = getattr(transformers, config["architectures"][0])
            module = cls(transformers.CLIPTextConfig(**config))
        else:
            module = getattr(diffusers, config["_class_name"]).from_config(config)
    assert sum(weight.numel() for weight in module.parameters()) == COUNTS[kind, part]


def test_the_vocabulary_is_that_of_clip() -> None:
    from transformers import CLIPTokenizer

    folder = configuration(Single("sdxl", 4, "epsilon", False))
    words = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    assert len(words) == 49_408
    ids = words(["a photo of a cat"], padding="max_length", max_length=8).input_ids[0]
    assert ids == [49406, 320, 1125, 539, 320, 2368, 49407, 49407]
    other = CLIPTokenizer.from_pretrained(folder / "tokenizer_2")
    assert other.pad_token_id == 0
    assert words.model_max_length == other.model_max_length == 77


def test_a_vocabulary_counts_bytes_word_ends_merges_and_marks() -> None:
    found = vocabulary("#version: 0.2\na b</w>\n")
    assert len(found) == 2 * 256 + 1 + 2
    assert (found["!"], found["!</w>"], found["ab</w>"], found["<|endoftext|>"]) == (0, 256, 512, 514)


def test_configurations_are_laid_out_once_and_by_content(cache: Path) -> None:
    plain, base = Single("sd2", 4, "v_prediction", False), Single("sd2", 4, "epsilon", True)
    first = configuration(plain)
    stamp = (first / "unet" / "config.json").stat().st_mtime_ns
    assert configuration(plain) == first
    assert (first / "unet" / "config.json").stat().st_mtime_ns == stamp
    second = configuration(base)
    assert second != first
    assert json.loads((second / "unet" / "config.json").read_text())["sample_size"] == 64
    assert json.loads((second / "scheduler" / "scheduler_config.json").read_text())["prediction_type"] == "epsilon"
    assert not list((cache / "configs").glob("*.tmp"))


def test_a_cache_that_cannot_be_written_is_told(cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    with pytest.raises(CheckpointMismatch, match="WORKBENCH_CACHE"):
        configuration(Single("sd1", 4, "epsilon", False))


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A tiny pipeline of the tiny configuration that the loader now finds in its assets."""
    monkeypatch.setattr(single, "ASSETS", small_assets(tmp_path / "assets"))
    return small_pipeline(tmp_path / "assets" / "configs" / "sd1")


def test_a_single_file_draws_what_its_folder_draws(small: Any, tmp_path: Path) -> None:
    save_original(small, tmp_path / "one.safetensors")
    bundle = load("one", models=tmp_path)
    assert (bundle.name, bundle.family, bundle.shapes.image) == ("one", "unet", (3, 128, 128))
    for ours, theirs in (("unet", small.unet), ("vae", small.vae), ("text", small.text_encoder)):
        loaded = bundle.parts[ours].state_dict()
        assert all(torch.equal(loaded[name], weight) for name, weight in theirs.state_dict().items())
    assert load("one", models=tmp_path).digest == bundle.digest
    images = Diffuse(steps=1, guidance=1).sample(bundle, Ask(prompts="the cat", seeds=1, size=(64, 64)), lambda s: None)
    assert images.shape == (1, 3, 64, 64)


def test_a_single_file_that_lacks_a_weight_is_refused_by_its_name(small: Any, tmp_path: Path) -> None:
    path = tmp_path / "one.safetensors"
    save_original(small, path)
    tensors = load_file(path)
    del tensors["model.diffusion_model.middle_block.0.in_layers.0.weight"]
    save_file(tensors, path)
    with pytest.raises(CheckpointMismatch, match=r"one\.safetensors.*mid_block\.resnets\.0\.norm1\.weight"):
        load(str(path))


def test_a_single_file_of_another_width_is_refused(small: Any, tmp_path: Path) -> None:
    path = tmp_path / "one.safetensors"
    save_original(small, path)
    tensors = load_file(path)
    name = "model.diffusion_model.middle_block.0.in_layers.2.weight"
    save_file({**tensors, name: torch.zeros(8, 8, 3, 3)}, path)
    words = r"1 have another shape \(first: unet\.mid_block\.resnets\.0\.conv1\.weight\)"
    with pytest.raises(CheckpointMismatch, match=words) as caught:
        load(str(path))
    assert "\n" not in str(caught.value)
