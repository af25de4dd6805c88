"""Clip skip: states read out and normalised by hand, nothing at 0, too many refused."""

import pytest
import torch
from torch.testing import assert_close

from tests.tiny import tiny_sd, tiny_sdxl
from workbench.core.errors import AskError
from workbench.core.patch import fingerprint
from workbench.core.scene import using
from workbench.methods.generate.clip_skip import ClipSkip


@torch.no_grad()
def test_states_are_the_earlier_layers_through_the_final_norm() -> None:
    bundle = tiny_sd()
    encoder = bundle.parts["text"]
    plain = bundle.read(["a red cat"])
    hidden = encoder(plain.ids, output_hidden_states=True).hidden_states
    norm = next(module for name, module in encoder.named_modules() if name.endswith("final_layer_norm"))
    with using(bundle, ClipSkip(skip=1)) as edited:
        assert_close(edited.read(["a red cat"]).states, norm(hidden[1]))
    with using(bundle, ClipSkip(skip=0)) as edited:
        assert torch.equal(edited.read(["a red cat"]).states, plain.states)


@torch.no_grad()
def test_xl_reads_on_as_it_does_and_its_pooled_text_follows() -> None:
    bundle = tiny_sdxl()
    plain = bundle.read(["a red cat"])
    before = fingerprint(bundle)
    with using(bundle, ClipSkip(skip=1)) as edited:
        text = edited.read(["a red cat"])
    assert fingerprint(bundle) == before
    assert_close(text.states, plain.states)  # the layer before the last, with nothing after it
    assert text.pooled is not None
    assert not torch.equal(text.pooled, plain.pooled)


def test_more_layers_than_there_are_is_refused_and_leaves_no_trace() -> None:
    before = fingerprint(tiny_sd())
    refusal = pytest.raises(AskError, match="skip is 2; a text encoder of tiny-sd has 2 layers, so at most 1")
    with refusal, using(tiny_sd(), ClipSkip(skip=2)):
        pass
    assert fingerprint(tiny_sd()) == before


@torch.no_grad()
def test_a_seeded_number_of_the_tiny_model() -> None:
    with using(tiny_sd(), ClipSkip(skip=1)) as edited:
        states = edited.read(["a red cat"]).states
    plain = tiny_sd().read(["a red cat"]).states
    assert float((states - plain).norm() / plain.norm()) == pytest.approx(1.03566, rel=1e-3)
