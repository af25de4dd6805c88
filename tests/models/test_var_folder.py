"""The layout of a VAR on disk."""

import json
from pathlib import Path

import pytest

from workbench.core.errors import MissingPart
from workbench.models.var_folder import is_var, parts, role


def folder(path: Path, *there: str) -> Path:
    (path / "model_index.json").write_text(json.dumps({"_class_name": "VARPipeline"}))
    for part in there:
        (path / part).mkdir()
        (path / part / "config.json").write_text("{}")
    return path


def test_a_var_is_told_by_its_index(tmp_path: Path) -> None:
    assert not is_var(tmp_path)
    assert is_var(folder(tmp_path))


def test_parts_are_those_that_are_there_and_two_must_be(tmp_path: Path) -> None:
    with pytest.raises(MissingPart, match="lacks transformer; a VARPipeline needs vq and transformer"):
        parts(folder(tmp_path, "vq"))
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer" / "config.json").write_text("{}")
    assert parts(tmp_path) == ("vq", "transformer")


def test_original_files_are_told_by_their_names() -> None:
    assert role({"quantize.embedding.weight": 0, "encoder.conv_in.weight": 0}) == "vq"
    assert role({"blocks.0.attn.mat_qkv.weight": 0, "pos_start": 0}) == "transformer"
    assert role({"model.diffusion_model.x": 0}) == ""
