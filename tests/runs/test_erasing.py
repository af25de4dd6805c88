"""What the Erase page stands on: methods by role, words around a target, exports in one file."""

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from pydantic import Field

from tests.methods.measure.painter import Forget
from tests.tiny import tiny_sd
from tests.toys import Count, Fade, card, listed, unlisted
from workbench.blocks.pictures import save_png
from workbench.blocks.world import World
from workbench.core.delta import Delta
from workbench.core.errors import AskError
from workbench.core.report import Note, Report
from workbench.runs.erasing import (
    Wish,
    at_strength,
    attacks,
    circle,
    eraser,
    erasers,
    judged,
    packed,
    picture,
    prompts,
    reporter,
    warnings,
)

WISH = Wish(("cat",), "dog", ("fox",))


@unlisted
class Anchored(Forget):
    """A toy with the other two roles."""

    card: ClassVar = card("toy-anchored", families=("any",))

    anchor: str = Field("", description="Instead.")
    preserve: tuple[str, ...] = Field((), description="Stays.")


def test_methods_are_told_by_topic_kind_and_roles() -> None:
    assert all(cls.topic() == "erase" and cls.kind == "edit" for cls in erasers())
    kinds = [(cls.card.cost == "minutes", not cls.fits()) for cls in erasers()]
    assert kinds == sorted(kinds)
    assert kinds[0] == (False, False)
    assert reporter() not in attacks()
    assert len(attacks()) >= 4


def test_a_wish_goes_where_the_settings_have_its_roles() -> None:
    with listed(Anchored, Forget, Count):
        assert eraser("toy-anchored", WISH) == Anchored(concepts=("cat",), anchor="dog", preserve=("fox",))
        assert eraser("toy-forget", WISH, {"strength": 0.5}) == Forget(concepts=("cat",), strength=0.5)
        assert eraser("toy-anchored", Wish(("cat",)), {"anchor": "cow"}).anchor == "cow"  # type: ignore[attr-defined]
        assert at_strength(Forget(), 0.25) == Forget(strength=0.25)
        with pytest.raises(AskError, match="no strength"):
            at_strength(Count(), 0.5)


def test_a_report_gets_the_edits_and_an_attack_the_concepts_alone() -> None:
    with listed(Forget):
        lens = judged(reporter().card.name, WISH, [Forget()], pictures=3)
        values: dict[str, Any] = dict(lens)
        assert Forget() in next(v for v in values.values() if isinstance(v, tuple) and v and isinstance(v[0], Forget))
        for cls in attacks():
            assert ("cat",) in dict(judged(cls.card.name, WISH, [Forget()])).values()


def test_words_around_a_target() -> None:
    bundle = replace(tiny_sd(), world=World.load())
    found = circle(bundle, ["cat face"], 3)
    assert "kitten" in found.synonyms
    assert len(found.neighbours) == 3
    assert "cat face" not in found.neighbours
    with pytest.raises(AskError, match="no target yet"):
        circle(bundle, [])


def test_the_grid_asks_for_targets_a_synonym_and_what_should_stay() -> None:
    lines = prompts(WISH, ["kitten", "kitty"], ["dog", "fox", "owl"], 5)
    assert lines == ["a cat", "a kitten", "a fox", "a dog", "an owl"]


def test_warnings_are_those_of_the_report() -> None:
    assert warnings(Report((Note("**a** broke", "Warning"), Note("b")))) == ["a broke"]


def test_pictures_of_a_table_are_small_and_keep_their_shape(tmp_path: Path) -> None:
    save_png(tmp_path / "a.png", np.zeros((300, 600, 3), np.uint8), {})
    assert picture(tmp_path / "a.png", 100).shape == (50, 100, 3)


def test_an_export_is_one_file(tmp_path: Path) -> None:
    delta = packed(tiny_sd(), [Fade()], tmp_path / "one", "delta")
    assert Delta.load(delta).kind == "weights"
    with pytest.raises(AskError, match="changes no weights"):
        packed(tiny_sd(), [Count()], tmp_path / "two", "delta")
