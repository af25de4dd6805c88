"""Matrices by our names, whatever modules hold them."""

import torch

from tests.tiny import flux_pipe, sd3_pipe, sd_pipe
from workbench.models import handles


def test_a_joint_attention_has_two_sets_of_projections() -> None:
    module = sd3_pipe().transformer.transformer_blocks[0].attn
    found = handles.attention("transformer:a", module)
    assert set(found) == {*handles.OWN, *handles.TEXT}
    assert found["text_key"].weight is module.add_k_proj.weight
    assert found["out"].key == "transformer:a.to_out.0.weight"


def test_what_a_module_lacks_is_no_handle() -> None:
    single = flux_pipe().transformer.single_transformer_blocks[0].attn
    assert set(handles.attention("transformer:s", single)) == {"query", "key", "value"}


def test_a_gated_mlp_shares_one_matrix_between_up_and_gate() -> None:
    ff = next(module for name, module in sd_pipe().unet.named_modules() if name.endswith("ff"))
    found = handles.mlp("unet:ff", ff)
    assert set(found) == {"up", "gate", "down"}
    assert torch.equal(torch.cat([found["up"].weight, found["gate"].weight]), ff.net[0].proj.weight)
    plain = handles.mlp("transformer:ff", sd3_pipe().transformer.transformer_blocks[0].ff)
    assert set(plain) == {"up", "down"}
