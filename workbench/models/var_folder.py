"""The layout of a VAR on disk, told without loading anything: a folder of parts, or original state dicts."""

from collections.abc import Mapping
from pathlib import Path

from workbench.core.errors import MissingPart
from workbench.models.weights import read_json

PIPELINE = "VARPipeline"
#: Part -> whether a VAR can do without.
PARTS = {"vq": False, "transformer": False, "refiner": True}


def is_var(folder: Path) -> bool:
    """Whether a folder's model_index.json says that it is a VAR."""
    index = folder / "model_index.json"
    return index.is_file() and read_json(index).get("_class_name") == PIPELINE


def parts(folder: Path) -> tuple[str, ...]:
    """The parts that a VAR folder holds. Raises `MissingPart` when one is not there.

    Which classes they are is not read from the folder: nothing is imported by a name that a file gives.
    """
    there = tuple(part for part in PARTS if (folder / part / "config.json").is_file())
    missing = [part for part, optional in PARTS.items() if not optional and part not in there]
    if missing:
        raise MissingPart(f"{folder} lacks {' and '.join(missing)}; a {PIPELINE} needs vq and transformer.")
    return there


def role(shapes: Mapping[str, object]) -> str:
    """What an original state dict is, by its names: vq, transformer, or "" for anything else."""
    if "quantize.embedding.weight" in shapes and "encoder.conv_in.weight" in shapes:
        return "vq"
    return "transformer" if "blocks.0.attn.mat_qkv.weight" in shapes and "pos_start" in shapes else ""
