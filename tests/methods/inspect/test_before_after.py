"""Before and after: the two looks are those of the lens itself, differences on paper, no edit no difference."""

import numpy as np
import pytest

from tests.tiny import tiny_sd
from tests.toys import Fade, ReadTwice
from workbench.core.ask import Ask
from workbench.core.errors import AskError, UnsupportedFamily
from workbench.core.report import Curve, Film, Heat, Note
from workbench.core.scene import Scene
from workbench.methods.generate.diffuse import Diffuse
from workbench.methods.inspect.before_after import BeforeAfter, _differences
from workbench.methods.inspect.concept_attention import ConceptAttention
from workbench.methods.inspect.denoise_film import DenoiseFilm
from workbench.methods.inspect.token_maps import TokenMaps

ASK = Ask(prompts=["a cat"], seeds=[1])


def scene(*edits) -> Scene:
    return Scene(tiny_sd(), Diffuse(steps=2, guidance=3.0), edits, ASK)


def test_both_looks_are_the_lens_s_own() -> None:
    lens = TokenMaps()
    report = BeforeAfter(lens=lens).look(scene(ReadTwice()))
    assert report.problems() == []
    before, after = lens.look(scene()).panels[0], lens.look(scene(ReadTwice())).panels[0]
    shown = [panel for panel in report.panels if isinstance(panel, Film)]
    assert [film.title for film in shown] == ["a cat (without)", "a cat (with)"]
    assert np.array_equal(shown[0].frames, before.frames)  # type: ignore[union-attr]
    assert np.array_equal(shown[1].frames, after.frames)  # type: ignore[union-attr]
    heat = next(panel for panel in report.panels if isinstance(panel, Heat))
    assert heat.signed
    assert report.numbers["moved"] == pytest.approx(np.abs(heat.values).mean() / 2)
    assert report.numbers["evenness without"] != report.numbers["evenness with"]


def test_differences_on_paper_do_not_see_the_scale() -> None:
    one, other = np.array([[1.0, 3.0]]), np.array([[30.0, 10.0]])
    (heat,) = _differences(Heat(one, "w"), Heat(other, "w"))
    assert heat.values.tolist() == [[1.0, -1.0]]
    (none,) = _differences(Heat(one, "w"), Heat(5 * one, "w"))
    assert none.values.tolist() == [[0.0, 0.0]]
    assert list(_differences(Heat(one, "w"), Heat(other.T, "w"))) == []


def test_an_edit_that_changes_nothing_moves_nothing() -> None:
    report = BeforeAfter(lens=TokenMaps()).look(scene(Fade(strength=0.0)))
    assert report.numbers["moved"] == 0.0


def test_pictures_and_curves_are_shown_without_a_difference() -> None:
    report = BeforeAfter(lens=DenoiseFilm()).look(scene(Fade()))
    assert "moved" not in report.numbers
    assert next(panel.title for panel in report.panels if isinstance(panel, Curve)).endswith("(without)")


def test_without_an_edit_it_says_so() -> None:
    report = BeforeAfter(lens=TokenMaps()).look(scene())
    assert isinstance(report.panels[0], Note)
    assert "There is no edit in force" in report.panels[0].text


def test_itself_and_lenses_for_other_families_are_refused() -> None:
    with pytest.raises(AskError, match="looks through another lens than itself"):
        BeforeAfter(lens=BeforeAfter(lens=TokenMaps())).look(scene(Fade()))
    with pytest.raises(UnsupportedFamily, match="concept-attention works on mmdit models"):
        BeforeAfter(lens=ConceptAttention()).look(scene(Fade()))
