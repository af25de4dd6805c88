"""Token maps of a transformer with masked cross-attention and a tokenizer without a start token."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.tiny import tiny_pixart
from workbench.blocks.spans import lead, spans, tokens
from workbench.core.ask import Ask
from workbench.core.patch import Patch
from workbench.core.report import Film
from workbench.core.scene import Scene
from workbench.methods.generate.diffuse import Diffuse
from workbench.methods.inspect.token_maps import TokenMaps

ASK = Ask(prompts=["a cat on the red dog", "the dog"], seeds=[1, 2])


def films(lens: TokenMaps, guidance: float = 3.0) -> list[Film]:
    scene = Scene(tiny_pixart(), Diffuse(steps=2, guidance=guidance), (), ASK)
    return [panel for panel in lens.look(scene).panels if isinstance(panel, Film)]


def test_words_are_found_where_t5_reads_them() -> None:
    bundle = tiny_pixart()
    assert lead(bundle) == 0
    assert len(tokens(bundle, "a cat")) == 2
    assert tokens(bundle, "") == []
    assert spans(bundle, "a cat on the red dog", "red dog") == [[4, 5]]
    assert spans(bundle, "cat on a cat", "cat") == [[0], [3]]


@pytest.mark.parametrize("guidance", [3.0, 1.0])
def test_it_equals_the_masked_attention_written_slowly(guidance: float) -> None:
    kept: list[Tensor] = []
    bundle = tiny_pixart()
    with Patch(bundle) as patch:
        for site in bundle.sites("cross-attention"):

            def watch(call):
                scores = call.query.double()[-2:] @ call.key.double()[-2:].mT / math.sqrt(call.query.shape[-1])
                kept.append(scores[0, :, :, :7].softmax(-1))  # six words and the end; padding is masked
                return call.run()

            patch.attend(site, watch)
        Scene(bundle, Diffuse(steps=2, guidance=guidance), (), ASK).run()
    total = torch.stack(kept).unflatten(0, (2, 3)).mean((0, 2))  # steps and heads: [sites, N, L]
    grid = total[:, :, 5].reshape(3, 1, 4, 4)
    up = torch.nn.functional.interpolate(grid, size=(8, 8), mode="bicubic", align_corners=False)
    slow = up.clamp_min(0).mean((0, 1)).numpy()
    (film, _) = films(TokenMaps(words=("dog",), relative=False), guidance)
    assert np.abs(film.frames[0] - slow).max() < 2e-6


def test_a_film_a_picture_and_a_frame_a_word() -> None:
    first, second = films(TokenMaps())
    assert first.labels == ("cat", "red", "dog")
    assert second.labels == ("dog",)
    assert first.frames.shape == (3, 8, 8)
