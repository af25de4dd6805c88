"""First-generation names against diffusers' own translation of a checkpoint's names."""

import re

import pytest
import torch
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

from tests.loras import real_size
from workbench.models.adapter_names import unet_names


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_names_are_those_that_diffusers_translates(kind: str) -> None:
    """A made-up checkpoint under our first-generation names comes out under the paths that we say."""
    unet = real_size(kind).parts["unet"]
    names = unet_names(unet)
    weights = dict(unet.named_parameters())
    said = {path.partition(":")[2]: name.partition(":")[2] for name, path in names.items()}
    stems = {path: said[path.rpartition(".")[0]] for path in weights if path.rpartition(".")[0] in said}
    assert len(stems) == len(weights)
    old = {path: f"model.diffusion_model.{dotted(stem, path)}" for path, stem in stems.items()}
    checkpoint = {old[path]: torch.empty(value.shape, device="meta") for path, value in weights.items()}
    back = convert_ldm_unet_checkpoint(dict(checkpoint), config=dict(unet.config))
    for path, name in old.items():
        assert back[path] is checkpoint[name], path


def dotted(name: str, path: str) -> str:
    """A first-generation name with its dots: numbers stand alone, what follows them is said as in diffusers' path."""
    head = re.match(r"(input_blocks|output_blocks|middle_block|time_embed|label_emb|out)((?:_\d+)+)_?(.*)$", name)
    assert head is not None, name
    stem, _, kind = path.rpartition(".")
    words = stem.split(".")
    tails = {"_".join(words[i:]): ".".join(words[i:]) for i in range(len(words))}
    rest = tails.get(head[3]) or re.sub(r"_layers_(\d)", r"_layers.\1", head[3])
    return ".".join(word for word in (head[1] + head[2].replace("_", "."), rest, kind) if word)
