"""Every lens of the catalog, with its quick settings on the tiny models, on the plain model and on an edited one."""

import pytest

from tests.contract import stage, suite
from tests.tiny import tiny_sd, tiny_sdxl
from tests.toys import Fade
from workbench.core.catalog import catalog
from workbench.core.errors import MissingPart
from workbench.core.method import Lens

LENSES = [cls for cls in catalog(kind="lens", family="unet") if issubclass(cls, Lens)]
each = pytest.mark.parametrize("cls", LENSES, ids=[cls.card.name for cls in LENSES])


def looked(cls: type[Lens], *args: object) -> None:
    try:
        suite.lens_only_looks(stage.quick(cls), *args)  # type: ignore[arg-type]
    except MissingPart as error:
        pytest.skip(str(error))


@each
def test_it_only_looks(cls: type[Lens]) -> None:
    looked(cls, tiny_sd())


@each
def test_it_only_looks_at_an_edited_model(cls: type[Lens]) -> None:
    looked(cls, tiny_sd(), (Fade(),))


@each
def test_it_only_looks_at_a_model_with_two_text_encoders(cls: type[Lens]) -> None:
    looked(cls, tiny_sdxl())


def test_the_catalog_has_lenses() -> None:
    assert LENSES
