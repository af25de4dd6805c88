import errno
from pathlib import Path

import pytest

from workbench.blocks.disk import given, read_json, whole, write_bytes, write_json
from workbench.core.errors import AskError, ResourceError


def half(path: Path, error: Exception) -> None:
    """Begin to write a file, and fail."""
    with whole(path) as temporary:
        temporary.write_bytes(b"half")
        raise error


def test_a_failing_body_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "report.json"
    write_bytes(target, b"old")
    with pytest.raises(ZeroDivisionError):
        half(target, ZeroDivisionError())
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
    assert target.read_bytes() == b"old"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG])
def test_a_full_disk_is_told_as_one(tmp_path: Path, number: int) -> None:
    with pytest.raises(ResourceError, match="Make room"):
        half(tmp_path / "x", OSError(number, "no"))
    assert list(tmp_path.iterdir()) == []


def test_other_troubles_of_the_disk_pass_through(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="file"):
        write_bytes(tmp_path / "file" / "inside", b"")


def test_json_comes_back(tmp_path: Path) -> None:
    write_json(tmp_path / "a" / "b.json", {"text": "über", "row": [1, None]})
    assert read_json(tmp_path / "a" / "b.json") == {"text": "über", "row": [1, None]}


def test_unreadable_json_reads_as_nothing(tmp_path: Path) -> None:
    (tmp_path / "broken").write_bytes(b'{"a": ')
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "deep").write_text("[" * 200_000)
    assert [read_json(tmp_path / name) for name in ("broken", "binary", "deep", "missing")] == [None] * 4


def test_what_json_does_not_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", float("nan"))


def test_a_name_that_no_file_can_have_is_refused_in_a_line(tmp_path: Path) -> None:
    assert given(str(tmp_path / "not yet")) == tmp_path / "not yet"
    for name in ("x" * 5000, "~nobody-of-this-name/x"):
        with pytest.raises(AskError, match="cannot be looked at as a file") as refused:
            given(name)
        assert "\n" not in str(refused.value)
        assert len(str(refused.value)) < 250
