"""Adapter files: written and read to the same bits, and hostile ones refused in one line."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from tests.loras import saved
from tests.tiny import sd_pipe, tiny_sd, tiny_sdxl
from workbench.blocks import adapter_files
from workbench.blocks.adapter_files import CONFIG, PEFT, TRAINING, locate, read, shipped, write
from workbench.blocks.adapters import random_adapter, read_adapter
from workbench.core.bundle import Bundle
from workbench.core.errors import AskError, CheckpointMismatch, MissingPart
from workbench.ops.low_rank import LowRank


def some(bundle: Bundle) -> tuple[LowRank, dict[str, tuple[int, ...]]]:
    """Factors of attention, a convolution and the text encoders, and the shapes of what they change."""
    keys = list(random_adapter(bundle, "random:1").low_rank)[:6]
    keys.append("unet:down_blocks.0.resnets.0.conv1.weight")
    for part in bundle.parts:
        if part.startswith("text"):
            keys.append(next(f"{part}:{name}" for name, _ in bundle.parts[part].named_parameters()
                             if name.endswith("q_proj.weight")))  # fmt: skip
    shapes = {key: tuple(dict(bundle.parts[key.partition(":")[0]].named_parameters())[key.partition(":")[2]].shape)
              for key in keys}  # fmt: skip
    draw = torch.Generator().manual_seed(0)
    factors = {key: (torch.randn(shape[0], 2 + i % 2, generator=draw),
                     torch.randn(2 + i % 2, torch.Size(shape[1:]).numel(), generator=draw))
               for i, (key, shape) in enumerate(shapes.items())}  # fmt: skip
    return LowRank(factors), shapes


@pytest.mark.parametrize("form", ["peft", "kohya"])
@pytest.mark.parametrize("make", [tiny_sd, tiny_sdxl], ids=["sd", "sdxl"])
def test_what_is_written_is_read_to_the_same_bits(form: str, make: object, tmp_path: Path) -> None:
    bundle = make()  # type: ignore[operator]
    low, shapes = some(bundle)
    place = tmp_path / "made" if form == "peft" else tmp_path / "made.safetensors"
    write(low, place, form, shapes=shapes)  # type: ignore[arg-type]
    back = read_adapter(bundle, place)
    assert back.report.found == 1.0
    assert set(back.low_rank) == set(low)
    for key in low:
        assert all(torch.equal(a, b) for a, b in zip(back.low_rank.factors[key], low.factors[key], strict=True))


def test_towers_with_modules_of_one_name_keep_their_own_ranks(tmp_path: Path) -> None:
    name = "encoder.layers.0.self_attn.q_proj.weight"
    keys = {f"text:{name}": 2, f"text2:text_model.{name}": 3}
    low = LowRank({key: (torch.ones(32, rank), torch.ones(rank, 32)) for key, rank in keys.items()})
    write(low, tmp_path / "made")
    raw = read(tmp_path / "made")
    stems = {stem.removesuffix(".lora_A.weight") for stem in raw.tensors if stem.endswith(".lora_A.weight")}
    assert len(stems) == 2
    for stem in stems:
        rank = len(raw.tensors[f"{stem}.lora_A.weight"])
        assert raw.scale(stem.removeprefix("base_model.model."), rank, None) == 1.0


def test_settings_beyond_all_measure_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(random_adapter(tiny_sd(), "random:1").low_rank, tmp_path / "made")
    monkeypatch.setattr(adapter_files, "MOST_NOTES", 10)
    with pytest.raises(CheckpointMismatch, match="settings of at most 16 are read"):
        read(tmp_path / "made")


def test_peft_itself_reads_what_is_written(tmp_path: Path) -> None:
    low, shapes = some(tiny_sd())
    low = low.kept(frozenset(key for key in low if key.startswith("unet:")))
    write(low, tmp_path / "made", shapes=shapes)
    unet = sd_pipe().unet
    model = PeftModel.from_pretrained(unet, tmp_path / "made")
    layers = {name: module for name, module in model.named_modules() if hasattr(module, "get_delta_weight")}
    assert len(layers) == len(low)
    for key in low:
        layer = layers[f"base_model.model.{key.partition(':')[2].removesuffix('.weight')}"]
        change = layer.get_delta_weight("default").flatten(1)
        assert torch.allclose(change, low.dense(key), atol=1e-5)


def test_diffusers_reads_the_file_for_kohyas_programs(tmp_path: Path) -> None:
    low, shapes = some(tiny_sd())
    low = LowRank({key: (up[:, :2], down[:2]) for key, (up, down) in low.factors.items()  # it warns of unequal ranks
                   if key.startswith("unet:")})  # fmt: skip
    write(low, tmp_path / "made.safetensors", "kohya", shapes=shapes)
    pipe = sd_pipe()
    pipe.load_lora_weights(tmp_path / "made.safetensors", adapter_name="made")
    layers = {name: module for name, module in pipe.unet.named_modules() if "made" in getattr(module, "lora_A", {})}
    for key in low:
        if key.startswith("unet:"):
            layer = layers[key.partition(":")[2].removesuffix(".weight")]
            assert torch.allclose(layer.get_delta_weight("made").flatten(1), low.dense(key), atol=1e-5)
    assert len(layers) == sum(key.startswith("unet:") for key in low)


def test_notes_of_the_training_and_the_base_are_kept(tmp_path: Path) -> None:
    low, shapes = some(tiny_sd())
    write(low, tmp_path / "made", shapes=shapes, base="abc", training={"trigger": "sks"}, dtype=torch.float16)
    adapter = read_adapter(tiny_sd(), tmp_path / "made")
    assert adapter.trigger == "sks"
    assert "other weights" in adapter.report.notes[0]
    assert json.loads((tmp_path / "made" / TRAINING).read_text())["base"] == "abc"
    assert {value.dtype for value in load_file(tmp_path / "made" / PEFT).values()} == {torch.float16}


def test_scales_of_pefts_settings() -> None:
    raw = adapter_files.Raw("x", {}, {"lora_alpha": 8, "r": 4, "alpha_pattern": {"to_q": 2}, "rank_pattern": {}})
    assert raw.scale("a.to_k", 4, None) == 2.0
    assert raw.scale("a.to_q", 4, None) == 0.5
    assert raw.scale("a.to_q", 4, torch.tensor(12.0)) == 3.0
    stable = adapter_files.Raw("x", {}, {"lora_alpha": 8, "use_rslora": True})
    assert stable.scale("a", 16, None) == 2.0
    assert adapter_files.Raw("x", {}).scale("a", 4, None) == 1.0
    evil = adapter_files.Raw("x", {}, {"lora_alpha": 8, "r": 4, "alpha_pattern": {"(a+)+$": 99}})
    assert evil.scale("a" * 64, 4, None) == 2.0  # read as the end of a name, never as an expression


def test_settings_in_a_files_metadata_count(tmp_path: Path) -> None:
    said = json.dumps({"unet.lora_alpha": 6, "unet.r": 2, "text_encoder.lora_alpha": 1})
    path = saved({"x.lora_A.weight": torch.ones(2, 3)}, tmp_path / "m.safetensors", lora_adapter_metadata=said)
    assert read(path).scale("x", 2, None) == 3.0


@pytest.mark.parametrize(("value", "line"), [(float("nan"), "1 values that are not finite"),
                                             (float("inf"), "not finite")])  # fmt: skip
def test_values_that_are_not_finite_are_refused(value: float, line: str, tmp_path: Path) -> None:
    tensor = torch.ones(3, 3)
    tensor[1, 1] = value
    with pytest.raises(CheckpointMismatch, match=line):
        read(saved({"x.lora_A.weight": tensor}, tmp_path / "bad.safetensors"))


def test_damaged_empty_and_foreign_files_are_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{")
    (tmp_path / "empty.safetensors").write_bytes(b"")
    (tmp_path / "old.bin").write_bytes(b"x")
    (tmp_path / "folder").mkdir()
    saved({}, tmp_path / "none.safetensors")
    cases = {"cut.safetensors": "cut short", "empty.safetensors": "cut short", "old.bin": "can run code",
             "folder": "holds no .safetensors", "none.safetensors": "no tensor", "gone": "no such file"}  # fmt: skip
    for name, word in cases.items():
        with pytest.raises((CheckpointMismatch, MissingPart), match=word) as refused:
            read(tmp_path / name)
        assert "\n" not in str(refused.value)
    with pytest.raises(AskError, match="without a name"):
        read(" ")
    with pytest.raises(AskError, match="cannot be looked at as a file"):
        read("x" * 5000)


def test_too_many_tensors_are_refused_from_the_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter_files, "MOST_TENSORS", 2)
    path = saved({f"x{i}.diff": torch.ones(1) for i in range(3)}, tmp_path / "many.safetensors")
    with pytest.raises(CheckpointMismatch, match="3 tensors"):
        read(path)
    monkeypatch.setattr(adapter_files, "MOST_BYTES", 10)
    with pytest.raises(CheckpointMismatch, match="at most 4"):
        read(path)


def test_an_adapter_of_two_files_is_one(tmp_path: Path) -> None:
    saved({"a.diff": torch.ones(1)}, tmp_path / "one.safetensors")
    saved({"b.diff": torch.ones(1)}, tmp_path / "two.safetensors")
    raw = read(tmp_path)
    assert (set(raw.tensors), raw.name) == ({"a.diff", "b.diff"}, tmp_path.name)


def test_nothing_to_write_and_parts_without_a_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AskError, match="nothing to write"):
        write(LowRank(), tmp_path / "x")
    with pytest.raises(AskError, match="not of vae"):
        write(LowRank({"vae:a.weight": (torch.ones(1, 1), torch.ones(1, 1))}), tmp_path / "x")


def test_shipped_adapters_go_by_their_names() -> None:
    for name in shipped():
        folder = locate(name)[0].parent
        assert {path.name for path in folder.iterdir()} == {PEFT, CONFIG, TRAINING}
