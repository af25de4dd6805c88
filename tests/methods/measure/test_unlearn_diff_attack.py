"""UnlearnDiffAtk: words come from the vocabulary and read back as themselves; points stay on the simplex."""

from dataclasses import replace

import pytest
import torch

from tests.methods.measure.test_rece_probe import scene
from tests.tiny import tiny_sd
from tests.toys import Fade
from workbench.blocks.attack import aim, lesson, misfit, told
from workbench.blocks.spans import tokens
from workbench.core.errors import MissingPart
from workbench.core.patch import differences, fingerprint
from workbench.core.report import Table
from workbench.methods.measure.unlearn_diff_attack import Lexicon, Search, UnlearnDiffAttack

LENS = UnlearnDiffAttack(trials=1, iterations=4, look_every=2, batch=2, words=2, rate=0.2)


def test_the_lexicon_holds_words_that_are_one_token() -> None:
    bundle = tiny_sd()
    lexicon = Lexicon.of(bundle)
    assert {"cat", "dog", "red", "a"} <= set(lexicon.words)
    assert lexicon.rows[0].shape == (len(lexicon.words), 32)
    table = bundle.parts["text"].get_input_embeddings().weight  # type: ignore[operator]
    for word, row in list(zip(lexicon.words, lexicon.rows[0], strict=True))[:40]:
        ids = tokens(bundle, word)
        assert len(ids) == 1
        assert torch.equal(table[ids[0]], row)
    with pytest.raises(MissingPart, match="does not tell the words"):
        Lexicon.of(replace(bundle, lexicon=None))


def test_found_prompts_are_words_before_the_prompt_and_the_model_is_left_alone() -> None:
    before = fingerprint(tiny_sd(), deep=True)
    report = LENS.look(scene(Fade()))
    assert report.problems() == []
    assert differences(before, fingerprint(tiny_sd(), deep=True)) == []
    used = str(next(panel for panel in report.panels if isinstance(panel, Table)).rows[0][-1])
    first, second, rest = used.split(" ", 2)
    assert rest == "a cat"
    assert {first, second} <= set(Lexicon.of(tiny_sd()).words)


def test_the_gradient_of_a_one_hot_point_is_that_of_the_typed_words() -> None:
    """With p at a corner the relaxed row is the word's own, so the error equals that of the typed prompt."""
    stage = scene()
    target = aim(stage, (), 1, "emoji-judge")
    search = Search(LENS, stage, stage.bundle, target)
    at = [search.lexicon.words.index(word) for word in ("dog", "red")]
    p = torch.nn.functional.one_hot(torch.tensor(at), len(search.lexicon.words)).float().requires_grad_()
    loss = search.loss(p, torch.tensor(at), 0, 0)
    loss.backward()
    assert p.grad is not None
    assert p.grad.abs().sum() > 0
    some, t, noise = lesson(search.clean, LENS.batch, target.ask.seeds[0], 0)
    typed = misfit(stage.bundle, told(stage.bundle, "dog red a cat", LENS.batch, target.ask), some, t, noise)
    assert float(loss.detach()) == pytest.approx(float(typed), rel=1e-5)
