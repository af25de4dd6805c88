"""Text lens: the last layer draws the ordinary picture, earlier ones equal states read out and normalised by hand."""

import dataclasses

import numpy as np
import pytest
import torch

from tests.tiny import tiny_sd, tiny_sdxl
from workbench.core.ask import Ask
from workbench.core.bundle import TextStates
from workbench.core.errors import MissingPart
from workbench.core.patch import Patch, fingerprint
from workbench.core.report import Curve, Film
from workbench.core.scene import Scene
from workbench.methods.generate.diffuse import Diffuse
from workbench.methods.inspect.text_lens import TextLens

ASK = Ask(prompts=["a cat", "the red dog"], seeds=[1, 2])


def scene(make=tiny_sd) -> Scene:
    return Scene(make(), Diffuse(steps=2, guidance=3.0), (), ASK)


@pytest.mark.parametrize("make", [tiny_sd, tiny_sdxl])
def test_the_last_layer_is_the_ordinary_picture_bit_for_bit(make) -> None:
    plain = scene(make).run().permute(0, 2, 3, 1).numpy()
    before = fingerprint(make())
    report = TextLens().look(scene(make))
    assert fingerprint(make()) == before
    assert report.problems() == []
    for film, image in zip([p for p in report.panels if isinstance(p, Film)], plain, strict=True):
        assert film.labels == ("layer 1 of 2", "layer 2 of 2")
        assert np.array_equal(film.frames[-1], image)
    curve = report.panels[-1]
    assert isinstance(curve, Curve)
    assert curve.ys[0, -1] == 0
    assert curve.ys[0, 0] > 0 or make is tiny_sdxl  # XL reads the layer before the last: its two layers are one


@torch.no_grad()
def test_the_first_layer_equals_its_states_through_the_final_norm() -> None:
    bundle = tiny_sd()
    encoder = bundle.parts["text"]

    def by_hand(read):
        def told(prompts):
            text = read(prompts)
            hidden = encoder(text.ids, output_hidden_states=True).hidden_states[1]
            return TextStates(encoder.get_submodule(norm)(hidden), ids=text.ids)

        return told

    norm = next(name for name, _ in encoder.named_modules() if name.endswith("final_layer_norm"))
    with Patch(bundle) as patch:
        patch.wrap("read", by_hand)
        slow = scene().run().permute(0, 2, 3, 1).numpy()
    films = [p for p in TextLens().look(scene()).panels if isinstance(p, Film)]
    for film, image in zip(films, slow, strict=True):
        assert np.abs(film.frames[0].astype(int) - image).max() <= 1  # rounding to a grey level


def test_a_model_without_a_text_encoder_is_refused() -> None:
    parts = {name: part for name, part in tiny_sd().parts.items() if name != "text"}
    bare = dataclasses.replace(tiny_sd(), parts=parts)
    with pytest.raises(MissingPart, match="tiny-sd has no text encoder"):
        TextLens().look(Scene(bare, Diffuse(steps=1), (), ASK))
