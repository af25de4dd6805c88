"""Edited SD3, PixArt and FLUX models as folders that plain diffusers opens."""

from pathlib import Path
from typing import Any

import pytest
import torch

from workbench.core.ask import Ask
from workbench.core.delta import Delta
from workbench.core.patch import Patch
from workbench.methods.generate.diffuse import Diffuse
from workbench.models.export import write_folder, write_lora
from workbench.models.load import load
from workbench.models.reference import reference


@pytest.mark.parametrize("name", ["sd3", "sd3-short", "pixart", "flux"])
def test_an_edited_folder_draws_what_the_edited_model_drew(patches: Path, tmp_path: Path, name: str) -> None:
    bundle, out = load(str(patches / name)), tmp_path / "out"
    sites = [*bundle.sites("self-attention")[:1], *bundle.sites("cross-attention")[:1]]
    delta = Delta("weights", {site.value.key: -0.5 * site.value.weight for site in sites})
    ask, settings = Ask(prompts="the red cat"), {"scheduler": "euler", "steps": 2}
    plain = Diffuse(**settings).sample(bundle, ask, lambda step: None)
    with Patch(bundle) as patch:
        patch.delta(delta)
        edited = Diffuse(**settings).sample(bundle, ask, lambda step: None)
        write_folder(bundle, {site.value.key: site.value.weight for site in sites}, out)
    assert not torch.equal(edited, plain)
    again = Diffuse(**settings).sample(load(str(out)), ask, lambda step: None)
    assert torch.equal(again, edited)
    theirs = reference(str(out), **settings)(ask)
    assert (theirs.int() - edited.int()).abs().max() <= 1


def test_a_lora_of_a_transformer_is_read_by_diffusers(patches: Path, tmp_path: Path) -> None:
    from workbench.models.files import find
    from workbench.models.load import pipeline
    from workbench.models.placement import choose

    bundle = load(str(patches / "sd3"))
    site = bundle.sites("self-attention")[0]
    up, down = torch.randn(2, 32, 3, generator=torch.Generator().manual_seed(0)).unbind(0)
    path = write_lora({site.value.key: (up, down.T.contiguous())}, tmp_path / "lora", {})
    found = find(str(patches / "sd3"))
    assert found is not None
    pipe: Any = pipeline(found, choose("cpu"))
    pipe.load_lora_weights(str(path))
    module = pipe.transformer.transformer_blocks[0].attn.to_v
    x = torch.randn(2, 32, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(module(x), module.base_layer(x) + x @ (up @ down.T).T, atol=1e-4, rtol=1e-4)
