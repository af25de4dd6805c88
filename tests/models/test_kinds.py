"""Folders of every kind: what they are, what they need, and what is said when it is not there."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.models.parity import PROMPTS
from workbench.core.bundle import Condition
from workbench.core.errors import MissingPart, UnsupportedFamily
from workbench.models import kinds
from workbench.models.files import find, pipeline_parts, weight_files
from workbench.models.load import load


@pytest.mark.parametrize(
    ("name", "family", "cls"),
    [("sd3", "mmdit", "StableDiffusion3Pipeline"), ("pixart", "dit", "PixArtSigmaPipeline"),
     ("flux", "mmdit", "FluxPipeline")],
)  # fmt: skip
def test_a_folder_is_known_by_its_index(patches: Path, name: str, family: str, cls: str) -> None:
    found = find(name, patches)
    assert found is not None
    assert (found.family, found.cls, found.layout) == (family, cls, "pipeline")
    bundle = load(name, models=patches)
    assert bundle.family == family
    assert set(bundle.about["parts"]) == set(bundle.parts)
    assert bundle.about["parts"]["transformer"]["parameters"] > 10_000
    drawn = bundle.predict(
        torch.zeros(1, *bundle.shapes.latent), torch.tensor([500.0]), Condition(bundle.read(["a cat"]), (0,), ("cond",))
    )
    assert drawn.shape == (1, *bundle.shapes.latent)


def test_sd3_comes_without_t5_and_the_digest_knows(patches: Path, tmp_path: Path) -> None:
    """Left out of the index, or simply not downloaded."""
    short, whole = (load(name, models=patches) for name in ("sd3-short", "sd3"))
    assert "text3" not in short.parts
    folder = Path(shutil.copytree(patches / "sd3", tmp_path / "sd3"))
    shutil.rmtree(folder / "text_encoder_3")
    bundle = load(str(folder))
    assert "text3" not in bundle.parts
    assert not bundle.read(PROMPTS).states[:, 77:].any()
    assert len({short.digest, whole.digest, bundle.digest}) == 3


def test_a_part_that_is_needed_is_asked_for(patches: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(patches / "flux", tmp_path / "flux"))
    shutil.rmtree(folder / "text_encoder_2")
    with pytest.raises(MissingPart, match="lacks text_encoder_2; a FluxPipeline needs transformer, vae"):
        load(str(folder))


def test_an_encoder_without_its_words_is_refused(patches: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(patches / "sd3", tmp_path / "sd3"))
    shutil.rmtree(folder / "tokenizer_3")
    with pytest.raises(MissingPart, match="lacks tokenizer_3, without which its text_encoder_3 cannot read"):
        load(str(folder))


def test_a_model_without_any_encoder_is_refused(patches: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(patches / "sd3-short", tmp_path / "sd3"))
    for room in ("text_encoder", "text_encoder_2"):
        shutil.rmtree(folder / room)
    with pytest.raises(MissingPart, match="has no text encoder; a StableDiffusion3Pipeline needs at least one"):
        load(str(folder))


def test_a_part_of_another_kind_is_refused(patches: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(patches / "pixart", tmp_path / "pixart"))
    index = json.loads((folder / "model_index.json").read_text())
    index["text_encoder"] = ["transformers", "CLIPTextModel"]
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(UnsupportedFamily, match=r"text_encoder is transformers\.CLIPTextModel; it has to be T5Enc"):
        pipeline_parts(folder)


def test_an_older_pixart_names_its_transformer_by_the_older_class(patches: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(patches / "pixart", tmp_path / "pixart"))
    for path in (folder / "model_index.json", folder / "transformer" / "config.json"):
        path.write_text(path.read_text().replace("PixArtTransformer2DModel", "Transformer2DModel"))
    old, new = load(str(folder)), load("pixart", models=patches)
    x, t = torch.ones(1, 4, 8, 8), torch.tensor([500])
    made = [each.predict(x, t, Condition(each.read(["a cat"]), (0,), ("cond",))) for each in (old, new)]
    assert torch.equal(*made)


def test_the_words_and_weights_of_every_part_count_for_the_digest(patches: Path) -> None:
    names = {name for name, _ in weight_files(patches / "flux")}
    assert {"tokenizer_2/tokenizer.json", "text_encoder_2/model.safetensors", "transformer/config.json"} <= names


def test_needed_parts_are_those_of_the_pipeline() -> None:
    assert kinds.needed("StableDiffusion3Pipeline") == ("transformer", "vae", "scheduler")
    assert "text_encoder_2" in kinds.needed("StableDiffusionXLPipeline")
    assert "text_encoder_2" not in kinds.needed("StableDiffusionPipeline")
    assert kinds.kind_of("KandinskyPipeline") is None
