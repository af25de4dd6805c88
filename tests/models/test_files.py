import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from workbench.core.errors import CheckpointMismatch, MissingPart, ModelError, UnsupportedFamily
from workbench.models import files
from workbench.models.files import find, inspect, list_models, weight_files


def index_of(folder: Path, **changes: Any) -> None:
    path = folder / "model_index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def refused(path: Path, kind: type[ModelError], words: str) -> None:
    """Inspecting fails in one line that holds the words."""
    with pytest.raises(kind, match=words) as caught:
        inspect(path)
    assert "\n" not in str(caught.value)


def test_a_folder_is_found_by_path_and_by_name(shelf: Path) -> None:
    by_path, by_name = find(str(shelf / "xl")), find("xl", shelf)
    assert by_path is not None
    assert by_name is not None
    assert by_path.path == by_name.path == shelf / "xl"
    assert (by_path.layout, by_path.cls, by_path.family) == ("pipeline", "StableDiffusionXLPipeline", "unet")


def test_a_file_is_found_by_its_name_without_the_ending(tmp_path: Path) -> None:
    save_file({"lora_unet_x.lora_down.weight": torch.zeros(1)}, tmp_path / "painter.safetensors")
    with pytest.raises(UnsupportedFamily, match=r"painter\.safetensors is a LoRA"):
        find("painter", tmp_path)


def test_an_unknown_name_lists_the_known_ones(shelf: Path) -> None:
    with pytest.raises(MissingPart, match=r"There is no model 'xll'.*sd, xl"):
        find("xll", shelf)


def test_owner_and_name_may_be_a_hub_id_and_a_missing_file_is_not() -> None:
    assert find("owner/name") is None
    for missing in ("owner/name.safetensors", "/no/such/folder", "a/b/c", "../up/there"):
        with pytest.raises(MissingPart, match="There is no model"):
            find(missing)


def test_the_default_that_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "ASSETS", tmp_path)
    with pytest.raises(MissingPart, match="The default model is not in"):
        find("")


def test_a_models_folder_that_does_not_exist_is_told(tmp_path: Path) -> None:
    with pytest.raises(MissingPart, match=r"does not exist\. Make it"):
        find("sd", tmp_path / "nowhere")


@pytest.mark.parametrize("ending", [".ckpt", ".pt", ".pth", ".bin", ".PT"])
def test_a_pickle_is_refused_with_the_way_out(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"model{ending}"
    path.write_bytes(b"\x80\x04")
    refused(path, MissingPart, "workbench convert model")


def test_a_folder_with_python_code_is_refused(folder: Path) -> None:
    (folder / "unet" / "my_unet.py").write_text("print('hello')")
    refused(folder, UnsupportedFamily, r"holds Python code \(unet/my_unet.py\), which is never run")


def test_a_folder_with_pickled_parts_is_refused(folder: Path) -> None:
    (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(folder / "unet" / "diffusion_pytorch_model.bin")
    refused(folder, MissingPart, "workbench convert diffusion_pytorch_model.bin")


def test_a_folder_without_an_index_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, MissingPart, "has no model_index.json")


def test_another_pipeline_is_refused_by_name(folder: Path) -> None:
    index_of(folder, _class_name="KandinskyPipeline")
    refused(folder, UnsupportedFamily, "is a 'KandinskyPipeline'; read here: StableDiffusionPipeline")


@pytest.mark.parametrize("value", ["os.system", "diffusers.FluxTransformer2DModel", "my_code.UNet2DConditionModel"])
def test_a_part_of_an_unknown_class_is_refused(folder: Path, value: str) -> None:
    index_of(folder, unet=value.split("."))
    refused(folder, UnsupportedFamily, "it has to be UNet2DConditionModel")


def test_a_scheduler_that_is_none_is_refused(folder: Path) -> None:
    index_of(folder, scheduler=["diffusers", "DiffusionPipeline"])
    refused(folder, UnsupportedFamily, "a scheduler of diffusers")


def test_a_missing_part_is_named(folder: Path) -> None:
    index_of(folder, vae=[None, None])
    refused(folder, MissingPart, "lacks vae")


def test_an_index_that_is_cut_short_is_refused(folder: Path) -> None:
    path = folder / "model_index.json"
    path.write_bytes(path.read_bytes()[:20])
    refused(folder, CheckpointMismatch, "not readable JSON")


def test_one_part_alone_points_to_the_folder_above(folder: Path) -> None:
    refused(folder / "unet", UnsupportedFamily, "UNet2DConditionModel.*give the folder above it")


def test_a_language_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    refused(tmp_path, UnsupportedFamily, "is a LlamaForCausalLM; read here")


def test_a_picture_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "cat.png").touch()
    refused(tmp_path / "cat.png", UnsupportedFamily, "is no model")


def test_every_model_of_a_folder_is_listed_and_the_unusable_with_their_reason(shelf: Path, tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "old.ckpt").touch()
    (tmp_path / "notes.txt").touch()
    (tmp_path / "mine").symlink_to(shelf / "sd")
    listed = {entry.name: entry for entry in list_models(tmp_path) if entry.path.is_relative_to(tmp_path)}
    assert set(listed) == {"mine", "deep/er/old.ckpt"}
    assert listed["mine"].family == "unet"
    assert listed["mine"].bytes > 100_000
    assert not listed["mine"].problem
    assert "workbench convert" in listed["deep/er/old.ckpt"].problem


def test_a_listed_name_loads(shelf: Path) -> None:
    for entry in list_models(shelf):
        if not entry.problem:
            assert find(entry.name, shelf) is not None


def test_the_weight_files_leave_logs_and_licences_out(folder: Path) -> None:
    before = weight_files(folder)
    for name in ("training.json", "README.md", "LICENSE", "unet/notes.txt"):
        (folder / name).write_text("{}")
    assert weight_files(folder) == before
    names = {name for name, _ in before}
    assert {"model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors"} <= names
    assert {"tokenizer/tokenizer.json", "scheduler/scheduler_config.json", "text_encoder/model.safetensors"} <= names
