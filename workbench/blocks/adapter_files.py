"""Adapter files in and out. They come from strangers: safetensors alone, bounded in size, every value finite."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod, sqrt
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor

from workbench.blocks.disk import given, read_json, whole, write_json
from workbench.core.errors import AskError, CheckpointMismatch, MissingPart
from workbench.core.places import ASSETS
from workbench.ops.low_rank import LowRank

SHIPPED: Path = ASSETS / "models" / "emoji-lora"
PEFT, CONFIG, TRAINING = "adapter_model.safetensors", "adapter_config.json", "training.json"
MOST_BYTES, MOST_TENSORS, MOST_FILES, MOST_NOTES = 4 << 30, 20_000, 4, 16 << 20
_DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I32", "U8", "I8", "BOOL")
_PARTS = {"unet": "unet", "transformer": "transformer", "text": "text_encoder", "text2": "text_encoder_2"}
_KOHYA = {"unet": "lora_unet", "text": "lora_te", "text1": "lora_te1", "text2": "lora_te2",
          "transformer": "lora_transformer"}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Raw:
    """What a file or folder holds: tensors by name in float32, peft's settings, metadata, and notes on its making."""

    name: str
    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any] = field(default_factory=dict[str, Any])
    meta: Mapping[str, str] = field(default_factory=dict[str, str])
    training: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def scale(self, stem: str, rank: int, alpha: Tensor | None) -> float:
        """What a pair of factors is multiplied by: alpha / r, with rslora alpha / sqrt(r), 1 where no alpha is said.

        A file's own alpha counts before peft's settings. Patterns of peft are read as endings of names, not as regular
        expressions, which a stranger may not run here.
        """
        if alpha is not None:
            return float(alpha.flatten()[0]) / max(rank, 1) if alpha.numel() else 1.0
        said = self._patterned(stem, "alpha_pattern", self.config.get("lora_alpha", self.config.get("alpha")))
        width = rank or self._patterned(stem, "rank_pattern", self.config.get("r"))
        if said is None or not width:
            return 1.0
        return said / (sqrt(width) if self.config.get("use_rslora") else width)

    def _patterned(self, stem: str, name: str, default: Any) -> float | None:
        patterns = self.config.get(name)
        if isinstance(patterns, dict):
            ends = cast(dict[Any, Any], patterns)
            default = next((v for k, v in ends.items() if f".{stem}".endswith(f".{str(k).lstrip('^')}")), default)
        good = isinstance(default, int | float) and not isinstance(default, bool) and abs(default) < 1e6
        return float(default) if good else None


def shipped() -> tuple[str, ...]:
    """The names of the adapters that come with the program."""
    return tuple(sorted(path.parent.name for path in SHIPPED.glob(f"*/{PEFT}")))


def read(source: str | Path) -> Raw:
    """The tensors of a file, of a folder's files, or of a shipped adapter by its name.

    Raises `MissingPart`, `CheckpointMismatch` or `AskError` in one line.
    """
    files = locate(source)
    folder = files[0].parent
    tensors: dict[str, Tensor] = {}
    meta: dict[str, str] = {}
    for path in files:
        found, said = _tensors(path)
        tensors |= found
        meta |= said
    if not tensors:
        raise CheckpointMismatch(f"{files[0]} holds no tensor. Save the adapter again.")
    config = _object(folder / CONFIG) if files[0].name == PEFT else {}
    name = folder.name if len(files) > 1 or files[0].name == PEFT else files[0].stem
    return Raw(name, tensors, config or _said(meta), meta, _object(folder / TRAINING))


def locate(source: str | Path) -> list[Path]:
    """The safetensors files meant. Raises `MissingPart` for a name or path where none is."""
    text = str(source)
    if not text.strip():
        raise AskError(f"An adapter without a name was asked for. Give a file, a folder or one of: {_known()}.")
    path = given(text)
    if not path.exists() and Path(text).name == text and (SHIPPED / text).is_dir():
        path = SHIPPED / text
    if path.is_dir():
        files = sorted(path.glob("*.safetensors"))
        files = [path / PEFT] if path / PEFT in files else files
        if not 0 < len(files) <= MOST_FILES:
            what = f"{len(files)} .safetensors files, and it is unclear which are meant" if files else "no .safetensors"
            raise MissingPart(f"{path} holds {what}. Name the file itself.")
        return files
    if not path.is_file():
        raise MissingPart(f"There is no adapter {text!r}: no such file or folder. Known by name: {_known()}.")
    if path.suffix.lower() != ".safetensors":
        raise MissingPart(
            f"{path.name} is no .safetensors file, and only those are read: others can run code. Convert it: "
            f"workbench convert {path.name} --out DIR"
        )
    return [path]


def _known() -> str:
    return ", ".join(shipped()) or "none"


def _tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    if path.stat().st_size > MOST_BYTES:
        raise CheckpointMismatch(f"{path} is {path.stat().st_size / 2**30:.1f} GiB; adapters of at most 4 are read.")
    try:
        opened: Any = safe_open(path, "pt")
        with opened as file:
            names: list[str] = list(file.keys())
            _refuse_strange(path, {name: file.get_slice(name) for name in names})
            meta: dict[str, str] = dict(file.metadata() or {})
            return {name: _finite(path, name, file.get_tensor(name)) for name in names}, meta
    except (SafetensorError, OSError, ValueError) as error:
        if isinstance(error, AskError):
            raise
        raise CheckpointMismatch(
            f"{path} is not a whole safetensors file ({error}). It is cut short or damaged: download it again."
        ) from None


def _refuse_strange(path: Path, slices: Mapping[str, Any]) -> None:
    """From the header alone: too many tensors, numbers of a kind that no adapter has, more numbers than bytes allow."""
    if len(slices) > MOST_TENSORS:
        raise CheckpointMismatch(
            f"{path} names {len(slices):,} tensors; adapters of at most {MOST_TENSORS:,} are read."
        )
    strange = next((name for name, part in slices.items() if part.get_dtype() not in _DTYPES), None)
    if strange is not None:
        raise CheckpointMismatch(f"{path}: {strange} is of kind {slices[strange].get_dtype()}; adapters hold floats.")
    if sum(prod(part.get_shape()) for part in slices.values()) * 4 > 2 * MOST_BYTES:
        raise CheckpointMismatch(f"{path} holds more numbers than an adapter has. Is it a whole model?")


def _finite(path: Path, name: str, value: Tensor) -> Tensor:
    value = value if value.dtype == torch.float64 else value.float()
    if not torch.isfinite(value).all():
        count = int((~torch.isfinite(value)).sum())
        raise CheckpointMismatch(
            f"{path}: {name} holds {count:,} values that are not finite (NaN or infinite). The adapter is damaged: "
            "download it or train it again."
        )
    return value


def _object(path: Path) -> dict[str, Any]:
    if path.is_file() and path.stat().st_size > MOST_NOTES:
        raise CheckpointMismatch(f"{path} is {path.stat().st_size >> 20} MiB; settings of at most 16 are read.")
    value = read_json(path)
    return {str(k): v for k, v in value.items()} if isinstance(value, dict) else {}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]


def _said(meta: Mapping[str, str]) -> dict[str, Any]:
    """peft's settings that diffusers puts into a file's metadata, of the part that draws."""
    try:
        value = json.loads(meta.get("lora_adapter_metadata", "{}"))
    except (ValueError, RecursionError):
        return {}
    if not isinstance(value, dict):
        return {}
    every: dict[str, Any] = {str(k): v for k, v in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    return {k.partition(".")[2]: v for k, v in every.items() if k.startswith(("unet.", "transformer."))}


# ---------------------------------------------------------------------------------------------------------- writing


def write(
    low_rank: LowRank, out: Path, form: Literal["peft", "kohya"] = "peft", *, shapes: Mapping[str, Sequence[int]] = {},
    dtype: torch.dtype = torch.float32, base: str = "", training: Mapping[str, Any] = {}) -> Path:  # fmt: skip
    """Write an adapter: a folder as peft lays it out, or a file as kohya's programs do; the path of the weights.

    `shapes` gives the shape [out, in, kh, kw] of changed convolutions, `base` the digest of the model it belongs to.
    alpha is the rank, so the factors are the very numbers that are read again. Raises `AskError` for an empty adapter
    and for parts that the form has no name for.
    """
    if not len(low_rank):
        raise AskError("This adapter changes nothing, so there is nothing to write.")
    tensors: dict[str, Tensor] = {}
    towers = sum(any(key.startswith(f"{part}:") for key in low_rank) for part in ("text", "text2"))
    for key, (up, down) in low_rank.factors.items():
        part, _, name = key.partition(":")
        if part not in _PARTS:
            raise AskError(f"{key}: files hold changes of {', '.join(_PARTS)}, not of {part}.")
        shape = tuple(shapes.get(key, ()))
        stem = name.removesuffix(".weight")
        if len(shape) == 4:
            up, down = up[:, :, None, None], down.reshape(-1, *shape[1:])
        if form == "kohya":
            names = kohya_names("text1" if part == "text" and towers > 1 else part, stem)
            tensors |= {names[0]: down, names[1]: up, names[2]: torch.tensor(float(up.shape[1]))}
        else:
            tensors |= {f"{peft_stem(part, stem)}.lora_A.weight": down, f"{peft_stem(part, stem)}.lora_B.weight": up}
    tensors = {name: value.detach().to("cpu", dtype).contiguous().clone() for name, value in tensors.items()}
    if form == "kohya":
        return _save(tensors, out, {"ss_network_module": "networks.lora", "workbench_base": base})
    write_json(out / CONFIG, _config(low_rank))
    if training or base:
        write_json(out / TRAINING, {**({"base": base} if base else {}), **training})
    return _save(tensors, out / PEFT, {"format": "pt"})


def peft_stem(part: str, stem: str) -> str:
    """A module's name in a peft file: what `PeftModel` reads of the part that draws, text towers under their own."""
    return f"base_model.model.{stem}" if part in ("unet", "transformer") else f"base_model.model.{_PARTS[part]}.{stem}"


def kohya_names(part: str, stem: str) -> tuple[str, str, str]:
    """The names of down, up and alpha of a module in a kohya file."""
    if part.startswith("text") and not stem.startswith("text_model."):
        stem = f"text_model.{stem}"
    name = f"{_KOHYA[part]}_{stem.replace('.', '_')}"
    return f"{name}.lora_down.weight", f"{name}.lora_up.weight", f"{name}.alpha"


def _config(low_rank: LowRank) -> dict[str, Any]:
    names = {key: peft_stem(key.partition(":")[0], key.partition(":")[2].removesuffix(".weight")) for key in low_rank}
    stems = {name.removeprefix("base_model.model."): low_rank.rank(key) for key, name in names.items()}
    rank = max(stems.values())
    other = {stem: own for stem, own in stems.items() if own != rank}
    return {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "rank_pattern": other, "alpha_pattern": other,
            "target_modules": sorted(stems), "lora_dropout": 0.0, "bias": "none", "use_rslora": False,
            "use_dora": False, "fan_in_fan_out": False, "inference_mode": True, "task_type": None,
            "base_model_name_or_path": None}  # fmt: skip


def _save(tensors: Mapping[str, Tensor], path: Path, meta: Mapping[str, str]) -> Path:
    from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]

    with whole(path) as draft:
        save_file(dict(tensors), draft, metadata={key: value for key, value in meta.items() if value})
    return path
