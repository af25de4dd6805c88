"""Export: the folder draws what the edited model drew, base + deltas is the checkpoint, a LoRA comes close."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline

from tests.folders import tiny_folder
from tests.toys import Fade, ReadTwice
from workbench import cli
from workbench.core.ask import Ask
from workbench.core.catalog import method
from workbench.core.delta import Delta
from workbench.core.errors import AskError
from workbench.core.patch import Patch, differences, fingerprint
from workbench.core.scene import using
from workbench.core.tape import ignore
from workbench.models.load import load
from workbench.models.reference import reference
from workbench.runs.export import apply_deltas, export_model, parameters, refuse_live

ASK = Ask(prompts=["a cat", "the dog"], seeds=[3, 4])


@pytest.fixture
def bundle():
    found = load(tiny_folder(), device="cpu", dtype="float32")
    found.read([""])
    return found


def edits():
    return [method("uce", concepts=["cat"], preserve=["dog"], strength=0.7), Fade(strength=0.5)]


def drawn(bundle, *chosen) -> torch.Tensor:
    with using(bundle, *chosen) as edited:
        return method("diffuse", steps=3).sample(edited, ASK, ignore)


def test_the_exported_folder_draws_the_same_pictures_here_and_in_plain_diffusers(bundle, tmp_path: Path) -> None:
    live = drawn(bundle, *edits())
    done = export_model(bundle, edits(), tmp_path / "out")
    assert done.changed == 2 * len(bundle.sites("cross-attention"))
    again = load(str(tmp_path / "out"), device="cpu", dtype="float32")
    assert torch.equal(drawn(again), live)
    assert not torch.equal(drawn(bundle), live)
    plain = reference(again, steps=3)(ASK)
    assert int((plain.int() - live.int()).abs().max()) <= 1
    assert StableDiffusionPipeline.from_pretrained(tmp_path / "out").unet is not None


def test_base_and_saved_deltas_are_the_exported_checkpoint(bundle, tmp_path: Path) -> None:
    export_model(bundle, edits(), tmp_path / "model")
    done = export_model(bundle, edits(), tmp_path / "deltas", "delta")
    assert sorted(path.name for path in (tmp_path / "deltas").glob("*.safetensors")) == [
        "1-uce.safetensors", "2-toy-fade.safetensors"]  # fmt: skip
    assert done.changed == 2 * len(bundle.sites("cross-attention"))
    exported = parameters(load(str(tmp_path / "model"), device="cpu", dtype="float32"))
    with Patch(bundle) as patch:
        apply_deltas(bundle, tmp_path / "deltas", patch)
        for key, value in parameters(bundle).items():
            assert torch.equal(value, exported[key]), key
    delta = Delta.load(tmp_path / "deltas" / "1-uce.safetensors")
    assert delta.text["strength"] == "0.7"
    assert json.loads(delta.text["edit"])["concepts"] == ["cat"]


def test_no_edit_writes_the_model_as_it_was_read(bundle, tmp_path: Path) -> None:
    export_model(bundle, [], tmp_path / "same")
    assert load(str(tmp_path / "same")).digest == bundle.digest
    with pytest.raises(AskError, match="lora holds what edits change, and there is none"):
        export_model(bundle, [], tmp_path / "l", "lora")


def test_a_lora_comes_as_close_as_it_says_in_plain_diffusers(bundle, tmp_path: Path) -> None:
    done = export_model(bundle, edits()[:1], tmp_path / "lora", "lora")
    assert done.lost <= 0.0101
    pipe = StableDiffusionPipeline.from_pretrained(tiny_folder())
    pipe.load_lora_weights(tmp_path / "lora")
    pipe.fuse_lora()
    lost = whole = 0.0
    with using(bundle, *edits()[:1]):
        for site in bundle.sites("cross-attention"):
            for handle, name in ((site.key, "to_k"), (site.value, "to_v")):
                layer = pipe.unet.get_submodule(f"{site.path}.{name}")
                base = parameters(load(tiny_folder(), device="cpu", dtype="float32"))[handle.key]
                fused = getattr(layer, "base_layer", layer).weight
                lost += float((fused - handle.weight).square().sum())
                whole += float((handle.weight - base).square().sum())
    assert (lost / whole) ** 0.5 == pytest.approx(done.lost, abs=2e-3)


def test_the_model_is_as_it_was_and_nothing_is_left_when_writing_fails(
    bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = fingerprint(bundle)

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("workbench.runs.export.write_folder", full)
    with pytest.raises(OSError, match="No space"):
        export_model(bundle, edits(), tmp_path / "out")
    assert not list(tmp_path.iterdir())
    assert not differences(before, fingerprint(bundle))


def test_edits_that_act_while_drawing_are_refused_by_name(bundle, tmp_path: Path) -> None:
    with pytest.raises(AskError, match="toy-read, freeu acts while drawing"):
        refuse_live([*edits(), ReadTwice(), method("freeu")])
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").write_text("")
    with pytest.raises(AskError, match="is there already and not empty"):
        export_model(bundle, edits(), tmp_path / "used")


def test_the_command_writes_a_model_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["export", "--model", tiny_folder(), "--with", "uce concepts=cat preserve=dog", "--device", "cpu"]
    capsys.readouterr()
    assert cli.main([*words, "--out", "made", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["changed"] == 14
    assert Path("made/model_index.json").is_file()
    assert json.loads(Path("made/workbench.json").read_text())["edits"][0]["method"] == "uce"
    assert cli.main([*words, "--out", "made"]) == 2
    assert "not empty" in capsys.readouterr().err
    assert cli.main([*words, "--out", "narrow", "--format", "lora"]) == 0
    assert "of the change lost" in capsys.readouterr().out
