from pathlib import Path

import torch

from tests.tiny import tiny_sd
from workbench.runs.store import FolderStore, with_store


def test_tensors_and_texts_come_back(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    base = torch.arange(6.0).reshape(2, 3)
    store.keep_tensors("delta/abc", {"part:a.weight": base.t(), "twin": base}, {"kind": "weights"})
    kept = store.tensors("delta/abc")
    assert kept is not None
    tensors, text = kept
    assert torch.equal(tensors["part:a.weight"], base.t())
    assert torch.equal(tensors["twin"], base)
    assert text == {"kind": "weights"}


def test_missing_and_damaged_entries_read_as_nothing_and_are_written_again(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    assert store.tensors("delta/abc") is None
    store.keep_tensors("delta/abc", {"a": torch.ones(100)}, {})
    (path,) = (tmp_path / "delta").iterdir()
    path.write_bytes(path.read_bytes()[:50])
    assert store.tensors("delta/abc") is None
    store.keep_tensors("delta/abc", {"a": torch.ones(2)}, {})
    assert store.tensors("delta/abc") is not None


def test_json_comes_back_and_damaged_json_does_not(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    store.keep_json("baseline/x", [1, {"a": None}])
    assert store.json("baseline/x") == [1, {"a": None}]
    (tmp_path / "baseline" / "x.json").write_text("[1,")
    assert store.json("baseline/x") is None


def test_a_key_never_leaves_the_folder(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "in")
    for key in ("../out", "/etc/x", "a/../../b", "", "a b", "a/.."):
        store.keep_json(key, key)
        assert store.json(key) == key
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_cache_that_cannot_be_written_is_no_trouble(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    store = FolderStore(tmp_path / "file")
    store.keep_json("a", 1)
    store.keep_tensors("a", {"a": torch.ones(1)}, {})
    assert store.json("a") is None
    assert store.tensors("a") is None


def test_a_bundle_and_what_it_opens_share_the_store(tmp_path: Path) -> None:
    from dataclasses import replace

    store = FolderStore(tmp_path)
    bundle = with_store(replace(tiny_sd(), opener=lambda name: tiny_sd()), store)
    assert bundle.store is store
    assert bundle.open("student").store is store
