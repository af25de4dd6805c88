"""Declarations read once, for every face."""

from typing import Annotated, Any, ClassVar, Literal

import pytest
from pydantic import Field

from tests.toys import Fade, card, listed, unlisted
from workbench.core.errors import AskError
from workbench.core.fields import Role, Unit, controls, parse, refused
from workbench.core.method import AnyEdit, Edit


@unlisted
class Every(Edit):
    """One setting of every sort."""

    card: ClassVar = card("toy-every")

    number: float = Field(0.5, ge=0, lt=1, description="A number.")
    count: int = Field(3, gt=0, le=10, description="A count.")
    size: Annotated[int, Unit("px"), Field(ge=8)] = Field(64, description="A size.")
    on: bool = Field(True, description="A switch.")
    choice: Literal["a", "b"] = Field("a", description="A choice.")
    rank: Literal[1, 2] = Field(1, description="A number among some.")
    word: str = Field("x", description="A word.")
    maybe: float | None = Field(None, ge=0, description="A number or none.")
    pixel: Annotated[tuple[int, int] | None, Role("pixel"), Unit("px")] = Field(None, description="A pair.")
    concepts: tuple[str, ...] = Field((), description="Words.")
    weights: tuple[float, ...] = Field((), description="Numbers.")
    anchor: str = Field("", description="An anchor.")
    inner: AnyEdit | None = Field(None, description="Another edit.")
    any: dict[str, int] = Field(default_factory=dict, description="Anything else.")


@unlisted
class Needs(Edit):
    """A setting without a default."""

    card: ClassVar = card("toy-needs")

    concept: str = Field(min_length=1, description="What.")


BY_NAME = {control.name: control for control in controls(Every)}


def test_controls_come_in_the_order_of_declaration() -> None:
    assert list(BY_NAME) == list(Every.model_fields)
    kinds = {name: control.kind for name, control in BY_NAME.items()}
    assert kinds == {
        "number": "number", "count": "integer", "size": "integer", "on": "switch", "choice": "choice",
        "rank": "choice", "word": "text", "maybe": "number", "pixel": "pair", "concepts": "list", "weights": "list",
        "anchor": "text", "inner": "method", "any": "json"}  # fmt: skip


def test_bounds_are_read_with_what_they_exclude() -> None:
    ends = {n: (c.low, c.high, c.open_low, c.open_high) for n, c in BY_NAME.items() if c.low is not None}
    assert ends == {
        "number": (0, 1, False, True), "count": (0, 10, True, False), "size": (8, None, False, False),
        "maybe": (0, None, False, False)}  # fmt: skip


def test_units_roles_choices_and_the_inside_of_lists_are_read() -> None:
    assert BY_NAME["size"].unit == BY_NAME["pixel"].unit == "px"
    assert BY_NAME["size"].label == "Size (px)"
    assert BY_NAME["pixel"].role == "pixel"
    assert (BY_NAME["concepts"].role, BY_NAME["anchor"].role, BY_NAME["word"].role) == ("concepts", "anchor", "")
    assert BY_NAME["choice"].choices == ("a", "b")
    assert (BY_NAME["concepts"].of, BY_NAME["weights"].of, BY_NAME["pixel"].of) == ("text", "number", "integer")
    assert BY_NAME["inner"].of_kind == "edit"
    assert [name for name, control in BY_NAME.items() if control.optional] == ["maybe", "pixel", "inner"]


def test_defaults_and_what_is_required_are_told_apart() -> None:
    assert BY_NAME["number"].default == 0.5
    assert BY_NAME["any"].default == {}
    (need,) = controls(Needs)
    assert need.required
    assert need.default is None
    assert not BY_NAME["maybe"].required


@pytest.mark.parametrize("name", list(BY_NAME))
def test_every_value_said_to_be_refused_is_refused(name: str) -> None:
    for value in refused(BY_NAME[name]):
        with pytest.raises(AskError, match=name):
            Every(**{name: value})


def test_refused_values_stand_just_outside() -> None:
    assert refused(BY_NAME["count"]) == ("not a number", 0, 11)
    number = refused(BY_NAME["number"])
    assert number[0] == "not a number"
    assert number[-2:] == (-1e-6, 1)
    assert refused(BY_NAME["word"]) == ()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ({"number": "0.25", "count": "4"}, {"number": 0.25, "count": 4}),
        ({"on": "false"}, {"on": False}),
        ({"on": "True"}, {"on": True}),
        ({"choice": "b", "rank": "2"}, {"choice": "b", "rank": 2}),
        ({"word": "[not a list]"}, {"word": "[not a list]"}),
        ({"maybe": "none"}, {"maybe": None}),
        ({"maybe": "0.5"}, {"maybe": 0.5}),
        ({"concepts": "cat face"}, {"concepts": ("cat face",)}),
        ({"concepts": '["cat", "dog"]'}, {"concepts": ("cat", "dog")}),
        ({"weights": "0.5"}, {"weights": (0.5,)}),
        ({"pixel": "[3, 4]"}, {"pixel": (3, 4)}),
        ({"pixel": "null"}, {"pixel": None}),
        ({"any": '{"a": 1}'}, {"any": {"a": 1}}),
    ],
)
def test_words_of_a_command_line_become_settings(words: dict[str, str], expected: dict[str, Any]) -> None:
    assert parse(Every, words) == Every(**expected)


def test_a_method_in_words_is_json() -> None:
    with listed(Fade):
        assert parse(Every, {"inner": '{"method": "toy-fade", "strength": 0.5}'}) == Every(inner=Fade(strength=0.5))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"number": "much"}, "toy-every: number is 'much'; it should be a valid number"),
        ({"on": "perhaps"}, "toy-every: on is 'perhaps'; it should be true or false"),
        ({"concepts": '["cat"'}, "toy-every: concepts is '[\"cat\"'; it should be a JSON list"),
        ({"choice": "c"}, "toy-every: choice is 'c'; it should be 'a' or 'b'"),
        ({"rank": "3"}, "toy-every: rank is '3'; it should be 1 or 2"),
        ({"weights": "x"}, "toy-every: weights is 'x'; it should be"),
        ({"colour": "red"}, "toy-every has no setting 'colour'"),
        ({"any": "{"}, "toy-every: any is '{'; it should be JSON"),
    ],
)
def test_words_that_cannot_be_read_are_named(words: dict[str, str], message: str) -> None:
    with pytest.raises(AskError) as trouble:
        parse(Every, words)
    assert str(trouble.value).startswith(message)
