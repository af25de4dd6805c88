"""Token maps: the aggregation written a second time slowly, words, phrases, moments, and nothing changed by looking."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.tiny import tiny_sd, tiny_sdxl
from workbench.blocks.spans import spans, tokens
from workbench.core.ask import Ask
from workbench.core.errors import AskError
from workbench.core.patch import Patch, fingerprint
from workbench.core.report import Film, Report
from workbench.core.scene import Scene
from workbench.methods.generate.diffuse import Diffuse
from workbench.methods.inspect.token_maps import TokenMaps, gather, overlap, word_map

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
    slow = np.zeros((8, 8))
    (at,) = spans(bundle, ASK.prompts[0], "red")
    for site in sites:
        total = sum(w[0] for w in kept[site.name]) / len(kept[site.name])  # [A, N, L]
        side = math.isqrt(total.shape[1])
        for token in at:
            grid = total[:, :, token].mean(0).reshape(1, 1, side, side)
            up = torch.nn.functional.interpolate(grid, size=(8, 8), mode="bicubic", align_corners=False)
            slow += up[0, 0].clamp_min(0).numpy() / len(at) / len(sites)
    ask = ASK.but(prompts=(ASK.prompts[0], "red"))
    fast = films(TokenMaps(words=("red",)).look(scene(ask=ask, guidance=guidance)))[0]
    assert np.abs(fast.frames[0] - slow).max() < 2e-6  # sums of two steps in float32


def test_a_phrase_is_the_mean_of_its_tokens_and_a_repeated_word_of_its_places() -> None:
    maps = torch.arange(2 * 2 * 4, dtype=torch.float32).reshape(2, 2, 4)
    assert torch.equal(word_map(maps, [[1, 2]]), maps[..., 1:3].mean(-1))
    assert torch.equal(word_map(maps, [[1], [3]]), (maps[..., 1] + maps[..., 3]) / 2)


def test_all_tokens_together_look_everywhere_alike() -> None:
    flat = torch.rand(1, 64, 5, generator=torch.Generator().manual_seed(0)).softmax(-1)
    assert torch.allclose(gather([flat, flat], (8, 8)).sum(-1), torch.ones(1, 8, 8), atol=1e-6)


def test_relative_maps_of_all_words_sum_to_one() -> None:
    prompt = "cat dog red"
    names = tuple(prompt.split())
    (film,) = films(TokenMaps(words=names, relative=True).look(scene(ask=Ask(prompts=[prompt]))))
    assert len(tokens(tiny_sd(), prompt)) == 3  # a token a word
    assert np.allclose(film.frames.sum(0), 1, atol=1e-5)


def test_overlap_on_paper() -> None:
    one, two = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])
    assert overlap([Film(np.stack([one, two]), ("a", "b"))]) == 0
    assert overlap([Film(np.stack([one, one]), ("a", "b"))]) == pytest.approx(1)
    assert overlap([Film(one[None], ("a",))]) == 1


def test_the_moment_matters_and_must_hold_a_step() -> None:
    early, late = (
        films(TokenMaps(first=a, last=b).look(scene()))[0].frames for a, b in ((0.0, 0.4), (0.6, 1.0))
    )  # fmt: skip
    assert not np.array_equal(early, late)
    with pytest.raises(AskError, match=r"no step between 0\.3 and 0\.6"):
        TokenMaps(first=0.3, last=0.6).look(scene())


def test_a_word_that_is_not_there_is_refused_before_any_work() -> None:
    with pytest.raises(AskError, match=r"'the dog' has no word 'cat'"):
        TokenMaps(words=("cat",)).look(scene())


def test_a_prompt_without_words_is_refused_and_words_out_of_reach_are_left_out() -> None:
    with pytest.raises(AskError, match="The prompt '' has no words to follow"):
        TokenMaps().look(scene(ask=Ask(prompts=[""])))
    long = "cat " + "the " * 80 + "dog"
    (film,) = films(TokenMaps().look(scene(ask=Ask(prompts=[long]))))
    assert film.labels == ("cat",)


def test_the_tiny_model_gives_these_numbers_with_seeds_1_and_2() -> None:
    numbers = TokenMaps().look(scene()).numbers
    assert (numbers["evenness"], numbers["overlap"]) == pytest.approx((0.997625, 0.99581), rel=1e-4)


@pytest.mark.parametrize("make", [tiny_sd, tiny_sdxl])
def test_looking_leaves_the_model_as_it_was(make) -> None:
    scene(make).run()  # transformers sets attributes of its own at the first call
    before = fingerprint(make())
    TokenMaps().look(scene(make))
    assert fingerprint(make()) == before
