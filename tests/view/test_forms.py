"""Forms: every declared setting becomes a field, and values go to the widget and back unharmed."""

from typing import Annotated, Any, ClassVar, Literal

import pytest
from pydantic import Field

from tests.toys import unlisted
from workbench.core.catalog import catalog
from workbench.core.errors import AskError
from workbench.core.fields import Role, Unit
from workbench.core.method import AnySampler, Card, Method, Sampler
from workbench.methods.generate.diffuse import Diffuse
from workbench.view.forms import OPEN_FIELDS, defaults, form, nice_step, read, read_all, show


@unlisted
class Everything(Sampler):
    """One field of each sort; not in the catalog (no card of its own class is registered twice)."""

    card: ClassVar[Card] = Card("every-field", "Every field", "none", ("any",), topic="tests")

    concepts: tuple[str, ...] = Field(("cat",), description="What.")
    strength: float = Field(0.5, ge=0, le=1, description="How much.")
    open_ratio: float = Field(0.5, gt=0, lt=1, description="Ends excluded.")
    radius: Annotated[float, Unit("px")] = Field(3.0, ge=0, description="No upper end.")
    steps: int = Field(4, ge=1, le=50, description="Whole.")
    calls: int = Field(4, ge=1, le=100_000, description="Whole, and far too many for a slider.")
    limit: float | None = Field(None, ge=0, le=1, description="May be none.")
    exact: bool = Field(False, description="Yes or no.")
    mode: Literal["a", "b"] = Field("a", description="One of two.")
    sides: tuple[int, int] = Field((1, 2), description="A pair.")
    levels: tuple[float, ...] = Field((0.25, 0.5), description="Some numbers.")
    word: Annotated[str, Role("word")] = Field("", description="Text.")
    inner: AnySampler = Field(Diffuse(steps=3), description="Another sampler.")


@pytest.fixture(autouse=True)
def forget() -> Any:
    yield
    Method.known.setdefault("every-field", Everything)


@pytest.fixture(scope="module", autouse=True)
def leave_the_catalog() -> Any:
    yield
    Method.known.pop("every-field", None)


FIELDS = {field.name: field for field in form(Everything).fields}


def test_each_declared_field_is_in_the_form_once() -> None:
    for cls in catalog():
        names = [field.name for field in form(cls).fields]
        assert sorted(names) == sorted(cls.model_fields)


def test_widgets_follow_the_declaration() -> None:
    kinds = {name: field.widget for name, field in FIELDS.items()}
    assert kinds == {
        "concepts": "tags", "strength": "slider", "open_ratio": "slider", "radius": "number", "steps": "slider",
        "calls": "number", "limit": "number", "exact": "switch", "mode": "choice", "sides": "line", "levels": "line",
        "word": "text", "inner": "method"}  # fmt: skip


def test_excluded_ends_are_not_offered() -> None:
    field = FIELDS["open_ratio"]
    assert field.low is not None
    assert field.high is not None
    assert 0 < field.low < field.high < 1


def test_units_stand_in_labels() -> None:
    assert FIELDS["radius"].label == "Radius (px)"


def test_a_long_form_folds_its_rest_and_keeps_roles_in_the_open() -> None:
    first, rest = form(Everything).sections
    assert rest.folded
    assert {"concepts", "strength", "word"} <= {field.name for field in first.fields}
    assert len(first.fields) == OPEN_FIELDS


def test_defaults_of_every_method_go_to_the_widget_and_back() -> None:
    for cls in catalog():
        start = defaults(cls)
        raws = {field.name: show(field, start[field.name]) for field in form(cls).fields if field.name in start}
        assert cls(**read_all(cls, raws)) == cls(**start), cls.card.name


def test_values_go_to_the_widget_and_back() -> None:
    made = Everything(concepts=("a cat", "b, c"), limit=0.25, sides=(3, 4), levels=(0.1, 1e-3), inner=Diffuse(steps=7))
    raws = {name: show(field, getattr(made, name)) for name, field in FIELDS.items()}
    assert Everything(**read_all(Everything, raws)) == made


def test_an_empty_widget_of_an_optional_setting_is_none() -> None:
    assert read(FIELDS["limit"], None) is None
    assert read(FIELDS["limit"], "") is None


def test_a_method_may_be_named_or_written_out() -> None:
    assert read(FIELDS["inner"], "diffuse") == {"method": "diffuse"}
    assert read(FIELDS["inner"], '{"method": "diffuse", "steps": 9}')["steps"] == 9


@pytest.mark.parametrize(("name", "raw"), [("sides", "1, x"), ("inner", "{broken")])
def test_text_that_cannot_be_read_is_one_clear_line(name: str, raw: str) -> None:
    with pytest.raises(AskError) as caught:
        read(FIELDS[name], raw)
    assert FIELDS[name].label in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bad_values_are_refused_by_the_method_not_by_the_form() -> None:
    with pytest.raises(AskError, match="strength"):
        Everything(**read_all(Everything, {"strength": 2.0}))


def test_steps_are_round_numbers() -> None:
    assert [nice_step(span) for span in (1, 2, 10, 30, 100, 0.05)] == [0.01, 0.02, 0.1, 0.2, 1.0, 0.0005]


def test_an_emptied_text_is_no_text() -> None:
    fields = {field.name: field for field in form(Everything).fields}
    assert read(fields["word"], None) == ""
    assert read(fields["word"], "cat") == "cat"
