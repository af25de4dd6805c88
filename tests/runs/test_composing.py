"""Adapters to choose from, files kept under plain names, and what an edit changes as a LoRA file."""

from pathlib import Path

import pytest
import torch

from tests.tiny import tiny_sd
from workbench.core.catalog import method
from workbench.core.errors import AskError, CheckpointMismatch, MissingPart, Stopped
from workbench.core.method import Edit
from workbench.core.tape import Step, ignore
from workbench.runs.composing import SAMPLES, Watched, about, adapters, blocks, kept_as, learned, merged


def _edit(name: str, **settings: object) -> Edit:
    made = method(name, **settings)
    assert isinstance(made, Edit)
    return made


def test_shipped_adapters_have_names() -> None:
    assert list(adapters()) == sorted(set(adapters()))


def test_a_file_is_kept_under_a_plain_name_and_never_over_another(tmp_path: Path) -> None:
    source = tmp_path / "x.safetensors"
    source.write_bytes(b"one")
    first = kept_as(source, tmp_path / "kept", "../a b<c>")
    second = kept_as(source, tmp_path / "kept", "../a b<c>")
    assert {first.parent, second.parent} == {tmp_path / "kept"}
    assert first.name == "a-b-c.safetensors"
    assert second.name == "a-b-c-2.safetensors"
    assert kept_as(source, tmp_path / "kept", "///").name == "adapter.safetensors"


def test_a_merge_is_one_file_and_what_acts_while_drawing_is_refused(tmp_path: Path) -> None:
    merge = _edit("merge", adapters=["random:1", "random:2"])
    assert merged(tiny_sd(), merge, tmp_path / "out").suffix == ".safetensors"
    with pytest.raises(AskError, match="acts while drawing"):
        merged(tiny_sd(), _edit("lora-switch", adapters=["random:1"]), tmp_path / "no")


def test_a_file_says_what_it_is_before_a_model_is_there(tmp_path: Path) -> None:
    told = about("pick")
    assert told.line.startswith("draws pick, ")
    assert told.trigger == "zwx"
    assert {"unet:mid_block", "unet:down_blocks.0"} < set(told.places)
    assert about("random:3").places == ()
    (tmp_path / "x.safetensors").write_bytes(b"no")
    with pytest.raises(CheckpointMismatch, match="not a whole safetensors file"):
        about(str(tmp_path / "x.safetensors"))
    with pytest.raises(MissingPart, match="There is no adapter 'nobody'"):
        about("nobody")


def test_blocks_are_found_in_the_names_of_every_program_and_in_the_networks_order() -> None:
    peft = ["base_model.model.up_blocks.1.attentions.0.to_q", "base_model.model.mid_block.attentions.0.to_q",
            "base_model.model.down_blocks.10.resnets.0.conv1", "base_model.model.down_blocks.2.resnets.0.conv1",
            "base_model.model.text_encoder.text_model.encoder.layers.0.q_proj"]  # fmt: skip
    kohya = ["lora_unet_up_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q", "lora_te2_text_model_encoder_x",
             "lora_te1_text_model_encoder_layers_0_mlp_fc1", "lora_unet_mid_block_attentions_0_proj_in"]  # fmt: skip
    assert blocks(peft) == ("text", "unet:down_blocks.2", "unet:down_blocks.10", "unet:mid_block", "unet:up_blocks.1")
    assert blocks(kohya) == ("text", "text2", "unet:mid_block", "unet:up_blocks.1")
    assert blocks(["transformer.transformer_blocks.3.attn1.to_q"]) == ("transformer:transformer_blocks.3",)
    assert blocks([f"transformer_blocks.{at}.ff" for at in range(40)]) == ()  # too many for a table


def test_a_fit_is_watched_without_changing_what_it_learns(tmp_path: Path) -> None:
    edit = _edit("fit-lora", pictures=["fox"], count=2, rank=2, iterations=7, batch=2, rate=0.05, regions=1.0)
    watched = Watched(tiny_sd(), "a sks", samples=3)
    assert learned(tiny_sd(), edit, tmp_path / "fit", watched).is_file()
    assert len(watched.losses) == 7
    assert [at for at, _ in watched.pictures] == [3, 5, 7]
    first, *_, last = (picture for _, picture in watched.pictures)
    assert first.shape == last.shape == (16, 16, 3)
    assert not (first == last).all()
    assert watched.curve(4) == pytest.approx(
        [sum(part) / len(part) for part in (watched.losses[start : start + 2] for start in range(0, 7, 2))]
    )
    plain = edit.fit(tiny_sd(), ignore).tensors
    seen = edit.fit(tiny_sd(), Watched(tiny_sd(), "a sks", samples=7)).tensors
    assert all(torch.equal(plain[key], seen[key]) for key in plain)


def test_a_watched_fit_is_stopped_at_its_next_step() -> None:
    def stop(step: Step) -> None:
        if step.index == 1:
            raise Stopped

    watched = Watched(tiny_sd(), "a sks", stop, samples=SAMPLES)
    edit = _edit("fit-lora", pictures=["fox"], count=2, rank=2, iterations=50, batch=2)
    with pytest.raises(Stopped):
        edit.fit(tiny_sd(), watched)
    assert len(watched.losses) == 1


def test_a_fit_is_shown_step_by_step(tmp_path: Path) -> None:
    seen: list[int] = []
    edit = _edit("fit-lora", pictures=["fox"], count=2, rank=2, iterations=2, batch=2)
    assert learned(tiny_sd(), edit, tmp_path / "fit", lambda step: seen.append(step.index)).is_file()
    assert seen
