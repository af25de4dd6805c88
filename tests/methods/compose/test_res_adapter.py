"""ResAdapter: a pair of files in the authors' layout, norms in between, and its neutral setting."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from tests.loras import saved
from tests.tiny import SIDE, tiny_sd
from workbench.blocks.denoise import condition
from workbench.core.ask import Ask
from workbench.core.bundle import Bundle
from workbench.core.patch import Patch
from workbench.core.scene import using
from workbench.methods.compose.res_adapter import ResAdapter


def files(folder: Path) -> dict[str, Tensor]:
    """kohya's names for the sampling convolutions, and whole norms under diffusers' names; what each weight becomes."""
    draw, wanted = torch.Generator().manual_seed(0), dict[str, Tensor]()
    convolutions: dict[str, Tensor] = {}
    norms: dict[str, Tensor] = {}
    for path, module in tiny_sd().parts["unet"].named_modules():
        if isinstance(module, nn.Conv2d) and "samplers" in path:
            stem = f"lora_unet_{path.replace('.', '_')}"
            down = torch.randn(2, *module.weight.shape[1:], generator=draw) / 4
            up = torch.randn(len(module.weight), 2, 1, 1, generator=draw) / 4
            convolutions |= {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up,
                             f"{stem}.alpha": torch.tensor(1.0)}  # fmt: skip
            change = torch.einsum("or,rikl->oikl", up[:, :, 0, 0], down) / 2
            wanted[f"unet:{path}.weight"] = module.weight.detach() + change
        if isinstance(module, nn.GroupNorm) and "resnets" in path:
            for name, own in module.named_parameters():
                norms[f"{path}.{name}"] = own.detach() + torch.randn(own.shape, generator=draw) / 2
                wanted[f"unet:{path}.{name}"] = norms[f"{path}.{name}"]
    saved(convolutions, folder / "pytorch_lora_weights.safetensors")
    saved(norms, folder / "diffusion_pytorch_model.safetensors")
    assert convolutions
    assert norms
    return wanted


def said(bundle: Bundle) -> Tensor:
    x = torch.randn(1, 4, SIDE, SIDE, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        told = condition(bundle, Ask(prompts=("a cat",)), False, (2 * SIDE, 2 * SIDE))
        return bundle.predict(x, torch.tensor([300]), told)


@pytest.mark.parametrize(("strength", "norms"), [(1.0, None), (0.4, None), (0.5, 1.0)])
def test_convolutions_and_norms_are_in_between(strength: float, norms: float | None, tmp_path: Path) -> None:
    wanted, bundle = files(tmp_path), tiny_sd()
    with using(bundle, ResAdapter(adapters=[str(tmp_path)], strength=strength, norms=norms)):
        live = said(bundle)
    with Patch(bundle) as patch:
        for key, value in wanted.items():
            owner, name = patch.find(key)
            own = getattr(owner, name).detach()
            share = norms if norms is not None and "norm" in key else strength
            patch.put(owner, name, nn.Parameter(own + share * (value - own), requires_grad=False))
        assert_close(live, said(bundle), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(live, said(bundle), atol=1e-3)


def test_strength_zero_changes_nothing_bit_for_bit(tmp_path: Path) -> None:
    files(tmp_path)
    with using(tiny_sd(), ResAdapter(adapters=[str(tmp_path)], strength=0.0)) as bundle:
        assert torch.equal(said(bundle), said(bundle))
        found = said(bundle)
    assert torch.equal(found, said(tiny_sd()))
