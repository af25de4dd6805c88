"""Places are found under the names of every program."""

import pytest

from tests.tiny import tiny_sd, tiny_sdxl
from workbench.blocks.adapter_index import Index

PLACE = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"


@pytest.mark.parametrize(
    "name",
    [PLACE, f"unet.{PLACE}", f"base_model.model.{PLACE}", f"base_model.model.unet.{PLACE}", f"transformer.{PLACE}",
     "lora_unet_" + PLACE.replace(".", "_"), "lycoris_" + PLACE.replace(".", "_"), f"diffusion_model.{PLACE}"],
)  # fmt: skip
def test_a_place_has_one_name_however_it_is_said(name: str) -> None:
    spot = Index(tiny_sd()).find(name)
    assert spot is not None
    assert (spot.stem, spot.renamed) == (f"unet:{PLACE}", False)


@pytest.mark.parametrize(
    ("name", "part"),
    [("lora_te1_text_model_encoder_layers_1_self_attn_k_proj", "text"),
     ("lora_te2_text_model_encoder_layers_1_self_attn_k_proj", "text2"),
     ("text_encoder.text_model.encoder.layers.1.self_attn.k_proj", "text"),
     ("text_encoder_2.encoder.layers.1.self_attn.k_proj", "text2"),
     ("base_model.model.text_encoder_2.text_model.encoder.layers.1.self_attn.k_proj", "text2"),
     ("base_model.model.text_model.encoder.layers.1.self_attn.k_proj", "text")],
)  # fmt: skip
def test_towers_are_told_apart_with_or_without_their_first_word(name: str, part: str) -> None:
    spot = Index(tiny_sdxl()).find(name)
    assert spot is not None
    assert spot.stem.startswith(f"{part}:")
    assert spot.stem.endswith("encoder.layers.1.self_attn.k_proj")


def test_other_programs_names_are_translated() -> None:
    spot = Index(tiny_sd()).find("lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q")
    assert spot is not None
    assert (spot.stem, spot.renamed) == (f"unet:{PLACE}", True)


@pytest.mark.parametrize("name", ["", "nothing", "unet", "lora_te3_x", "unet.down_blocks.7.conv"])
def test_what_is_not_there_is_not_found(name: str) -> None:
    assert Index(tiny_sd()).find(name) is None


def test_shapes_are_those_of_the_parameters() -> None:
    index = Index(tiny_sd())
    for stem in list(index.modules)[:20]:
        for name, value in index.modules[stem].named_parameters(recurse=False):
            assert index.shapes[f"{stem}.{name}"] == tuple(value.shape)
