"""Adapters to choose from, files kept under plain names, and what an edit changes as a LoRA file."""

from pathlib import Path

import pytest

from tests.tiny import tiny_sd
from workbench.core.catalog import method
from workbench.core.errors import AskError
from workbench.core.method import Edit
from workbench.runs.composing import adapters, kept_as, learned, merged


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


def test_a_fit_is_shown_step_by_step(tmp_path: Path) -> None:
    seen: list[int] = []
    edit = _edit("fit-lora", pictures=["fox"], count=2, rank=2, iterations=2, batch=2)
    assert learned(tiny_sd(), edit, tmp_path / "fit", lambda step: seen.append(step.index)).is_file()
    assert seen
