"""Models of public architectures with random weights: what an edit takes at real size, measured without a file."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from workbench.core.bundle import Bundle
from workbench.models import blank_dit, kinds, single, unet
from workbench.models.pipeline import assemble, quiet, read_words
from workbench.models.weights import read_json


def blank(
    kind: single.Kind | blank_dit.Kind = "sd1",
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Bundle:
    """A model of a public configuration with random weights: Stable Diffusion 1.x (`sd1`), 2.x (`sd2`) or XL (`sdxl`).

    Of `pixart` (XL), `sd3` (medium) and `flux` (FLUX.1-dev) there are network and autoencoder, and prompts are read as
    noise. On the device `meta` it has shapes and no numbers. It draws noise, but its matrices are as many and as large
    as in the real model.
    """
    if kind == "pixart" or kind == "sd3" or kind == "flux":
        return blank_dit.blank_dit(kind, device=device, dtype=dtype, seed=seed)
    folder = single.configuration(single.Single(kind, 4, "epsilon", base=False))
    index = read_json(folder / "model_index.json")
    where = torch.device(device)
    with quiet(), torch.random.fork_rng(devices=[] if where.type != "cuda" else [where]):
        torch.manual_seed(seed)
        parts = {name: _part(folder / name, name, index[name], where, dtype) for name in (*kinds.SD.parts, "scheduler")
                 if isinstance(index.get(name), list) and index[name][1]}  # fmt: skip
        pipe = assemble(index["_class_name"], parts, index)
    return unet.from_pipeline(pipe, name=f"blank-{kind}", digest=f"blank-{kind}-{seed}-{dtype}")


def _part(folder: Path, name: str, named: Sequence[str], where: torch.device, dtype: torch.dtype) -> Any:
    import diffusers
    import transformers

    library, cls = named
    found: Any = getattr(diffusers if library == "diffusers" else transformers, cls)
    if name.startswith("tokenizer"):
        return read_words(found, folder)
    if name == "scheduler":
        return found.from_pretrained(folder)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    with where:
        module = found.from_config(config) if library == "diffusers" else found(found.config_class(**config))
    return module.to(dtype).eval()
