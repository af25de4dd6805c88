"""The grid's axes: what can be varied, values from text, and the recipe of a cell."""

from typing import Any

import pytest

from apps.axes import axes, axis, caption, values, varied
from apps.recipe import plan
from apps.stack import item
from workbench.core.errors import AskError

RECIPE: dict[str, Any] = {
    "prompt": "a cat", "negative": "", "seed": 0, "count": 1, "size": "", "model": "", "sampler": "diffuse", "raws": {},
    "stack": [item("freeu"), item("cads")]}  # fmt: skip


def test_every_setting_of_sampler_and_stack_is_an_axis() -> None:
    keys = {entry.key for entry in axes(RECIPE)}
    assert {"seed", "prompt", "sampler.steps", "stack.0.on", "stack.0.b1", "stack.1.on"} <= keys


def test_values_come_from_commas_ranges_and_lines() -> None:
    assert values(axis(RECIPE, "seed"), "1, 5, 7..9") == [1, 5, 7, 8, 9]
    assert values(axis(RECIPE, "sampler.guidance"), "1, 2.5") == [1, 2.5]
    assert values(axis(RECIPE, "prompt"), "a cat, sitting\na dog\n") == ["a cat, sitting", "a dog"]
    assert values(axis(RECIPE, "stack.0.on"), "on, off") == [True, False]
    assert values(None, "whatever") == [None]


@pytest.mark.parametrize(("key", "text"), [("seed", ""), ("seed", "x"), ("seed", "0..99"), ("stack.0.on", "perhaps")])
def test_bad_values_are_one_clear_line(key: str, text: str) -> None:
    with pytest.raises(AskError):
        values(axis(RECIPE, key), text)


def test_a_setting_that_is_gone_is_named() -> None:
    with pytest.raises(AskError, match="no longer"):
        axis(RECIPE, "stack.7.strength")


def test_a_cell_changes_only_what_it_varies() -> None:
    steps, on = axis(RECIPE, "sampler.steps"), axis(RECIPE, "stack.1.on")
    made = plan(varied(RECIPE, [(steps, 3), (on, False)]))
    assert made.sampler is not None
    assert made.sampler.steps == 3  # type: ignore[attr-defined]
    assert [edit.card.name for edit in made.edits] == ["freeu"]
    assert RECIPE["stack"][1]["on"] is True
    assert caption([(steps, 3), (on, False)]) == "Steps 3 · on off"
