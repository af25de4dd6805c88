import os
import pickle
import resource
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from workbench.core.errors import AskError, CheckpointMismatch, MissingPart, ResourceError
from workbench.models.convert import _read, _targets, _tensors, convert


class Surprise:
    """Runs when it is unpickled, were it ever."""

    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.flag),)


def test_a_state_dict_comes_out_tensor_for_tensor(tmp_path: Path) -> None:
    tied = torch.arange(6.0).reshape(2, 3)
    state = {"a": tied, "b": tied, "turned": tied.T, "part": tied[1:], "half": torch.ones(2).half(), "epoch": 3}
    torch.save({"state_dict": state, "optimizer": {"lr": 0.1}}, tmp_path / "model.ckpt")
    (made,) = convert([tmp_path / "model.ckpt"], tmp_path / "new" / "out")
    assert made == tmp_path / "new" / "out" / "model.safetensors"
    found = load_file(made)
    assert set(found) == {"a", "b", "turned", "part", "half"}
    assert all(torch.equal(found[name], state[name]) and found[name].dtype == state[name].dtype for name in found)


def test_several_files_and_the_name_transformers_looks_for(tmp_path: Path) -> None:
    for name in ("pytorch_model.bin", "vae.pth"):
        torch.save({"w": torch.zeros(2)}, tmp_path / name)
    pairs = _targets([tmp_path / "pytorch_model.bin", tmp_path / "vae.pth"], tmp_path / "out")
    assert [target.name for _, target in pairs] == ["model.safetensors", "vae.safetensors"]


def test_code_in_a_pickle_is_refused_and_never_runs_and_nothing_of_its_companions_stays(tmp_path: Path) -> None:
    flag = tmp_path / "ran"
    torch.save({"w": torch.zeros(2)}, tmp_path / "good.ckpt")
    torch.save({"w": torch.zeros(2), "x": Surprise(flag)}, tmp_path / "bad.ckpt")
    with pytest.raises(CheckpointMismatch, match=r"holds more than tensors \(.*(mkdir|posix)") as caught:
        convert([tmp_path / "good.ckpt", tmp_path / "bad.ckpt"], tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "out").iterdir())
    (tmp_path / "plain.bin").write_bytes(pickle.dumps(Surprise(flag)))
    with pytest.raises(ValueError, match="more than tensors"):
        _read(tmp_path / "plain.bin")
    assert not flag.exists()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([torch.zeros(2)], "holds a list, not a dict of tensors"),
        ({"w": torch.zeros(2), "more": {"x": 1}}, "'more' is a dict, not a tensor"),
        ({"step": 3}, "holds no tensors by name"),
        ({1: torch.zeros(2), "1": torch.zeros(2)}, "holds no tensors by name"),
        ({"w": torch.zeros(2).to_sparse()}, "'w' is no dense tensor"),
        ({"w": torch.zeros(1).expand(10_000_000)}, "its tensors would take 40,000,000 bytes"),
    ],
)
def test_anything_but_plain_tensors_is_refused_with_its_reason(value: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        _tensors(value, 1000)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04" + bytes(100)])
def test_a_file_of_nonsense_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot be read|more than tensors"):
        _read(tmp_path / "bad.pt")


def test_requests_that_cannot_be_met_are_told(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        torch.save({"w": torch.zeros(2)}, tmp_path / folder / "model.bin")
    (tmp_path / "m.txt").touch()
    first, second = tmp_path / "one" / "model.bin", tmp_path / "two" / "model.bin"
    for files, kind, words in (
        ([], AskError, "no file to convert"),
        ([tmp_path / "nothing.pt"], MissingPart, "There is no file"),
        ([tmp_path / "m.txt"], AskError, "no pickled checkpoint"),
        ([first, second], AskError, "would both become"),
    ):
        with pytest.raises(kind, match=words):
            convert(files, tmp_path / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model.safetensors").touch()
    with pytest.raises(AskError, match="is already there"):
        convert([second], tmp_path / "out")


def test_a_reader_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(2)}, tmp_path / "slow.pt")
    with pytest.raises(CheckpointMismatch, match=r"was not read within 0\.01 s"):
        convert([tmp_path / "slow.pt"], tmp_path / "out", patience=0.01)
    assert not list((tmp_path / "out").iterdir())


def test_a_full_disk_is_told_and_nothing_half_written_stays(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(200_000)}, tmp_path / "big.pt")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    except ValueError:
        pytest.skip("this system does not limit file sizes")
    try:
        with pytest.raises(ResourceError, match="could not be written"):
            convert([tmp_path / "big.pt"], tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list((tmp_path / "out").iterdir())
