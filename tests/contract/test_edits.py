"""Every edit of the catalog, with its quick settings on the tiny model."""

import sys
from pathlib import Path

import pytest

from tests.contract import stage, suite
from tests.tiny import tiny_sd, tiny_sdxl
from workbench.core.catalog import catalog
from workbench.core.errors import MissingPart
from workbench.core.method import Edit
from workbench.core.tape import ignore

EDITS = [cls for cls in catalog(kind="edit", family="unet") if issubclass(cls, Edit)]
NAMES = [cls.card.name for cls in EDITS]
PAIRS = [(name, other) for name in NAMES for other in stage.partners(name, NAMES)]
each = pytest.mark.parametrize("cls", EDITS, ids=NAMES)


def ready(cls: type[Edit]) -> Edit:
    """The edit with its quick settings; skipped when a model that it needs is not shipped yet."""
    edit = stage.quick(cls)
    assert isinstance(edit, Edit)
    try:
        edit.fit(tiny_sd(), ignore)
    except MissingPart as error:
        pytest.skip(str(error))
    return edit


@each
def test_it_leaves_no_trace(cls: type[Edit]) -> None:
    suite.edit_leaves_no_trace(ready(cls), tiny_sd())


@each
def test_it_undoes_half_a_patch(cls: type[Edit]) -> None:
    suite.edit_undoes_half(ready(cls), tiny_sd())


@each
def test_its_neutral_setting_changes_nothing(cls: type[Edit]) -> None:
    ready(cls)
    suite.neutral_changes_nothing(cls, tiny_sd())


@each
def test_it_has_an_effect(cls: type[Edit]) -> None:
    ready(cls)
    suite.edit_has_an_effect(cls, tiny_sd())


@each
def test_its_fit_is_pure_and_its_delta_survives_a_file(cls: type[Edit], tmp_path: Path) -> None:
    suite.fit_is_pure(ready(cls), tiny_sd(), tmp_path)


@each
def test_it_keeps_rows_apart(cls: type[Edit]) -> None:
    suite.edit_keeps_rows_apart(ready(cls), tiny_sd())


@each
def test_it_works_on_two_text_encoders(cls: type[Edit]) -> None:
    edit = ready(cls)
    with stage.unchanged(tiny_sdxl(), "XL"):
        found = stage.drawn_with(tiny_sdxl(), edit)
    assert not found.equals(stage.plain(tiny_sdxl()))


@pytest.mark.parametrize("pair", PAIRS, ids="+".join)
def test_it_stacks_with_partners_in_both_orders(pair: tuple[str, str]) -> None:
    known = dict(zip(NAMES, EDITS, strict=True))
    suite.edits_stack(ready(known[pair[0]]), ready(known[pair[1]]), tiny_sd())


def test_the_catalog_has_edits() -> None:
    assert EDITS
    assert "tests" not in {sys.modules[cls.__module__].__name__.split(".")[0] for cls in EDITS}
