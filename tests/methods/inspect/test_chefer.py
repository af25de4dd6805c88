"""Chefer relevance: gradients against finite differences, the chain by loops, words, and a scorer left as it was."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from tests.clip import seen_sd, tiny_clip
from workbench.blocks.judged import pixels_of, traced, vision_sites
from workbench.core.ask import Ask
from workbench.core.errors import AskError
from workbench.core.patch import Patch, fingerprint
from workbench.core.report import Heat, Table
from workbench.core.scene import Scene
from workbench.methods.generate.diffuse import Diffuse
from workbench.methods.inspect.chefer import Chefer

ASK = Ask(prompts=["a cat", "the red dog"], seeds=[1, 2])


def scene() -> Scene:
    return Scene(seen_sd(), Diffuse(steps=2), (), ASK)


def test_gradients_of_the_weights_equal_finite_differences() -> None:
    """Nudge one weight of the first layer and see what the match does."""
    scorer, pixels = tiny_clip(), pixels_of(scene().run()[:1], tiny_clip())
    goal = scorer.read(["a cat"]).pooled
    sites = vision_sites(scorer)
    with traced(scorer, sites) as kept:
        plain = (scorer.encode(pixels) * goal).sum(-1)
        gradients = kept.gradients(plain)
    for place in ((0, 0, 0, 5), (0, 1, 3, 7)):
        ends = []
        for nudge in (1e-2, -1e-2):

            def bent(call, nudge=nudge, place=place):
                weights = call.weights().clone()
                weights[place] += nudge
                return weights @ call.value

            with Patch(scorer) as patch, torch.no_grad():
                patch.attend(sites[0], bent)
                ends.append(float((scorer.encode(pixels) * goal).sum()))
        assert float(gradients[0][place]) == pytest.approx((ends[0] - ends[1]) / 2e-2, rel=2e-2, abs=1e-5)


def test_explicit_attention_is_the_kernel_up_to_rounding() -> None:
    scorer, pixels = tiny_clip(), pixels_of(scene().run(), tiny_clip())
    with torch.no_grad():
        plain = scorer.encode(pixels)
    with traced(scorer, vision_sites(scorer)):
        beside = scorer.encode(pixels)
    assert_close(beside.detach(), plain, atol=1e-6, rtol=0)


def test_the_map_is_the_chain_of_layers_by_loops() -> None:
    scorer, images = tiny_clip(), scene().run()
    goal = torch.cat([scorer.read([prompt]).pooled for prompt in ASK.prompts])
    with traced(scorer, vision_sites(scorer)) as kept:
        gradients = kept.gradients((scorer.encode(pixels_of(images, scorer)) * goal).sum(-1))
    heats = [panel for panel in Chefer().look(scene()).panels if isinstance(panel, Heat)]
    for image, heat in enumerate(heats):
        found = np.eye(17)
        for weights, gradient in zip(kept.weights, gradients, strict=True):
            both = np.maximum((weights[image] * gradient[image]).detach().double().numpy(), 0).mean(0)
            more = [[sum(both[i, k] * found[k, j] for k in range(17)) for j in range(17)] for i in range(17)]
            found = found + np.array(more)
        assert np.allclose(heat.values, found[0, 1:].reshape(4, 4), atol=1e-7)


def test_every_word_has_a_line_and_none_is_negative() -> None:
    report = Chefer().look(scene())
    assert report.problems() == []
    table = next(panel for panel in report.panels if isinstance(panel, Table))
    assert [row[1] for row in table.rows] == ["a", "cat", "the", "red", "dog"]
    assert all(row[2] >= 0 for row in table.rows)  # relevance is a sum of what was cut at 0


def test_another_text_gives_another_map_and_a_start_beyond_the_tower_is_refused() -> None:
    own, other = (Chefer(text=text).look(scene()).panels[0].values for text in ("", "the dog"))  # type: ignore[union-attr]
    assert not np.allclose(own, other)
    with pytest.raises(AskError, match=r"chefer: start is 9; the tower has 2 layers\. Try 1"):
        Chefer(start=9).look(scene())


def test_looking_leaves_the_scorer_as_it_was() -> None:
    Chefer().look(scene())
    before = fingerprint(tiny_clip(), deep=True)
    Chefer().look(scene())
    assert fingerprint(tiny_clip(), deep=True) == before
