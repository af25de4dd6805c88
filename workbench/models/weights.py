"""Reading safetensors with suspicion: headers without the payload, finite values, and a digest of what they hold."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from workbench.core.errors import CheckpointMismatch, MissingPart
from workbench.core.places import CACHE

#: Keys of a configuration that say who wrote it, not what the model is.
_SIGNATURES = ("_name_or_path", "_diffusers_version", "transformers_version", "torch_dtype", "dtype")


def header(path: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """Names and shapes of a safetensors file's tensors, and its metadata, read without the tensors themselves.

    Raises `CheckpointMismatch` for a file that is cut short, damaged or something else.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            names = list(file.keys())
            return {name: tuple(file.get_slice(name).get_shape()) for name in names}, dict(file.metadata() or {})
    except FileNotFoundError:
        raise MissingPart(f"There is no file {path}.") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointMismatch(_damaged(path, error)) from None


def digest(files: Sequence[tuple[str, Path]]) -> str:
    """sha256 of a model's weights and configurations, given as (name within the model, file), in hex.

    Weights count by tensor (name, dtype, shape, bytes), JSON by content without its signatures, other files by their
    bytes; so saving a model again does not change it. Raises `CheckpointMismatch` when a tensor is damaged or holds a
    value that is not finite. Each weight file's share is remembered by path, time and size.
    """
    whole = hashlib.sha256()
    known = _Remembered()
    for name, path in sorted(files):
        if path.suffix == ".safetensors":
            part = known.get(path)
            if part is None:
                part = _tensors(path)
                known.keep(path, part)
        elif path.suffix == ".json":
            part = hashlib.sha256(_canonical(read_json(path))).hexdigest()
        else:
            part = hashlib.sha256(path.read_bytes()).hexdigest()
        whole.update(f"{name}\0{part}\n".encode())
    known.write()
    return whole.hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises `MissingPart` or `CheckpointMismatch`."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise MissingPart(f"There is no {path.name} in {path.parent}.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointMismatch(f"{path} is not readable JSON ({error}). Take the file anew.") from None
    if not isinstance(value, dict):
        raise CheckpointMismatch(f"{path} holds no JSON object. Take the file anew.")
    return value


def shards(folder: Path, stems: Iterable[str]) -> tuple[list[Path], str]:
    """The safetensors files of a part and their variant: `stem.safetensors`, its shards, or `stem.fp16.safetensors`.

    Raises `MissingPart`; pickled weights are named with what to do about them.
    """
    for stem in stems:
        if (folder / f"{stem}.safetensors").is_file():
            return [folder / f"{stem}.safetensors"], ""
        index = folder / f"{stem}.safetensors.index.json"
        if index.is_file():
            names = read_json(index).get("weight_map")
            names = sorted(set(names.values())) if isinstance(names, Mapping) else []
            return [_beside(folder, str(name)) for name in names], ""
        if (folder / f"{stem}.fp16.safetensors").is_file():
            return [folder / f"{stem}.fp16.safetensors"], "fp16"
    pickled = sorted(p.name for p in folder.glob("*") if p.suffix in PICKLES)
    if pickled:
        raise MissingPart(refusal(folder / pickled[0]))
    wanted = " or ".join(f"{stem}.safetensors" for stem in stems)
    raise MissingPart(f"{folder} holds no weights. It should hold {wanted}.")


PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl", ".pickle")


def refusal(path: Path) -> str:
    """What to say of a pickled checkpoint."""
    return (
        f"{path} is a pickled checkpoint, which can run code when it is read; only .safetensors is loaded. "
        f"Convert it: workbench convert {path.name} --out DIR"
    )


def _beside(folder: Path, name: str) -> Path:
    path = folder / name
    if Path(name).name != name or not path.is_file():
        raise MissingPart(f"{folder} lacks {name!r}, which its index names. Download the model again.")
    return path


def _damaged(path: Path, error: Exception) -> str:
    return f"{path} is not a whole safetensors file ({error}). It is cut short or damaged: download it again."


def _tensors(path: Path) -> str:
    """Digest of a safetensors file's tensors, one in memory at a time."""
    import torch
    from safetensors import SafetensorError, safe_open

    total = hashlib.sha256()
    try:
        with safe_open(path, "pt") as file:
            for name in sorted(file.keys()):
                value = file.get_tensor(name)
                if value.is_floating_point() and value.element_size() > 1 and not torch.isfinite(value).all():
                    count = int((~torch.isfinite(value)).sum())
                    raise CheckpointMismatch(
                        f"{path}: {name} holds {count:,} values that are not finite (NaN or infinite). "
                        "The weights are damaged: download the file or train again."
                    )
                total.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
                total.update(value.contiguous().reshape(-1).view(torch.uint8).numpy())
    except (SafetensorError, OSError) as error:
        raise CheckpointMismatch(_damaged(path, error)) from None
    return total.hexdigest()


def _canonical(value: Mapping[str, Any]) -> bytes:
    kept = {name: item for name, item in value.items() if name not in _SIGNATURES}
    return json.dumps(kept, sort_keys=True).encode()


class _Remembered:
    """Digests of weight files by path, modification time and size, in the cache folder."""

    def __init__(self) -> None:
        self.place = CACHE / "digests.json"
        self.fresh: dict[str, str] = {}
        try:
            self.known: dict[str, str] = dict(json.loads(self.place.read_text("utf-8")))
        except (OSError, ValueError):
            self.known = {}

    @staticmethod
    def _key(path: Path) -> str:
        facts = path.stat()
        return f"{path.resolve()}|{facts.st_mtime_ns}|{facts.st_size}"

    def get(self, path: Path) -> str | None:
        return self.known.get(self._key(path))

    def keep(self, path: Path, value: str) -> None:
        self.fresh[self._key(path)] = value

    def write(self) -> None:
        """Add what is new; a cache that cannot be written is done without."""
        if not self.fresh:
            return
        kept = dict(list((self.known | self.fresh).items())[-500:])
        draft = self.place.with_name(f"digests.{os.getpid()}.tmp")
        try:
            self.place.parent.mkdir(parents=True, exist_ok=True)
            draft.write_text(json.dumps(kept, indent=0), "utf-8")
            draft.replace(self.place)
        except OSError:
            with suppress(OSError):
                draft.unlink(missing_ok=True)
