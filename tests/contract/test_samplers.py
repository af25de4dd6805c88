"""Every sampler of the catalog, with its quick settings on the tiny models."""

import pytest

from tests.contract import stage, suite
from tests.tiny import tiny_sd, tiny_sdxl
from workbench.core.bundle import Bundle
from workbench.core.catalog import catalog
from workbench.core.errors import MissingPart
from workbench.core.method import Sampler
from workbench.core.tape import ignore

SAMPLERS = [cls for cls in catalog(kind="sampler", family="unet") if issubclass(cls, Sampler)]
each = pytest.mark.parametrize("cls", SAMPLERS, ids=[cls.card.name for cls in SAMPLERS])
on_both = pytest.mark.parametrize("bundle", [tiny_sd, tiny_sdxl], ids=["sd", "xl"])


def ready(cls: type[Sampler], bundle: Bundle) -> Sampler:
    """The sampler with its quick settings; skipped when a model that it needs is not shipped yet."""
    sampler = stage.quick(cls)
    assert isinstance(sampler, Sampler)
    try:
        sampler.sample(bundle, stage.ASK.row(0), ignore)
    except MissingPart as error:
        pytest.skip(str(error))
    return sampler


@each
@on_both
def test_it_shows_its_steps(cls: type[Sampler], bundle: type[Bundle]) -> None:
    suite.sampler_shows_its_steps(ready(cls, bundle()), bundle())


@each
@on_both
def test_it_repeats_itself(cls: type[Sampler], bundle: type[Bundle]) -> None:
    suite.sampler_repeats_itself(ready(cls, bundle()), bundle())


@each
@on_both
def test_it_keeps_rows_apart(cls: type[Sampler], bundle: type[Bundle]) -> None:
    suite.sampler_keeps_rows_apart(ready(cls, bundle()), bundle())


@each
@on_both
def test_it_stops_within_one_step(cls: type[Sampler], bundle: type[Bundle]) -> None:
    suite.stops(ready(cls, bundle()), bundle())


def test_the_catalog_has_samplers() -> None:
    assert SAMPLERS
