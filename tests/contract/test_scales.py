"""Every method that works on visual autoregressive models, with its quick settings on the tiny one."""

import pytest

from tests.contract import stage, suite
from tests.tiny import tiny_var
from workbench.core.catalog import catalog
from workbench.core.errors import MissingPart
from workbench.core.method import Edit, Lens, Sampler
from workbench.core.tape import ignore


def of(kind: str) -> list[type]:
    """The methods of a kind whose card names the family."""
    return [cls for cls in catalog(kind=kind) if "var" in cls.card.families]  # type: ignore[arg-type]


def each(kind: str) -> pytest.MarkDecorator:
    found = of(kind)
    return pytest.mark.parametrize("cls", found, ids=[cls.card.name for cls in found])


@each("sampler")
def test_a_sampler_keeps_the_contract(cls: type[Sampler]) -> None:
    sampler = stage.quick(cls)
    if cls.topic() == "retouch":
        pytest.skip(f"{cls.card.name} needs a picture")
    suite.sampler_shows_its_steps(sampler, tiny_var())
    suite.sampler_repeats_itself(sampler, tiny_var())
    suite.sampler_keeps_rows_apart(sampler, tiny_var())
    suite.stops(sampler, tiny_var())


@each("edit")
def test_an_edit_keeps_the_contract(cls: type[Edit]) -> None:
    edit = stage.quick(cls)
    try:
        edit.fit(tiny_var(), ignore)
    except MissingPart as error:
        pytest.skip(str(error))
    suite.edit_leaves_no_trace(edit, tiny_var())
    suite.edit_undoes_half(edit, tiny_var())
    suite.neutral_changes_nothing(cls, tiny_var())
    suite.edit_has_an_effect(cls, tiny_var())
    suite.edit_keeps_rows_apart(edit, tiny_var())


@each("lens")
def test_a_lens_only_looks(cls: type[Lens]) -> None:
    try:
        suite.lens_only_looks(stage.quick(cls), tiny_var())
    except MissingPart as error:
        pytest.skip(str(error))


def test_models_that_decode_by_scale_have_methods() -> None:
    assert {cls.card.name for cls in of("sampler")} >= {"var", "code", "flexvar"}
    assert {cls.card.name for cls in of("edit")} >= {"fast-var", "cfg-tail"}
