"""Every method of the catalog as a record of its settings."""

import sys

import pytest

from tests.contract import suite
from tests.tiny import tiny_sd
from workbench.core.catalog import catalog
from workbench.core.method import Method

METHODS = list(catalog())
each = pytest.mark.parametrize("cls", METHODS, ids=[cls.card.name for cls in METHODS])


@each
def test_settings_survive_json_pickle_and_repr(cls: type[Method]) -> None:
    suite.settings_round_trip(cls)


@each
def test_values_outside_the_declaration_are_refused(cls: type[Method]) -> None:
    suite.bad_values_are_refused(cls)


@each
def test_fields_are_described(cls: type[Method]) -> None:
    suite.fields_are_described(cls)


@each
def test_the_card_is_complete(cls: type[Method]) -> None:
    suite.card_is_complete(cls)


@each
def test_the_file_names_paper_equation_and_differences(cls: type[Method]) -> None:
    suite.module_names_its_source(cls, sys.modules[cls.__module__].__doc__ or "")


@each
def test_models_of_other_families_are_refused(cls: type[Method]) -> None:
    if "unet" not in cls.card.families and "any" not in cls.card.families:
        pytest.skip(f"{cls.card.name} is for {', '.join(cls.card.families)} models; the tiny model is a unet")
    suite.other_families_are_refused(cls, tiny_sd())
