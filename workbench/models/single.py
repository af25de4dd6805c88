"""Single-file Stable Diffusion checkpoints: which architecture the names and shapes say, and the configuration for it.

The configurations in assets/configs are the published facts of SD 1.x, SD 2.x and SDXL; the vocabulary of CLIP is made
from its list of merges. Both are laid out in the cache at first use, so that a single file loads without a network.
"""

import hashlib
import json
import lzma
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from workbench.core.errors import CheckpointMismatch, MissingPart, UnsupportedFamily
from workbench.core.places import ASSETS, CACHE

Kind = Literal["sd1", "sd2", "sdxl"]
Header = Mapping[str, tuple[int, ...]]

_UNET = "model.diffusion_model."
_VAE = "first_stage_model."
_TEXT: dict[Kind, tuple[str, ...]] = {
    "sd1": ("cond_stage_model.transformer.text_model.", "cond_stage_model.transformer.embeddings."),
    "sd2": ("cond_stage_model.model.",),
    "sdxl": ("conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."),
}
#: Width of the text states that cross-attention reads -> architecture.
_WIDTHS: dict[int, Kind] = {768: "sd1", 1024: "sd2", 2048: "sdxl"}
_FOREIGN = {
    "double_blocks.": "a FLUX model", "joint_blocks.": "an SD3 model", "control_model.": "a ControlNet",
    "lora_unet_": "a LoRA", "lora_te": "a LoRA", ".lora_A.": "a LoRA", ".lora_B.": "a LoRA", ".lora_down.": "a LoRA",
    ".lora.up.": "a LoRA"}  # fmt: skip


@dataclass(frozen=True)
class Single:
    """What a single file is: architecture, input channels of the network, and how it was trained to predict."""

    kind: Kind
    channels: int
    prediction: str
    base: bool
    zero_snr: bool = False


def detect(name: str, tensors: Header, meta: Mapping[str, str]) -> Single:
    """The architecture of a file in the original layout, by names and shapes alone.

    SD 2.x at 512 and 768 pixels have the same shapes: the metadata's `modelspec.prediction_type` decides, else a name
    with "base" or "512" means epsilon at 512 pixels. Raises `UnsupportedFamily` or `MissingPart`.
    """
    first = tensors.get(f"{_UNET}input_blocks.0.0.weight")
    if first is None:
        raise UnsupportedFamily(
            f"{name} is {_foreign(tensors)}; read here: whole SD 1.x, SD 2.x and SDXL checkpoints,"
            " and diffusers folders of SD3, PixArt and FLUX."
        )
    keys = [key for key in tensors if key.startswith(_UNET) and key.endswith("attn2.to_k.weight")]
    width = tensors[keys[0]][-1] if keys else 0
    if width not in _WIDTHS:
        what = "an SDXL refiner" if width == 1280 else f"a model with text width {width}"
        raise UnsupportedFamily(f"{name} is {what}; read here: SD 1.x (768), SD 2.x (1024) and SDXL base (2048).")
    kind = _WIDTHS[width]
    for part, prefixes in (("picture decoder", (_VAE,)), ("text encoder", _TEXT[kind])):
        lacking = [prefix for prefix in prefixes if not any(key.startswith(prefix) for key in tensors)]
        if len(lacking) == len(prefixes) or (kind == "sdxl" and lacking):
            raise MissingPart(
                f"{name} has no {part} ({lacking[0]}*), so it is not a whole checkpoint. Take the full file."
            )
    base = kind == "sd2" and ("base" in name.lower() or "512" in name)
    said = meta.get("modelspec.prediction_type", "")
    velocity = said.startswith("v") if said else ("v_pred" in tensors or (kind == "sd2" and not base))
    return Single(kind, first[1], "v_prediction" if velocity else "epsilon", base, "ztsnr" in tensors)


def configuration(found: Single) -> Path:
    """A folder of configurations and tokenizers for a single file, in the layout of a diffusers pipeline."""
    source = ASSETS / "configs" / found.kind
    if not source.is_dir():
        raise MissingPart(f"The configurations of {found.kind} are not in {source}. Install the package again.")
    files = {path.relative_to(source).as_posix(): path.read_bytes() for path in sorted(source.rglob("*.json"))}
    _adapt(files, found)
    packed = (ASSETS / "configs" / "clip-merges.txt.xz").read_bytes()
    mark = hashlib.sha256(b"\0".join([packed, *(name.encode() + data for name, data in sorted(files.items()))]))
    folder = CACHE / "configs" / f"{found.kind}-{mark.hexdigest()[:12]}"
    if not folder.is_dir():
        merges = lzma.decompress(packed)
        words = json.dumps(vocabulary(merges.decode()), ensure_ascii=False).encode()
        for room in {name.split("/")[0] for name in files if name.startswith("tokenizer")}:
            files |= {f"{room}/merges.txt": merges, f"{room}/vocab.json": words}
        _lay_out(folder, files)
    return folder


def vocabulary(merges: str) -> dict[str, int]:
    """CLIP's token ids from its list of merges: 256 bytes, the same ending a word, one a merge, start and end."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    symbols = [chr(byte) for byte in printable] + [chr(256 + n) for n in range(len(others))]
    pairs = [line for line in merges.split("\n")[1:] if line]
    words = [*symbols, *(symbol + "</w>" for symbol in symbols), *("".join(pair.split()) for pair in pairs)]
    return {word: i for i, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}


def _adapt(files: dict[str, bytes], found: Single) -> None:
    """Write what the file says of itself into the configurations."""

    def change(name: str, **values: Any) -> None:
        files[name] = json.dumps({**json.loads(files[name]), **values}, indent=2, sort_keys=True).encode()

    change("unet/config.json", in_channels=found.channels)
    change("scheduler/scheduler_config.json", prediction_type=found.prediction)
    if found.zero_snr:
        change("scheduler/scheduler_config.json", rescale_betas_zero_snr=True)
    if found.base:
        change("unet/config.json", sample_size=64, upcast_attention=False)
        change("vae/config.json", sample_size=512)


def _lay_out(folder: Path, files: Mapping[str, bytes]) -> None:
    draft = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    try:
        for name, data in files.items():
            path = draft / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        if not folder.is_dir():
            draft.rename(folder)
    except OSError as error:
        if not folder.is_dir():  # another process may have been quicker
            raise CheckpointMismatch(
                f"The configuration cannot be written to {folder} ({error.strerror}). Free some space there, or set "
                "WORKBENCH_CACHE to another folder."
            ) from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _foreign(tensors: Header) -> str:
    for key in tensors:
        for sign, what in _FOREIGN.items():
            if sign in key:
                return what
    if any(key.startswith(("down_blocks.", "encoder.", "text_model.")) for key in tensors):
        return "one part of a model (give the folder above it, with model_index.json)"
    return "not in the layout of Stable Diffusion"
