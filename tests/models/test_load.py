import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.tiny import sd_pipe
from workbench.core.ask import Ask
from workbench.core.errors import AskError, CheckpointMismatch, MissingPart, ModelError, WorkbenchError
from workbench.methods.generate.diffuse import Diffuse
from workbench.models.judge import Judge, JudgeConfig
from workbench.models.load import licence, load, locate
from workbench.models.unet import from_pipeline

ASK = Ask(prompts="the red cat", seeds=3)
QUICK = Diffuse(scheduler="ddim", steps=2, guidance=3.0)


def spoil(path: Path, name: str, change: object) -> None:
    """Write a weight file again with one tensor changed."""
    tensors = load_file(path)
    tensors[name] = change(tensors[name])  # type: ignore[operator]
    save_file(tensors, path, metadata={"format": "pt"})


def fails(folder: Path, kind: type[WorkbenchError], words: str) -> None:
    """Loading fails in one line that holds the words."""
    with pytest.raises(kind, match=words) as caught:
        load(str(folder))
    assert "\n" not in str(caught.value)


def test_a_loaded_folder_draws_what_its_pipeline_draws(shelf: Path) -> None:
    bundle = load(str(shelf / "sd"))
    held = from_pipeline(sd_pipe(), name="held")
    assert torch.equal(QUICK.sample(bundle, ASK, lambda step: None), QUICK.sample(held, ASK, lambda step: None))


@pytest.mark.parametrize("name", ["sd", "xl"])
def test_a_bundle_tells_what_it_is(shelf: Path, name: str) -> None:
    bundle = load(name, models=shelf)
    assert (bundle.name, bundle.family, bundle.source) == (name, "unet", str(shelf / name))
    assert len(bundle.digest) == 64
    assert bundle.about["parts"].keys() == bundle.parts.keys()
    assert bundle.about["parts"]["unet"]["parameters"] == sum(p.numel() for p in bundle.parts["unet"].parameters())
    assert bundle.device.type == "cpu"
    assert bundle.dtype == torch.float32
    assert bundle.world is None


def test_the_digest_follows_the_weights_and_the_configuration_not_the_folder(shelf: Path, folder: Path) -> None:
    first = load(str(shelf / "sd")).digest
    assert load(str(folder)).digest == first
    config = folder / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "prediction_type": "v_prediction"}))
    second = load(str(folder)).digest
    spoil(folder / "unet" / "diffusion_pytorch_model.safetensors", "conv_in.bias", lambda bias: bias + 1)
    assert len({first, second, load(str(folder)).digest}) == 3


def test_opening_another_model_uses_the_same_shelf_and_does_so_once(shelf: Path) -> None:
    bundle = load("sd", models=shelf)
    other = bundle.open("xl")
    assert other.name == "xl"
    assert bundle.open("xl") is other


def test_half_precision_is_taken_where_asked(shelf: Path) -> None:
    bundle = load(str(shelf / "sd"), dtype="bfloat16")
    assert bundle.dtype == torch.bfloat16
    assert QUICK.sample(bundle, ASK, lambda step: None).shape == (1, 3, 16, 16)


def test_fp16_files_are_read_as_float32_on_a_cpu(shelf: Path, tmp_path: Path) -> None:
    sd_pipe().to(dtype=torch.float16).save_pretrained(tmp_path / "narrow", variant="fp16")
    assert list((tmp_path / "narrow").rglob("*.fp16.safetensors"))
    bundle = load(str(tmp_path / "narrow"))
    assert {p.dtype for part in bundle.parts.values() for p in part.parameters()} == {torch.float32}


@pytest.mark.parametrize(("where", "what"), [({"device": "cuda:77"}, "cuda:77"), ({"dtype": "int4"}, "int4")])
def test_a_device_or_dtype_that_is_not_there_is_told(shelf: Path, where: dict[str, str], what: str) -> None:
    with pytest.raises(AskError, match=what):
        load(str(shelf / "sd"), **where)


def test_nan_weights_are_refused(folder: Path) -> None:
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    spoil(path, "decoder.conv_in.bias", lambda bias: bias * float("nan"))
    fails(folder, CheckpointMismatch, r"decoder\.conv_in\.bias holds 16 values that are not finite")


def test_a_truncated_file_is_refused(folder: Path) -> None:
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    fails(folder, CheckpointMismatch, "not a whole safetensors file")


def test_weights_of_another_architecture_are_refused(folder: Path, shelf: Path) -> None:
    name = "unet/diffusion_pytorch_model.safetensors"
    shutil.copy(shelf / "xl" / name, folder / name)
    fails(folder, CheckpointMismatch, "unet")


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_missing_weight_is_named_and_never_made_up(folder: Path, part: str) -> None:
    path = next((folder / part).glob("*.safetensors"))
    tensors = load_file(path)
    gone = sorted(tensors)[3]
    del tensors[gone]
    save_file(tensors, path, metadata={"format": "pt"})
    fails(folder, CheckpointMismatch, f"{part}: the weights do not fit.*1 are not there")


def test_a_weight_too_many_is_told(folder: Path) -> None:
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({**load_file(path), "surprise.weight": torch.zeros(1)}, path, metadata={"format": "pt"})
    fails(folder, CheckpointMismatch, r"have no place in it \(first: surprise.weight\)")


def test_a_weight_of_another_shape_is_told(folder: Path) -> None:
    path = folder / "text_encoder" / "model.safetensors"
    spoil(path, next(k for k in load_file(path) if k.endswith("final_layer_norm.bias")), lambda bias: bias[:-1].clone())
    fails(folder, CheckpointMismatch, "text_encoder")


def test_a_configuration_of_nonsense_is_one_line(folder: Path) -> None:
    path = folder / "unet" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "down_block_types": ["NoSuchBlock"]}))
    fails(folder, CheckpointMismatch, "unet cannot be read")


def test_a_tokenizer_that_is_not_there_is_one_line(folder: Path) -> None:
    for path in (folder / "tokenizer").iterdir():
        path.unlink()
    fails(folder, ModelError, "tokenizer")


def test_a_hub_id_offline_names_the_cache(tmp_path: Path) -> None:
    with pytest.raises(MissingPart, match=r"'nobody/nothing' is no file.*not in the hub's cache \(.*hub\)") as caught:
        load("nobody/nothing")
    assert "\n" not in str(caught.value)


def test_a_hub_model_in_the_cache_loads_offline(shelf: Path, tmp_path: Path) -> None:
    repo = tmp_path / "hub" / "models--owner--tiny"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("0" * 40)
    shutil.copytree(shelf / "sd", repo / "snapshots" / ("0" * 40))
    bundle = load("owner/tiny")
    assert (bundle.name, bundle.family) == ("owner/tiny", "unet")
    assert locate("owner/tiny").path.is_relative_to(repo)


def test_the_licence_comes_from_the_card(tmp_path: Path) -> None:
    assert licence(tmp_path) == ""
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\ntags: [x]\n---\n# A model\nlicense: other\n")
    assert licence(tmp_path) == "apache-2.0"


def test_a_folder_of_the_emoji_family_brings_its_world(folder: Path) -> None:
    bundle = load(str(folder.rename(folder.with_name("emoji-copy"))))
    assert len(bundle.world.objects) == 738
    assert set(bundle.about) >= {"objects", "styles", "backgrounds", "templates"}
    assert "emojione" not in bundle.about["styles"]


def test_importing_the_loader_imports_no_model_library() -> None:
    script = "import sys, workbench.models.load; print([m for m in ('diffusers', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@torch.no_grad()
def test_a_judge_becomes_a_bundle_that_answers_objects_then_styles(tmp_path: Path) -> None:
    made = Judge(JudgeConfig(("cat", "dog", "car"), ("flat", "ink"), width=64))
    made.save(tmp_path / "emoji-critic")
    bundle = load("emoji-critic", models=tmp_path)
    assert (bundle.family, bundle.about["objects"], bundle.about["styles"]) == (
        "judge",
        ["cat", "dog", "car"],
        ["flat", "ink"],
    )
    pixels = torch.rand(2, 3, 128, 128) * 2 - 1
    seen = Judge.load(tmp_path / "emoji-critic")(pixels)
    assert torch.equal(bundle.encode(pixels), torch.cat([seen.objects, seen.styles], 1))
    with pytest.raises(MissingPart, match="draws none"):
        bundle.read(["a cat"])


def test_a_judge_whose_weights_do_not_fit_is_one_line(tmp_path: Path) -> None:
    Judge(JudgeConfig(("cat",), ("flat",), width=64)).save(tmp_path / "critic")
    config = tmp_path / "critic" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "objects": ["cat", "dog"]}))
    fails(tmp_path / "critic", CheckpointMismatch, "critic cannot be read")
