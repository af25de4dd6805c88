"""Open word maps: keys of another text written slowly, equal to token maps where the text is the prompt's own."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.tiny import tiny_sd, tiny_sdxl
from tests.toys import Fade, ReadTwice
from workbench.blocks.spans import spans
from workbench.core.ask import Ask
from workbench.core.errors import AskError
from workbench.core.patch import Patch, fingerprint
from workbench.core.report import Film, Report
from workbench.core.scene import Scene
from workbench.methods.generate.diffuse import Diffuse
from workbench.methods.inspect.open_word_maps import OpenWordMaps
from workbench.methods.inspect.token_maps import TokenMaps

ASK = Ask(prompts=["a cat and the red dog", "the dog"], seeds=[1, 2])


def scene(make=tiny_sd, *edits, ask: Ask = ASK) -> Scene:
    return Scene(make(), Diffuse(steps=2, guidance=3.0), edits, ask)


def films(report: Report) -> list[Film]:
    assert report.problems() == []
    return [panel for panel in report.panels if isinstance(panel, Film)]


@torch.no_grad()
def test_it_equals_the_other_keys_written_slowly() -> None:
    bundle, kept = tiny_sd(), {}
    sites = [s for s in bundle.sites("cross-attention") if s.side != "mid" and s.level == 0]
    with Patch(bundle) as patch:
        for site in sites:

            def watch(call, name=site.name):
                kept.setdefault(name, []).append(call.query.double()[-2:])
                return call.run()

            patch.attend(site, watch)
        scene().run()
    text = "a flat and a bird"
    states = bundle.read([text]).states[0].double()
    (at,) = spans(bundle, text, "bird")
    slow = np.zeros((8, 8))
    for site in sites:
        keys = states @ site.module.to_k.weight.double().T
        keys = keys.unflatten(-1, (site.heads, -1)).transpose(0, 1)  # [A, L, d]
        for query in kept[site.name]:
            w: Tensor = (query[0] @ keys.mT / math.sqrt(keys.shape[-1])).softmax(-1)
            slow += w[:, :, at].mean((0, 2)).reshape(8, 8).numpy() / 2 / len(sites)
    fast = films(OpenWordMaps(words=("flat", "bird"), relative=False).look(scene()))[0]
    assert fast.labels == ("flat", "bird")
    assert np.abs(fast.frames[1] - slow).max() < 2e-6  # sums of two steps in float32


def test_with_the_prompt_itself_as_the_text_it_is_token_maps() -> None:
    ask = ASK.row(0)
    own = films(TokenMaps(words=("cat", "dog")).look(scene(ask=ask)))[0]
    said = films(OpenWordMaps(words=("cat", "dog"), attribution=ask.prompts[0]).look(scene(ask=ask)))[0]
    assert np.allclose(own.frames, said.frames, atol=1e-6)


def test_edits_are_in_force_for_the_other_text_too() -> None:
    plain, doubled, faded = (films(OpenWordMaps(words=("cat",)).look(scene(tiny_sd, *edits)))[0].frames
                             for edits in ((), (ReadTwice(),), (Fade(),)))  # fmt: skip
    assert not np.allclose(plain, doubled)
    assert not np.allclose(plain, faded)  # other values, so other states and queries


@pytest.mark.parametrize("make", [tiny_sd, tiny_sdxl])
def test_the_picture_and_the_model_are_left_as_they_were(make) -> None:
    plain = scene(make).run()
    before = fingerprint(make())
    found = films(OpenWordMaps().look(scene(make)))
    assert fingerprint(make()) == before
    for film, image in zip(found, plain, strict=True):
        assert film.over is not None
        assert np.array_equal(film.over, image.permute(1, 2, 0).numpy())


def test_bad_words_are_refused_in_a_line() -> None:
    with pytest.raises(AskError, match="open-word-maps: words"):
        OpenWordMaps(words=())
    with pytest.raises(AskError, match="One of the words to look for is empty"):
        OpenWordMaps(words=("cat", " ")).look(scene())
    with pytest.raises(AskError, match="'a bird' has no word 'cat'"):
        OpenWordMaps(words=("cat",), attribution="a bird").look(scene())
    with pytest.raises(AskError, match=r"no step between 0\.3 and 0\.6"):
        OpenWordMaps(first=0.3, last=0.6).look(scene())
