"""Concept attention on SD3 and FLUX as the loader reads them: both streams, all blocks, guidance, long texts."""

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.tiny import tiny_flux, tiny_sd3
from workbench.core.ask import Ask
from workbench.core.patch import fingerprint
from workbench.core.report import Film
from workbench.core.scene import Scene
from workbench.methods.generate.diffuse import Diffuse
from workbench.methods.inspect.concept_attention import ConceptAttention, concept

ASK = Ask(prompts=["a cat on the red dog", "the dog"], seeds=[1, 2])
WORDS = ("cat", "flat", "the red dog")
MODELS = {"sd3": tiny_sd3, "flux": tiny_flux}
each = pytest.mark.parametrize("name", MODELS)


@each
def test_maps_share_out_each_place_and_the_picture_is_untouched(name: str) -> None:
    bundle = MODELS[name]()
    scene = Scene(bundle, Diffuse(scheduler="euler", steps=2, guidance=3.0), (), ASK)
    before, plain = fingerprint(bundle), scene.run()
    report = ConceptAttention(words=WORDS, steps=2).look(scene)
    assert fingerprint(bundle) == before
    found = [panel for panel in report.panels if isinstance(panel, Film)]
    for film, image in zip(found, plain, strict=True):
        assert film.frames.shape == (3, 4, 4)
        assert np.allclose(film.frames.sum(0), 1, atol=1e-5)
        assert np.ptp(film.frames, axis=(1, 2)).min() > 1e-4  # places differ in what they are near to
        assert film.over is not None
        assert np.array_equal(film.over, image.permute(1, 2, 0).numpy())


def test_layers_of_flux_are_those_with_two_streams() -> None:
    scene = Scene(tiny_flux(), Diffuse(scheduler="euler", steps=1, guidance=1.0), (), ASK.row(0))
    last = ConceptAttention(words=WORDS, steps=1).look(scene).panels[0]
    named = ConceptAttention(words=WORDS, steps=1, layers=(1, 1)).look(scene).panels[0]
    other = ConceptAttention(words=WORDS, steps=1, layers=(0, 0)).look(scene).panels[0]
    assert isinstance(last, Film)
    assert isinstance(named, Film)
    assert isinstance(other, Film)
    assert np.array_equal(last.frames, named.frames)
    assert not np.allclose(last.frames, other.frames, atol=1e-4)


def test_a_concept_is_the_mean_of_its_words_states_with_or_without_a_start_token() -> None:
    def states(bundle_read: Tensor, places: slice) -> Tensor:
        return bundle_read[:, places].mean(1, keepdim=True)

    clip, t5 = tiny_sd3().read(["red cat"]), tiny_flux().read(["red cat"])
    torch.testing.assert_close(concept(tiny_sd3(), "red cat"), states(clip.states, slice(1, 3)))
    torch.testing.assert_close(concept(tiny_flux(), "red cat"), states(t5.states, slice(0, 2)))
