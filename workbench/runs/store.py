"""The cache of fitted values: one file an entry, written whole, read only when sound."""

import hashlib
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from workbench.blocks.disk import read_json, whole, write_json
from workbench.core.bundle import Bundle
from workbench.core.errors import ResourceError
from workbench.core.places import CACHE

_PLAIN = re.compile(r"[A-Za-z0-9_-]+(/[A-Za-z0-9_.-]*[A-Za-z0-9_-])*")


@dataclass(frozen=True)
class FolderStore:
    """Tensors as safetensors and JSON as JSON under `root`, by key.

    A damaged entry reads as missing and is written again. A cache that cannot be written is no reason to fail: the
    value is then worked out again next time.
    """

    root: Path = CACHE

    def tensors(self, key: str) -> tuple[dict[str, Tensor], dict[str, str]] | None:
        """The tensors and texts kept under a key, or None."""
        try:
            with safe_open(self._path(key, ".safetensors"), "pt") as file:
                text = json.loads((file.metadata() or {})["text"])
                return {name: file.get_tensor(name) for name in file.keys()}, text  # noqa: SIM118  (not a mapping)
        except (OSError, SafetensorError, ValueError, KeyError):
            return None

    def keep_tensors(self, key: str, tensors: Mapping[str, Tensor], text: Mapping[str, str]) -> None:
        """Keep tensors and texts under a key."""
        plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
        with (
            suppress(OSError, ResourceError, SafetensorError),
            whole(self._path(key, ".safetensors")) as temporary,
        ):
            save_file(plain, temporary, metadata={"text": json.dumps(dict(text))})

    def json(self, key: str) -> Any | None:
        """The plain data kept under a key, or None."""
        return read_json(self._path(key, ".json"))

    def keep_json(self, key: str, value: Any) -> None:
        """Keep plain data under a key."""
        with suppress(OSError, ResourceError):
            write_json(self._path(key, ".json"), value)

    def _path(self, key: str, suffix: str) -> Path:
        if not _PLAIN.fullmatch(key):
            key = "other/" + hashlib.sha256(key.encode()).hexdigest()[:32]
        return self.root / f"{key}{suffix}"


def with_store(bundle: Bundle, store: FolderStore | None = None) -> Bundle:
    """The bundle, and every bundle it opens, with a store to keep fitted values in."""
    store = store or FolderStore()
    opener = bundle.opener
    opened = None if opener is None else lambda name: replace(opener(name), store=store)
    return replace(bundle, store=store, opener=opened)
