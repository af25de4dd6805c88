"""Writing a model's weights: a copy of its folder in which some parameters have other values, or a LoRA file.

What was not changed is copied byte for byte. A part with a change is written in the dtype the model runs in, so that a
program which loads the folder computes what ran here.
"""

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from workbench.core.bundle import Bundle
from workbench.core.errors import AskError, CheckpointMismatch, UnsupportedFamily
from workbench.models import files
from workbench.models.pipeline import read_pipeline
from workbench.models.weights import read_json, shards

#: Our part -> the folder of a pipeline.
ROOMS = {"unet": "unet", "transformer": "transformer", "vae": "vae", "text": "text_encoder", "text2": "text_encoder_2",
         "text3": "text_encoder_3"}  # fmt: skip
LORA = "pytorch_lora_weights.safetensors"
_COPIED = (".json", ".txt", ".md", ".safetensors", ".model")
_NAMED = ("LICENSE", "LICENCE", "NOTICE", "LICENSE.txt", "NOTICE.txt")


def found_of(bundle: Bundle) -> files.Found:
    """Where a bundle was read from. Raises `UnsupportedFamily` when it is no pipeline that was read from files."""
    found = files.find(bundle.source) if bundle.source else None
    if found is None or found.layout not in ("pipeline", "single"):
        raise UnsupportedFamily(
            f"{bundle.name} was not read from the files of a diffusers pipeline, so there is nothing to copy. "
            "Load it from a folder or a .safetensors file."
        )
    return found


def write_folder(bundle: Bundle, changed: Mapping[str, Tensor], out: Path) -> None:
    """The model as a folder that plain diffusers opens, with `changed` (`part:path` -> values) in place of its own."""
    found = found_of(bundle)
    rooms: dict[str, dict[str, Tensor]] = {}
    for key, value in changed.items():
        part, _, name = key.partition(":")
        if part not in ROOMS:
            raise UnsupportedFamily(f"{key} is of {part!r}, which is no part of a pipeline. Parts: {', '.join(ROOMS)}.")
        rooms.setdefault(ROOMS[part], {})[name] = value.detach().cpu()
    out.mkdir(parents=True, exist_ok=True)
    if found.layout == "single":
        _save(found, rooms, bundle.dtype, out)
        return
    _copy(found.path, out, rooms)
    for room, values in rooms.items():
        paths, _ = shards(found.path / room, files.STEMS)
        _rewrite(paths, values, out / room / _plain(paths[0].name, len(paths) > 1))


def write_lora(layers: Mapping[str, tuple[Tensor, Tensor]], out: Path, metadata: Mapping[str, str]) -> Path:
    """Factors (up [out, r], down [r, in]) by `part:path.weight` as a LoRA file that `load_lora_weights` reads."""
    from safetensors.torch import save_file

    prefixes = {part: room for part, room in ROOMS.items() if part not in ("vae", "text3")}
    tensors: dict[str, Tensor] = {}
    for key, (up, down) in layers.items():
        part, _, name = key.partition(":")
        if part not in prefixes:
            raise UnsupportedFamily(f"{key}: a LoRA file holds changes of {', '.join(prefixes)}, not of {part}.")
        stem = f"{prefixes[part]}.{name.removesuffix('.weight')}"
        tensors[f"{stem}.lora_A.weight"] = down.detach().cpu().contiguous()
        tensors[f"{stem}.lora_B.weight"] = up.detach().cpu().contiguous()
    out.mkdir(parents=True, exist_ok=True)
    save_file(tensors, out / LORA, metadata={"format": "pt", **metadata})
    return out / LORA


def _copy(source: Path, out: Path, rooms: Iterable[str]) -> None:
    """Every file that plain diffusers needs of the parts, except weights that are written anew; fp16 names go."""
    index = read_json(source / "model_index.json")
    parts = [name for name, value in index.items() if isinstance(value, list) and value[:1] != [None]]
    for path in source.iterdir():
        if path.is_file() and (path.name == "model_index.json" or path.suffix == ".md" or path.name in _NAMED):
            shutil.copy2(path, out / path.name)
    absent: list[str] = []
    for part in parts:
        room = source / part
        weights: list[Path] = []
        if room.is_dir() and any(path.suffix == ".safetensors" for path in room.iterdir()):
            weights, _ = shards(room, files.STEMS)
        elif not room.is_dir() or (room / "config.json").is_file():
            absent.append(part)  # a safety checker that was not downloaded, or is pickled
            continue
        (out / part).mkdir(exist_ok=True)
        kept = [path for path in room.iterdir() if path.suffix in _COPIED and path.suffix != ".safetensors"]
        kept = [path for path in kept if part not in rooms or not path.name.endswith(".index.json")]
        for path in (*kept, *(weights if part not in rooms else ())):
            shutil.copy2(path, out / part / _plain(path.name))
    if absent:
        index |= {name: [None, None] for name in absent}
        (out / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", "utf-8")


def _plain(name: str, sharded: bool = False) -> str:
    """A weight file's name without its variant, and of a whole part where it was in several."""
    name = name.replace(".fp16.", ".")
    return f"{name.partition('-')[0]}.safetensors" if sharded else name


def _rewrite(paths: list[Path], values: Mapping[str, Tensor], out: Path) -> None:
    """One safetensors file with the tensors of some, some of them replaced, all in the dtype of those."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    for path in paths:
        opened: Any = safe_open(path, "pt")
        with opened as file:
            tensors |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
    for name, value in values.items():
        known = next(
            (key for key in (name, f"text_model.{name}", name.removeprefix("text_model.")) if key in tensors), ""
        )
        if not known or tensors[known].numel() != value.numel():
            raise CheckpointMismatch(f"{paths[0]} holds no {name} of {value.numel():,} values. Load the model anew.")
        tensors[known] = value.reshape(tensors[known].shape)
    dtype = next(iter(values.values())).dtype
    tensors = {k: v.to(dtype) if v.is_floating_point() else v for k, v in tensors.items()}
    save_file({name: value.contiguous().clone() for name, value in tensors.items()}, out, metadata={"format": "pt"})


def _save(found: files.Found, rooms: Mapping[str, Mapping[str, Tensor]], dtype: torch.dtype, out: Path) -> None:
    """A single file read anew, changed, and saved by diffusers as a folder."""
    pipe = read_pipeline(found, dtype)
    for room, values in rooms.items():
        part = getattr(pipe, room)
        own = dict(part.named_parameters())
        strange = next((name for name in values if name not in own), None)
        if strange is not None:
            raise CheckpointMismatch(f"{found.path} holds no {room}.{strange}. Load the model anew.")
        with torch.no_grad():
            for name, value in values.items():
                own[name].copy_(value)
    pipe.save_pretrained(out, safe_serialization=True)


def refuse_used(out: Path) -> None:
    """Raise `AskError` when a folder holds something already."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise AskError(f"{out} is there already and not empty. Name a new folder with --out.")
