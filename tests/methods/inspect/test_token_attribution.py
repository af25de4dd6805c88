"""Token attribution: effects by hand on the same states, words left out, the picture drawn as always."""

import numpy as np
import pytest
import torch

from tests.tiny import tiny_sd, tiny_sdxl
from workbench.core.ask import Ask
from workbench.core.errors import AskError
from workbench.core.patch import Patch, fingerprint
from workbench.core.report import Film, Table
from workbench.core.scene import Scene
from workbench.methods.generate.diffuse import Diffuse
from workbench.methods.inspect.token_attribution import TokenAttribution, left_out

ASK = Ask(prompts=["a cat and the red dog", "the dog"], seeds=[1, 2])


def scene(make=tiny_sd, guidance: float = 3.0) -> Scene:
    return Scene(make(), Diffuse(steps=3, guidance=guidance), (), ASK)


def test_words_are_left_out_whole() -> None:
    assert left_out("a cat on a catwalk, CAT", "cat") == "a on a catwalk,"
    assert left_out("the red dog", "the red dog") == ""
    assert left_out("a t-rex (2) runs", "(2)") == "a t-rex runs"


@pytest.mark.parametrize("guidance", [3.0, 1.0])
@torch.no_grad()
def test_effects_equal_calls_by_hand(guidance: float) -> None:
    bundle, calls = tiny_sd(), []
    with Patch(bundle) as patch:
        patch.wrap("predict", lambda inner: lambda x, t, cond: (calls.append((x, t, cond)), inner(x, t, cond))[1])
        plain = scene(guidance=guidance).run()
    x, t, _ = calls[1]  # one step of three: the middle one
    unet, at = bundle.parts["unet"], len(x) - 2
    whole = unet(x[at : at + 1], t[at : at + 1], bundle.read([ASK.prompts[0]]).states, return_dict=False)[0]
    less = unet(x[at : at + 1], t[at : at + 1], bundle.read(["a cat and the dog"]).states, return_dict=False)[0]
    slow = (whole - less).double().square().sum(1).sqrt()[0].numpy()
    report = TokenAttribution(words=("red",), steps=1).look(
        Scene(bundle, Diffuse(steps=3, guidance=guidance), (), ASK.but(prompts=(ASK.prompts[0], "red dog")))
    )
    film = next(panel for panel in report.panels if isinstance(panel, Film))
    assert np.allclose(film.frames[0], slow, atol=1e-5)  # batches of two and of one differ by rounding
    assert film.over is not None
    assert np.array_equal(film.over, plain[0].permute(1, 2, 0).numpy())


@pytest.mark.parametrize("make", [tiny_sd, tiny_sdxl])
def test_two_films_a_picture_and_a_line_a_word(make) -> None:
    scene(make).run()
    before = fingerprint(make())
    report = TokenAttribution().look(scene(make))
    assert fingerprint(make()) == before
    assert report.problems() == []
    films = [panel for panel in report.panels if isinstance(panel, Film)]
    assert [film.labels for film in films] == [("cat", "red", "dog")] * 2 + [("dog",)] * 2
    table = next(panel for panel in report.panels if isinstance(panel, Table))
    assert all(row[2] > 0 and -1 <= row[3] <= 1 for row in table.rows)


def test_a_word_that_is_not_there_is_refused() -> None:
    with pytest.raises(AskError, match="has no word 'bird'"):
        TokenAttribution(words=("bird",)).look(scene())
