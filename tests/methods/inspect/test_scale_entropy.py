"""Scale entropy: on paper, against teacher forcing, and what an edit or a missing guidance leaves."""

import math

import numpy as np
import pytest
import torch

from tests.tiny import tiny_var
from workbench.core.ask import Ask
from workbench.core.errors import AskError
from workbench.core.report import Film, Table
from workbench.core.scene import Scene
from workbench.methods.decode.var import Var
from workbench.methods.inspect import scale_entropy
from workbench.methods.inspect.scale_entropy import ScaleEntropy, Seen

ASK = Ask(prompts=("class:1", "class:2"), seeds=(3, 4))


def scene(**sampler: object) -> Scene:
    return Scene(tiny_var(), Var(**{"guidance": 1.5, "top_p": 0.9, **sampler}), (), ASK)


def test_on_paper() -> None:
    """Four codes: even, then all but certain; against an even guess the first pulls by 0 bits, the second by 2."""
    even, sure = torch.zeros(4), torch.tensor([60.0, 0.0, 0.0, 0.0])
    logits = torch.stack([even, sure], 1).reshape(1, 4, 1, 2)
    found = scale_entropy.measured(Seen([logits], [torch.zeros(1, 4, 1, 2)], torch.tensor([[3, 0]])))
    assert found.entropy.tolist() == [[pytest.approx([2.0, 0.0], abs=1e-9)]]
    assert found.top.tolist() == [[pytest.approx([1.0, 1.0])]]
    assert found.chosen is not None
    assert found.chosen.tolist() == [[pytest.approx([0.25, 1.0])]]
    assert found.guidance is not None
    assert found.guidance.tolist() == [[pytest.approx([0.0, 2.0], abs=1e-9)]]


def test_the_maps_are_those_of_teacher_forcing() -> None:
    """Logits of all scales at once from the drawn tokens, in float64 and token by token."""
    heard: dict[int, Seen] = {}
    scene().run(record=lambda patch: scale_entropy.listen(patch, heard))
    bundle = tiny_var()
    vq, net = bundle.parts["vq"], bundle.parts["var"]
    tokens = [heard[k].tokens for k in range(6)]
    inputs = vq.inputs(tokens)
    with torch.no_grad():
        positive = net(torch.tensor([1, 2]), inputs).double()
        negative = net(torch.tensor([1, 2]), inputs, dropped=torch.tensor([True, True])).double()
    start = 0
    for k, p in enumerate((1, 2, 3, 4, 6, 8)):
        found = scale_entropy.measured(heard[k])
        for i in range(p * p):
            for row in range(2):
                share = positive[row, start + i].softmax(-1).tolist()
                other = negative[row, start + i].softmax(-1).tolist()
                entropy = -sum(a * math.log2(a) for a in share if a > 0)
                pulled = sum(a * math.log2(a / b) for a, b in zip(share, other, strict=True) if a > 0)
                place = (row, i // p, i % p)
                # the cached loop and teacher forcing differ by rounding, which a logit of about 10 carries on
                assert found.entropy[place] == pytest.approx(entropy, abs=2e-3)
                assert found.top[place] == pytest.approx(sum(sorted(share)[-5:]), abs=2e-3)
                assert found.guidance is not None
                assert found.guidance[place] == pytest.approx(pulled, abs=2e-2)
                assert found.chosen is not None
                assert found.chosen[place] == pytest.approx(share[int(tokens[k][row, i])], abs=2e-3)  # type: ignore[index]
        start += p * p


def test_entropy_lies_between_nothing_and_the_code_book() -> None:
    report = ScaleEntropy().look(scene())
    assert report.problems() == []
    film = next(panel for panel in report.panels if isinstance(panel, Film))
    assert film.frames.shape == (6, 8, 8)
    assert film.frames.min() >= 0
    assert film.frames.max() <= math.log2(24) + 1e-9
    assert len(np.unique(film.frames[0])) == 1  # one token for the whole picture


def test_without_guidance_there_is_no_map_of_it() -> None:
    report = ScaleEntropy().look(scene(guidance=0.0))
    titles = [panel.title for panel in report.panels if isinstance(panel, Film)]
    assert titles == ["class:1: entropy, bits", "class:2: entropy, bits"]
    table = next(panel for panel in report.panels if isinstance(panel, Table))
    assert {row[-1] for row in table.rows} == {""}


def test_image_by_image_it_says_the_same() -> None:
    together, apart = (ScaleEntropy().look(scene(alone=alone)).numbers["entropy_bits"] for alone in (False, True))
    assert apart == pytest.approx(together, abs=1e-3)


def test_a_pixel_lists_its_codes() -> None:
    report = ScaleEntropy(at=(15, 0)).look(scene())
    table = report.panels[-1]
    assert isinstance(table, Table)
    assert [row[1] for row in table.rows] == ["0, 0", "0, 1", "0, 2", "0, 3", "0, 5", "0, 7"]
    assert all(str(row[2]).count(",") == 4 for row in table.rows)
    with pytest.raises(AskError, match="16x16 pixels"):
        ScaleEntropy(at=(16, 0)).look(scene())
