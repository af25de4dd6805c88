"""Original VAR checkpoints: which model a file holds, told from its names and shapes alone, and the folder it becomes.

Names and shapes decide depth, width, heads, scales, vocabulary, the kind of AdaLN and of attention, and whether
residuals are predicted; everything must then fit strictly. Masks and level numbers are worked out anew, but the level
numbers, where they are there, say how many tokens each scale has.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import gcd, isqrt
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from workbench.core.errors import AskError, CheckpointMismatch
from workbench.models.var.bundle import REFINER, check_pair
from workbench.models.var.pipeline import VARPipeline
from workbench.models.var.scheduler import VARScheduler
from workbench.models.var.transformer import BUFFERS, VARTransformer
from workbench.models.var.vq import MultiScaleVQ
from workbench.models.var_folder import role
from workbench.models.weights import header

Shapes = Mapping[str, tuple[int, ...]]

#: Published schedules, for checkpoints that lost their level numbers.
SCHEDULES = (
    (1, 2, 3, 4, 5, 6, 8, 10, 13, 16),
    (1, 2, 3, 4, 6, 9, 13, 18, 24, 32),
    (1, 2, 3, 4, 5, 7, 9, 12, 16, 21, 27, 36, 48, 64),
)
USED = "quantize.ema_vocab_hit_SV"


def transformer_config(shapes: Shapes, levels: Tensor | None = None, name: str = "the file") -> dict[str, Any]:
    """The settings of the transformer whose tensors have these shapes; `levels` is its `lvl_1L`.

    Raises `CheckpointMismatch` when they are not those of a VAR, or its schedule cannot be told.
    """
    try:
        width, vocab = shapes["head.weight"][1], shapes["head.weight"][0]
        area = len(shapes["pos_1LC"]) == 4
        qkv = shapes["blocks.0.attn.mat_qkv.weight"]
        scales = shapes.get("blocks.0.attn.scale_mul_1H11")
        config = {
            "depth": 1 + max(int(key.split(".")[1]) for key in shapes if key.startswith("blocks.")),
            "width": width, "heads": scales[1] if scales else max(width // 64, 1),
            "mlp_ratio": shapes["blocks.0.ffn.fc1.weight"][0] / qkv[1], "vocab_size": vocab,
            "latent_channels": shapes["word_embed.weight"][1],
            "num_classes": shapes["class_emb.weight"][0] - 1 if "class_emb.weight" in shapes else 0,
            "pooled_dim": shapes["text_emb.weight"][1] if "text_emb.weight" in shapes else 0,
            "prediction": "direct" if area else "residual", "position": "area" if area else "absolute",
            "shared_aln": "blocks.0.ada_gss" in shapes, "attn_l2_norm": scales is not None}  # fmt: skip
    except (KeyError, IndexError, ValueError) as error:
        raise CheckpointMismatch(f"{name} is no whole VAR transformer: it lacks {error}. Take the file anew.") from None
    sides = _sides(levels) or _published(shapes, area)
    if not sides:
        raise CheckpointMismatch(
            f"{name} has {shapes['pos_1LC'][1]} places and no level numbers (lvl_1L), so its schedule cannot be told. "
            "Take the original file."
        )
    return {**config, "patch_nums": sides}


def vq_config(shapes: Shapes, patch_nums: Sequence[int], name: str = "the file") -> dict[str, Any]:
    """The settings of the VQ whose tensors have these shapes, over a schedule. Raises `CheckpointMismatch`."""
    root = "quantize.quant_resi"
    try:
        channels, last = shapes["encoder.conv_in.weight"][0], shapes["decoder.up.0.block.0.conv2.weight"][0]
        levels = 1 + max(int(key.split(".")[2]) for key in shapes if key.startswith("encoder.down."))
        mult = [shapes[f"encoder.down.{i}.block.0.conv1.weight"][0] // channels for i in range(levels)]
        blocks = len({key.split(".")[4] for key in shapes if key.startswith("encoder.down.0.block.")})
        shared = sum(key.startswith(f"{root}.qresi_ls.") and key.endswith(".weight") for key in shapes)
        vocab, latent = shapes["quantize.embedding.weight"]
    except (KeyError, IndexError, ValueError) as error:
        raise CheckpointMismatch(f"{name} is no whole VQ of a VAR: it lacks {error}. Take the file anew.") from None
    decoder = last // mult[0]
    return {
        "patch_nums": list(patch_nums), "vocab_size": vocab, "latent_channels": latent, "channels": channels,
        "decoder_channels": None if decoder == channels else decoder, "channel_mult": mult, "layers_per_block": blocks,
        "norm_groups": gcd(32, channels, decoder),
        "share_quant_resi": shared or int(f"{root}.qresi.weight" in shapes)}  # fmt: skip


def fits(model: nn.Module, shapes: Shapes, name: str) -> None:
    """Raise `CheckpointMismatch` naming the first tensor that a model lacks, does not know or has otherwise."""
    mine = {key: tuple(value.shape) for key, value in model.state_dict().items() if key != USED}
    given = {key: tuple(shape) for key, shape in shapes.items() if _kept(key) and key != USED}
    wrong = sorted(key for key in {**mine, **given} if mine.get(key) != given.get(key))
    if wrong:
        first = wrong[0]
        raise CheckpointMismatch(
            f"{name}: {len(wrong)} tensors do not fit, first {first}: {given.get(first, 'not there')} where "
            f"{mine.get(first, 'none')} is wanted. The file is damaged or of another architecture."
        )


def assemble(files: Sequence[Path], out: Path) -> tuple[Path, ...]:
    """Make a model folder of converted files: one VQ, one transformer, maybe a smaller one that refines.

    The files themselves are taken up. Raises `AskError` when it is not those, `CheckpointMismatch` when they do not
    belong together.
    """
    found = {path: header(path)[0] for path in files}
    kinds = {path: role(shapes) for path, shapes in found.items()}
    vqs = [path for path in files if kinds[path] == "vq"]
    nets = [path for path in files if kinds[path] == "transformer"]
    if len(vqs) != 1 or not 1 <= len(nets) <= 2 or len(files) != len(vqs) + len(nets):
        told = ", ".join(f"{path.stem} ({kinds[path] or 'neither'})" for path in files)
        raise AskError(
            f"A VAR is one VQ and one transformer, or two of which the smaller refines; given: {told}. Convert the "
            "files of one model together: workbench convert vae.pth var.pth --out DIR."
        )
    configs = {path: transformer_config(found[path], _levels(path), path.stem) for path in nets}
    nets.sort(key=lambda path: (configs[path]["depth"], configs[path]["width"]), reverse=True)
    sides = configs[nets[0]]["patch_nums"]
    parts: dict[str, tuple[Path, Any]] = {}
    with torch.device("meta"):
        vq = MultiScaleVQ(**vq_config(found[vqs[0]], sides, vqs[0].stem), residual=_residual(configs[nets[0]]))
        fits(vq, found[vqs[0]], vqs[0].stem)
        parts["vq"] = vqs[0], vq
        for part, path in zip(("transformer", REFINER), nets, strict=False):
            net = VARTransformer(**configs[path])
            fits(net, found[path], path.stem)
            check_pair(vq, net, f"{path.stem} and {vqs[0].stem}")
            parts[part] = path, net
    made = [_written(part, path, model, out) for part, (path, model) in parts.items()]
    return (*made, *_settings(parts, sides, out))


def _written(part: str, path: Path, model: Any, out: Path) -> Path:
    """One part's folder: its configuration and its tensors."""
    folder = out / part
    folder.mkdir(parents=True)
    model.save_config(folder)
    with safe_open(path, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys() if _kept(key)}  # noqa: SIM118
    if part == "vq":
        config = model.config
        shape = (len(config.patch_nums), config.vocab_size)
        if tuple(tensors.get(USED, torch.empty(0)).shape) != shape:
            tensors[USED] = torch.zeros(shape)  # how often codes were used, at the scales of another schedule
    target = folder / "diffusion_pytorch_model.safetensors"
    save_file(tensors, target, metadata={"format": "pt"})
    path.unlink()
    return target


def _settings(parts: Mapping[str, Any], sides: Sequence[int], out: Path) -> tuple[Path, ...]:
    """The scheduler's folder and the index of all parts."""
    VARScheduler(patch_nums=tuple(sides)).save_config(out / "scheduler")
    classes = {name: type(model) for name, (_, model) in parts.items()} | {"scheduler": VARScheduler}
    index: dict[str, Any] = {"_class_name": VARPipeline.__name__}
    index |= {name: [cls.__module__, cls.__name__] for name, cls in classes.items()}
    index.setdefault(REFINER, [None, None])
    (out / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", "utf-8")
    return out / "scheduler" / "scheduler_config.json", out / "model_index.json"


def _residual(config: Mapping[str, Any]) -> bool:
    return config["prediction"] == "residual"


def _kept(key: str) -> bool:
    return key.rpartition(".")[2] not in BUFFERS


def _levels(path: Path) -> Tensor | None:
    with safe_open(path, "pt") as file:
        return file.get_tensor("lvl_1L") if "lvl_1L" in file.keys() else None  # noqa: SIM118


def _sides(levels: Tensor | None) -> list[int]:
    """The side of each scale from the level of every token; [] when they are no squares."""
    if levels is None:
        return []
    counts = torch.bincount(levels.long().flatten()).tolist()
    sides = [isqrt(count) for count in counts]
    return sides if all(side * side == count for side, count in zip(sides, counts, strict=True)) else []


def _published(shapes: Shapes, area: bool) -> list[int]:
    """A published schedule of as many places and scales; any will do where places are one table."""
    if area:
        return list(SCHEDULES[0])
    length, scales = shapes["pos_1LC"][1], shapes["lvl_embed.weight"][0]
    return next((list(s) for s in SCHEDULES if (sum(p * p for p in s), len(s)) == (length, scales)), [])
