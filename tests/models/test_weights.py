from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from workbench.core.errors import CheckpointMismatch, MissingPart
from workbench.models.weights import digest, header, read_json, shards


def test_the_header_tells_names_shapes_and_metadata(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2, 3), "b": torch.zeros(4)}, tmp_path / "m.safetensors", metadata={"who": "we"})
    assert header(tmp_path / "m.safetensors") == ({"a": (2, 3), "b": (4,)}, {"who": "we"})


@pytest.mark.parametrize("kept", [0, 4, 50, -1])
def test_a_file_cut_short_is_refused_in_one_line(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"a": torch.zeros(100)}, path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointMismatch, match=r"m\.safetensors is not a whole safetensors file") as caught:
        header(path)
    assert "\n" not in str(caught.value)


def test_a_header_of_nonsense_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes((10).to_bytes(8, "little") + b"{not json}" + bytes(40))
    with pytest.raises(CheckpointMismatch, match="not a whole safetensors file"):
        header(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_values_that_are_not_finite_are_refused_by_name(tmp_path: Path, value: float, dtype: torch.dtype) -> None:
    weight = torch.zeros(5, dtype=dtype)
    weight[3] = value
    save_file({"good": torch.zeros(2), "bad": weight}, tmp_path / "m.safetensors")
    with pytest.raises(CheckpointMismatch, match="bad holds 1 values that are not finite"):
        digest([("m", tmp_path / "m.safetensors")])


def test_the_digest_is_of_the_tensors_not_of_the_file(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones((), dtype=torch.bfloat16)}
    save_file(tensors, tmp_path / "one.safetensors", metadata={"saved": "yesterday"})
    save_file(tensors, tmp_path / "two.safetensors", metadata={"saved": "today", "by": "another program"})
    assert digest([("m", tmp_path / "one.safetensors")]) == digest([("m", tmp_path / "two.safetensors")])


@pytest.mark.parametrize(
    "other", [{"a": torch.zeros(6)}, {"b": torch.zeros(2, 3)}, {"a": torch.ones(2, 3)}, {"a": torch.zeros(2, 3).half()}]
)
def test_another_shape_name_value_or_dtype_is_another_digest(tmp_path: Path, other: dict[str, torch.Tensor]) -> None:
    save_file({"a": torch.zeros(2, 3)}, tmp_path / "one.safetensors")
    save_file(other, tmp_path / "two.safetensors")
    assert digest([("m", tmp_path / "one.safetensors")]) != digest([("m", tmp_path / "two.safetensors")])


def test_a_configuration_counts_without_who_wrote_it(tmp_path: Path) -> None:
    for name, text in (("a", '{"x": 1, "_diffusers_version": "1"}'), ("b", '{"x": 1}'), ("c", '{"x": 2}')):
        (tmp_path / f"{name}.json").write_text(text)
    a, b, c = (digest([("config.json", tmp_path / f"{name}.json")]) for name in "abc")
    assert a == b != c


def test_a_second_digest_reads_no_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file({"a": torch.zeros(2, 3)}, tmp_path / "m.safetensors")
    first = digest([("m", tmp_path / "m.safetensors")])
    monkeypatch.setattr("workbench.models.weights._tensors", lambda path: pytest.fail("the file was read again"))
    assert digest([("m", tmp_path / "m.safetensors")]) == first


def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"a": torch.zeros(2, 3)}, path)
    first = digest([("m", path)])
    save_file({"a": torch.ones(4, 3)}, path)
    assert digest([("m", path)]) != first


def test_a_cache_that_cannot_be_written_or_read_is_done_without(tmp_path: Path, cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    save_file({"a": torch.zeros(2, 3)}, tmp_path / "m.safetensors")
    assert len(digest([("m", tmp_path / "m.safetensors")])) == 64


@pytest.mark.parametrize("text", ["", "{", "[1]", "[" * 100_000, "\udcff"])
def test_json_that_is_no_object_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(CheckpointMismatch, match=r"config\.json"):
        read_json(tmp_path / "config.json")


def test_weights_are_found_whole_in_shards_or_as_fp16(tmp_path: Path) -> None:
    rooms = [tmp_path / name for name in ("whole", "sharded", "narrow")]
    for room in rooms:
        room.mkdir()
    (rooms[0] / "model.safetensors").touch()
    (rooms[1] / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-1.safetensors"}}')
    (rooms[1] / "model-1.safetensors").touch()
    (rooms[2] / "model.fp16.safetensors").touch()
    found = [shards(room, ("model",)) for room in rooms]
    assert [variant for _, variant in found] == ["", "", "fp16"]
    assert [files[0].name for files, _ in found] == [f"model{x}.safetensors" for x in ("", "-1", ".fp16")]


def test_an_index_that_points_elsewhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../other.safetensors"}}')
    with pytest.raises(MissingPart, match="which its index names"):
        shards(tmp_path, ("model",))


def test_pickled_weights_are_named_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(MissingPart, match=r"workbench convert pytorch_model\.bin --out DIR"):
        shards(tmp_path, ("model",))
