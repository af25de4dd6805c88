"""What is written: an unchanged model bit for bit, changed parts whole, single files as folders, LoRA files."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.tiny import sd_pipe, tiny_sd
from workbench.core.errors import AskError, CheckpointMismatch, UnsupportedFamily
from workbench.models.export import LORA, refuse_used, write_folder, write_lora
from workbench.models.load import load

KEY = "unet:mid_block.attentions.0.transformer_blocks.0.attn2.to_v.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    sd_pipe().save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


def test_saving_an_untouched_model_again_changes_nothing(folder: Path, tmp_path: Path) -> None:
    bundle = load(str(folder))
    write_folder(bundle, {}, tmp_path / "out")
    assert load(str(tmp_path / "out")).digest == bundle.digest
    for path in folder.rglob("*.safetensors"):
        assert (tmp_path / "out" / path.relative_to(folder)).read_bytes() == path.read_bytes()


def test_a_changed_matrix_is_written_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    bundle = load(str(folder), dtype="float32")
    name = KEY.partition(":")[2]
    new = torch.randn(bundle.parts["unet"].get_parameter(name).shape, generator=torch.Generator().manual_seed(0))
    write_folder(bundle, {KEY: new}, tmp_path / "out")
    before, after = (load_file(f / "unet/diffusion_pytorch_model.safetensors") for f in (folder, tmp_path / "out"))
    assert torch.equal(after[name], new)
    assert all(torch.equal(before[other], after[other]) for other in before if other != name)
    assert list(before) == list(after)
    assert load(str(tmp_path / "out")).digest != bundle.digest


def test_a_text_encoders_matrix_finds_its_name_in_the_file(folder: Path, tmp_path: Path) -> None:
    bundle = load(str(folder), dtype="float32")
    name, value = next((n, p) for n, p in bundle.parts["text"].named_parameters() if n.endswith("q_proj.weight"))
    write_folder(bundle, {f"text:{name}": value + 1}, tmp_path / "out")
    again = load(str(tmp_path / "out"), dtype="float32").parts["text"].get_parameter(name)
    assert torch.equal(again, value + 1)


def test_half_precision_files_become_plain_ones_in_the_dtype_that_ran(folder: Path, tmp_path: Path) -> None:
    for room, stem in (
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
    ):
        path = folder / room / f"{stem}.safetensors"
        half = {k: v.half() if v.is_floating_point() else v for k, v in load_file(path).items()}
        save_file(half, path.with_name(f"{stem}.fp16.safetensors"), metadata={"format": "pt"})
        path.unlink()
    bundle = load(str(folder), dtype="float32")
    new = bundle.parts["unet"].get_parameter(KEY.partition(":")[2]) + 1e-5
    write_folder(bundle, {KEY: new}, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*fp16*"))
    again = load(str(tmp_path / "out"), dtype="float32")
    assert torch.equal(again.parts["unet"].get_parameter(KEY.partition(":")[2]), new)
    assert (
        load_file(tmp_path / "out/vae/diffusion_pytorch_model.safetensors")["encoder.conv_in.weight"].dtype
        == torch.half
    )


def test_a_safety_checker_that_is_not_there_is_left_out_of_the_index(folder: Path, tmp_path: Path) -> None:
    import json

    index = json.loads((folder / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    (folder / "model_index.json").write_text(json.dumps(index))
    write_folder(load(str(folder)), {}, tmp_path / "out")
    assert json.loads((tmp_path / "out/model_index.json").read_text())["safety_checker"] == [None, None]
    load(str(tmp_path / "out"))


def test_what_cannot_be_written_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedFamily, match="tiny-sd was not read from the files"):
        write_folder(tiny_sd(), {}, tmp_path / "out")
    bundle = load(str(folder), dtype="float32")
    with pytest.raises(UnsupportedFamily, match="'clock', which is no part"):
        write_folder(bundle, {"clock:a": torch.zeros(1)}, tmp_path / "out")
    with pytest.raises(CheckpointMismatch, match="holds no nothing of 1 values"):
        write_folder(bundle, {"unet:nothing": torch.zeros(1)}, tmp_path / "out2")
    with pytest.raises(AskError, match="is there already and not empty"):
        refuse_used(folder)
    refuse_used(tmp_path / "new")


def test_a_lora_file_names_its_layers_as_loaders_want_them(tmp_path: Path) -> None:
    path = write_lora({"unet:a.to_k.weight": (torch.ones(3, 1), torch.ones(1, 2))}, tmp_path / "l", {"lost": "0"})
    assert path.name == LORA
    assert {k: tuple(v.shape) for k, v in load_file(path).items()} == {
        "unet.a.to_k.lora_A.weight": (1, 2), "unet.a.to_k.lora_B.weight": (3, 1)}  # fmt: skip
    with pytest.raises(UnsupportedFamily, match="not of vae"):
        write_lora({"vae:a.weight": (torch.ones(3, 1), torch.ones(1, 2))}, tmp_path / "m", {})
