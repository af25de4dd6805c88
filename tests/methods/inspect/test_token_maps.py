"""Token maps: the aggregation written a second time slowly, words, phrases, moments, and nothing changed by looking."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.tiny import tiny_sd, tiny_sdxl
from workbench.blocks.recorder import Sums
from workbench.blocks.spans import spans, tokens
from workbench.core.ask import Ask
from workbench.core.errors import AskError, TapeFull
from workbench.core.patch import Patch, fingerprint
from workbench.core.report import Film, Report
from workbench.core.scene import Scene
from workbench.methods.generate.diffuse import Diffuse
from workbench.methods.inspect.token_maps import TokenMaps

ASK = Ask(prompts=["a cat and the red dog", "the dog"], seeds=[1, 2])


def scene(make=tiny_sd, ask: Ask = ASK, guidance: float = 3.0) -> Scene:
    return Scene(make(), Diffuse(steps=2, guidance=guidance), (), ask)


def films(report: Report) -> list[Film]:
    assert report.problems() == []
    return [panel for panel in report.panels if isinstance(panel, Film)]


def test_a_film_a_picture_and_a_frame_a_word() -> None:
    first, second = films(TokenMaps().look(scene()))
    assert first.labels == ("cat", "red", "dog")
    assert second.labels == ("dog",)
    assert first.frames.shape == (3, 8, 8)
    assert first.over is not None
    assert (first.frames >= 0).all()


@pytest.mark.parametrize("guidance", [3.0, 1.0])
def test_it_equals_the_aggregation_written_slowly(guidance: float) -> None:
    kept: dict[str, list[Tensor]] = {}
    bundle = tiny_sd()
    sites = [s for s in bundle.sites("cross-attention") if s.side != "mid"]
    with Patch(bundle) as patch:
        for site in sites:

            def watch(call, name=site.name):
                q, k = call.query.double()[-2:], call.key.double()[-2:]  # the two conditional rows come last
                kept.setdefault(name, []).append((q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1))
                return call.run()

            patch.attend(site, watch)
        scene(guidance=guidance).run()
    (at,) = spans(bundle, ASK.prompts[0], "red dog")
    ask = ASK.but(prompts=(ASK.prompts[0], "red dog"))
    for level in (0, 1):
        slow, there = np.zeros((8, 8)), [s for s in sites if s.level == level]
        for site in there:
            total = sum(w[0] for w in kept[site.name]) / len(kept[site.name])  # [A, N, L]
            side = math.isqrt(total.shape[1])
            grid = sum(total[head, :, token] for head in range(len(total)) for token in at) / len(total) / len(at)
            square = grid.reshape(1, 1, side, side)
            up = torch.nn.functional.interpolate(square, size=(8, 8), mode="bicubic", align_corners=False)
            slow += up[0, 0].clamp_min(0).numpy() / len(there)
        lens = TokenMaps(words=("red dog",), level=level, relative=False)
        fast = films(lens.look(scene(ask=ask, guidance=guidance)))[0]
        assert np.abs(fast.frames[0] - slow).max() < 2e-6  # sums of two steps in float32


@pytest.mark.parametrize("by", ["step", "layer", "head"])
def test_the_parts_have_the_whole_as_their_mean(by: str) -> None:
    """At the latent's own grid nothing is resized or cut, so means of parts are means of the whole."""
    whole = films(TokenMaps(words=("dog",), relative=False).look(scene()))
    parts = films(TokenMaps(words=("dog",), by=by, relative=False).look(scene()))  # type: ignore[arg-type]
    sites = [s for s in tiny_sd().sites("cross-attention") if s.side != "mid" and s.level == 0]
    count = {"step": 2, "layer": len(sites), "head": sum(s.heads or 0 for s in sites)}[by]
    for film, one in zip(parts, whole, strict=True):
        assert film.title == "dog"
        assert len(film.labels) == len(set(film.labels)) == count
        assert np.allclose(film.frames.mean(0), one.frames[0], atol=1e-6)


def test_relative_maps_of_all_words_sum_to_one() -> None:
    prompt = "cat dog red"
    names = tuple(prompt.split())
    (film,) = films(TokenMaps(words=names).look(scene(ask=Ask(prompts=[prompt]))))
    assert len(tokens(tiny_sd(), prompt)) == 3  # a token a word
    assert np.allclose(film.frames.sum(0), 1, atol=1e-5)


def test_the_moment_matters_and_must_hold_a_step() -> None:
    early, late = (
        films(TokenMaps(first=a, last=b).look(scene()))[0].frames for a, b in ((0.0, 0.4), (0.6, 1.0))
    )  # fmt: skip
    assert not np.array_equal(early, late)
    with pytest.raises(AskError, match=r"no step between 0\.3 and 0\.6"):
        TokenMaps(first=0.3, last=0.6).look(scene())


def test_a_word_that_is_not_there_is_refused_before_any_work() -> None:
    with pytest.raises(AskError, match=r"'the dog' has no word 'cat'.*not in the prompt there is open-word-maps"):
        TokenMaps(words=("cat",)).look(scene())


def test_a_level_without_words_is_refused() -> None:
    with pytest.raises(AskError, match="no cross-attention at level 4, side all"):
        TokenMaps(level=4).look(scene())


def test_maps_of_a_large_model_stay_under_the_ceiling_or_say_what_they_hold() -> None:
    """SDXL at 1024 px: 10 sites of 64x64 and 60 of 32x32 places; eight words and their sum cost 4 MiB."""
    tape = Sums(256 << 20)
    for _ in range(2):
        for site in range(70):
            places = 4096 if site < 10 else 1024
            tape.add(f"maps/{site}", torch.zeros(1, places, 9))
    assert tape.bytes == (10 * 4096 + 60 * 1024) * 9 * 4
    assert tape.counts["maps/0"] == 2
    heads = Sums(8 << 20)
    heads.add("maps/a", torch.zeros(1, 20, 8192, 9))
    with pytest.raises(TapeFull, match=r"5\.6 MiB and maps/b would add 5\.6 MiB \(1x20x8192x9 float32\).*is 8\.0 MiB"):
        heads.add("maps/b", torch.zeros(1, 20, 8192, 9))


def test_a_prompt_without_words_is_refused_and_words_out_of_reach_are_left_out() -> None:
    with pytest.raises(AskError, match="The prompt '' has no words to follow"):
        TokenMaps().look(scene(ask=Ask(prompts=[""])))
    long = "cat " + "the " * 80 + "dog"
    (film,) = films(TokenMaps().look(scene(ask=Ask(prompts=[long]))))
    assert film.labels == ("cat",)


def test_the_tiny_model_gives_these_numbers_with_seeds_1_and_2() -> None:
    numbers = TokenMaps(relative=False).look(scene()).numbers
    assert (numbers["evenness"], numbers["overlap"]) == pytest.approx((0.98995, 0.98589), rel=1e-4)


@pytest.mark.parametrize("make", [tiny_sd, tiny_sdxl])
def test_looking_leaves_the_model_as_it_was(make) -> None:
    scene(make).run()  # transformers sets attributes of its own at the first call
    before = fingerprint(make())
    TokenMaps().look(scene(make))
    assert fingerprint(make()) == before
