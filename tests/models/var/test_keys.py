"""Original checkpoints: names and shapes as published, settings told from them, folders made of them, mix-ups named."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.tiny import var_parts
from workbench.core.ask import Ask
from workbench.core.errors import AskError, CheckpointMismatch
from workbench.core.tape import ignore
from workbench.methods.decode.var import Var
from workbench.models.convert import convert
from workbench.models.load import load
from workbench.models.var import MultiScaleVQ, VARTransformer
from workbench.models.var.keys import fits, transformer_config, vq_config

HERE = Path(__file__).parent
SIDES = (1, 2, 3, 4, 6, 8)


def published() -> dict[str, tuple[int, ...]]:
    """Names and shapes of var_d16.pth."""
    lines = (HERE / "var_d16.txt").read_text().splitlines()
    return {name: tuple(map(int, shape.split("x"))) for name, shape in (line.split() for line in lines)}


def levels(sides: tuple[int, ...] = SIDES) -> Tensor:
    return torch.cat([torch.full((p * p,), k) for k, p in enumerate(sides)]).view(1, -1)


def original(net: VARTransformer) -> dict[str, Tensor]:
    """A state dict as the original program writes it, buffers and all."""
    length = net.pos_1LC.shape[1]
    zeros = {f"blocks.{i}.attn.zero_k_bias": torch.zeros(net.width) for i in range(len(net.blocks))}
    return {**net.state_dict(), **zeros, "lvl_1L": levels(), "attn_bias_for_masking": torch.zeros(1, 1, length, length)}


def shapes_of(state: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in state.items()}


def saved(state: dict[str, Any], path: Path) -> Path:
    torch.save(state, path)
    return path


def test_the_published_names_and_shapes_of_d16_are_those_of_the_transformer() -> None:
    config = transformer_config(published())
    assert config == {
        "depth": 16, "width": 1024, "heads": 16, "mlp_ratio": 4.0, "vocab_size": 4096, "latent_channels": 32,
        "num_classes": 1000, "pooled_dim": 0, "prediction": "residual", "position": "absolute", "shared_aln": False,
        "attn_l2_norm": True, "patch_nums": [1, 2, 3, 4, 5, 6, 8, 10, 13, 16]}  # fmt: skip
    with torch.device("meta"):
        fits(VARTransformer(**config), published(), "var_d16")


def test_the_published_names_and_shapes_of_the_vq_are_those_of_the_autoencoder() -> None:
    layout: Any = json.loads((HERE / "vq_layout.json").read_text())
    shapes = {name: tuple(shape) for name, shape in dict(layout).items()}
    config = vq_config(shapes, [1, 2, 3, 4, 5, 6, 8, 10, 13, 16])
    expected = {"channels": 160, "channel_mult": [1, 1, 2, 2, 4], "layers_per_block": 2, "share_quant_resi": 4}
    assert {key: config[key] for key in expected} == expected
    with torch.device("meta"):
        fits(MultiScaleVQ(**config), shapes, "vae")


@pytest.mark.parametrize(
    "changes",
    [{}, {"shared_aln": True}, {"attn_l2_norm": False, "width": 128}, {"num_classes": 0}, {"mlp_ratio": 2.0}],
    ids=["plain", "shared", "dot", "text", "narrow"],
)
def test_settings_are_told_from_names_and_shapes(changes: dict[str, Any]) -> None:
    common = {"depth": 2, "heads": 2, "width": 32, "patch_nums": SIDES, "vocab_size": 24, "latent_channels": 4}
    settings = {**common, "num_classes": 5, "pooled_dim": 12, **changes}
    net = VARTransformer(**settings)
    config = transformer_config(shapes_of(net.state_dict()), levels())
    assert {key: config[key] for key in settings if key != "patch_nums"} == \
        {key: value for key, value in settings.items() if key != "patch_nums"}  # fmt: skip
    assert config["patch_nums"] == list(SIDES)
    fits(VARTransformer(**config), shapes_of(net.state_dict()), "again")


def test_a_table_of_places_means_direct_prediction() -> None:
    net = var_parts(prediction="direct")[1]
    config = transformer_config(shapes_of(net.state_dict()))
    assert (config["prediction"], config["position"]) == ("direct", "area")


def test_files_of_one_model_become_a_folder_that_loads(tmp_path: Path) -> None:
    """A training checkpoint with its wrapping, a plain VQ and a smaller transformer, in any order."""
    (vq, net), refiner = var_parts(), var_parts(1, depth=1)[1]
    wrapped = {"trainer": {"var_wo_ddp": original(net), "vae_local": vq.state_dict()}, "epoch": 3}
    files = [
        saved(original(refiner), tmp_path / "small.pth"),
        saved(wrapped, tmp_path / "ar-ckpt.pth"),
        saved(dict(vq.state_dict()), tmp_path / "vae.pth"),
    ]
    made = convert(files, tmp_path / "out")
    assert all(path.is_file() for path in made)
    assert not list((tmp_path / "out").glob("*.safetensors"))
    bundle = load(str(tmp_path / "out"))
    assert (bundle.family, bundle.sampler, bundle.about["refiner"]) == ("var", "var", True)
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in bundle.parts["var"].state_dict().items())
    assert len(bundle.open("refiner").parts["var"].blocks) == 1  # type: ignore[arg-type]
    assert Var(top_p=0.9).sample(bundle, Ask(prompts="class:2"), ignore).shape == (1, 3, 16, 16)


def test_wrong_and_mixed_up_files_are_one_line_and_leave_nothing(tmp_path: Path) -> None:
    vq, net = var_parts()
    vae = saved(dict(vq.state_dict()), tmp_path / "vae.pth")
    var = saved(original(net), tmp_path / "var.pth")
    other = MultiScaleVQ(patch_nums=SIDES, vocab_size=30, latent_channels=4, channels=8, channel_mult=(1, 1),
                         layers_per_block=1, norm_groups=4)  # fmt: skip
    strange = saved(dict(other.state_dict()), tmp_path / "strange.pth")
    broken = original(net)
    del broken["blocks.1.ffn.fc2.bias"]
    torn = saved(broken, tmp_path / "torn.pth")
    nameless = original(net)
    del nameless["lvl_1L"]
    lost = saved(nameless, tmp_path / "lost.pth")
    for files, kind, words in (
        ([vae], AskError, r"A VAR is one VQ and one transformer.* given: vae \(vq\)"),
        ([var], AskError, r"given: var \(transformer\)"),
        ([strange, var], CheckpointMismatch, "differ in their codes in the vocabulary: 30 and 24"),
        (
            [vae, torn],
            CheckpointMismatch,
            r"1 tensors do not fit, first blocks.1.ffn.fc2.bias: not there where \(32,\)",
        ),
        ([vae, lost], CheckpointMismatch, "lost has 130 places and no level numbers"),
    ):
        with pytest.raises(kind, match=words):
            convert(files, tmp_path / "out")
        assert not list((tmp_path / "out").rglob("*.safetensors"))


def test_a_file_that_lacks_what_tells_it_apart_is_named() -> None:
    with pytest.raises(CheckpointMismatch, match=r"x is no whole VAR transformer: it lacks 'head.weight'"):
        transformer_config({"pos_start": (1, 1, 8)}, name="x")
    with pytest.raises(CheckpointMismatch, match="x is no whole VQ of a VAR"):
        vq_config({"encoder.conv_in.weight": (8, 3, 3, 3)}, SIDES, "x")


def test_safetensors_are_read_from_headers_alone(tmp_path: Path) -> None:
    net = var_parts()[1]
    save_file({key: value.contiguous() for key, value in net.state_dict().items()}, tmp_path / "a.safetensors")
    from workbench.models.weights import header

    assert transformer_config(header(tmp_path / "a.safetensors")[0], levels())["depth"] == 2
