"""Redrawing by scale: the block is plain decoding where nothing is kept, and passes on how tokens are drawn."""

import torch

from tests.tiny import tiny_var
from workbench.blocks import retouch, scales
from workbench.blocks.requantise import Canvas, Source
from workbench.core.ask import Ask
from workbench.core.patch import Patch
from workbench.core.tape import Event, Step, ignore

ASK = Ask(prompts=("class:1",), seeds=(3,))


def surface(new: float) -> Canvas:
    pixels = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return Canvas(pixels, torch.full((1, 1, 16, 16), new))


def test_nothing_kept_is_plain_decoding() -> None:
    course = retouch.Course(1.5, top_p=0.9)
    images = retouch.redraw(tiny_var(), ASK, ignore, surface(1.0), course)
    state = retouch.decode(tiny_var(), ASK, ignore, scales.Choice(top_p=0.9), 1.5)
    assert torch.equal(images, scales.pictures(tiny_var(), state))


def test_forced_tokens_are_taken_as_they_stand() -> None:
    source = Source.of(tiny_var(), surface(1.0).pixels, 1)
    taken: list[Step] = []
    force = dict(enumerate(source.tokens))
    state = retouch.decode(tiny_var(), ASK, taken.append, scales.Choice(force=force), 1.5)
    assert torch.equal(state, tiny_var().parts["vq"].quantise(source.f).prefixes[-1])
    assert [step.level for step in taken] == [1, 2, 3, 4, 6, 8]


def test_a_run_that_nobody_watches_hears_its_logits() -> None:
    source, heard = Source.of(tiny_var(), surface(1.0).pixels, 1), dict[int, tuple[int, ...]]()

    def note(k: int, like: torch.Tensor) -> torch.Tensor:
        heard[k] = tuple(like.shape)
        return torch.ones_like(like)

    told: list[Event] = []
    with Patch(tiny_var()) as patch:
        patch.each(told.append)
        retouch.quietly(tiny_var(), ASK, scales.Choice(noise=note, force=dict(enumerate(source.tokens))), 0.0)
    assert not told
    assert heard == {k: (1, p * p, 24) for k, p in enumerate((1, 2, 3, 4, 6, 8))}
