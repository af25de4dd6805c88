"""Methods that say they take transformers, on tiny SD3, PixArt and FLUX models: the contract beyond UNets."""

from collections.abc import Callable

import pytest

from tests.contract import stage, suite
from tests.tiny import tiny_flux, tiny_pixart, tiny_sd3
from workbench.core.bundle import Bundle
from workbench.core.catalog import catalog
from workbench.core.errors import MissingPart, UnsupportedFamily
from workbench.core.method import Edit, Lens

MODELS: dict[str, Callable[[], Bundle]] = {"pixart": tiny_pixart, "sd3": tiny_sd3, "flux": tiny_flux}
FAMILY = {"pixart": "dit", "sd3": "mmdit", "flux": "mmdit"}


def cases(kind: str) -> list[tuple[str, str]]:
    return [(cls.card.name, name) for name in MODELS for cls in catalog(kind=kind, family=FAMILY[name])]  # type: ignore[arg-type]


def chosen(name: str, kind: type) -> type:
    from workbench.core.catalog import find

    cls = find(name)
    assert issubclass(cls, kind)
    return cls


@pytest.mark.parametrize(("name", "model"), cases("edit"))
def test_an_edit_leaves_no_trace_and_is_neutral_where_it_says_so(name: str, model: str) -> None:
    bundle, edit = MODELS[model](), stage.quick(chosen(name, Edit))
    try:
        edit.fit(bundle, lambda step: None)
        suite.edit_leaves_no_trace(edit, bundle)
    except MissingPart as error:
        pytest.skip(str(error))
    suite.neutral_changes_nothing(type(edit), bundle)


@pytest.mark.parametrize(("name", "model"), cases("lens"))
def test_a_lens_only_looks(name: str, model: str) -> None:
    try:
        suite.lens_only_looks(stage.quick(chosen(name, Lens)), MODELS[model]())
    except (MissingPart, UnsupportedFamily) as error:  # the lens that before-after holds may not take it
        pytest.skip(str(error))
