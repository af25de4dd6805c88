"""Files that are there whole or not at all: a temporary name, fsync, rename."""

import errno
import json
import os
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from workbench.core.errors import AskError, ResourceError

_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)


def given(text: str) -> Path:
    """The path that a person named, with ~ for their home; there need be nothing.

    Raises `AskError` for a name that no file can have, or one that may not be looked at.
    """
    try:
        path = Path(text).expanduser()
        path.exists()
    except (OSError, RuntimeError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error).rstrip(".")
        raise AskError(f"{text[:80]!r} cannot be looked at as a file: {why}. Give a path of this computer.") from None
    return path


@contextmanager
def whole(path: Path) -> Generator[Path]:
    """A temporary file to write; it takes the place of `path` only when the body got through.

    Raises `ResourceError` when the disk is full; `path` is then what it was before and no temporary file is left.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.errno in _FULL:
            raise ResourceError(
                f"{path} could not be written: {os.strerror(error.errno or 0)}. Nothing of it was kept. "
                "Make room or name another folder, then run it again."
            ) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` so that readers see the old file or the new one, never a part."""
    with whole(path) as temporary, temporary.open("wb") as file:
        file.write(data)


def write_json(path: Path, value: Any) -> None:
    """Write plain data as JSON. Raises `ValueError` for NaN and infinities, which JSON does not have."""
    write_bytes(path, (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any | None:
    """The JSON of a file, or None where there is no readable one."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
