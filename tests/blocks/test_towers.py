"""The layers of text encoders, and a layer that passes on what it is given."""

import dataclasses

import pytest
import torch
from torch import nn

from tests.tiny import tiny_sd, tiny_sdxl
from workbench.blocks.towers import pass_on, towers
from workbench.core.errors import MissingPart


def test_every_text_encoder_has_its_layers() -> None:
    assert [len(layers) for layers in towers(tiny_sd())] == [2]
    assert [len(layers) for layers in towers(tiny_sdxl())] == [2, 2]
    with pytest.raises(MissingPart, match="tiny-sd has no text encoder with layers"):
        towers(dataclasses.replace(tiny_sd(), parts={"text": nn.Linear(1, 1)}))


def test_passing_on_keeps_the_form_of_the_output() -> None:
    given, other = torch.ones(1), torch.zeros(1)
    assert pass_on(nn.Identity(), (given,), {}, other) is given
    assert pass_on(nn.Identity(), (), {"mask": None, "hidden_states": given}, other) is given
    assert pass_on(nn.Identity(), (given,), {}, (other, "more")) == (given, "more")
