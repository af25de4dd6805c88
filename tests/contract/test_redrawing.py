"""Samplers that redraw a picture, on the tiny model of their family: the same demands with a picture to look at."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.contract import stage, suite
from tests.tiny import tiny_var
from workbench.core.ask import Ask
from workbench.core.catalog import catalog
from workbench.core.method import Sampler

SAMPLERS = [cls for cls in catalog("retouch", "sampler", "var") if issubclass(cls, Sampler)]
each = pytest.mark.parametrize("cls", SAMPLERS, ids=[cls.card.name for cls in SAMPLERS])


@pytest.fixture(autouse=True)
def request_with_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """The standard request with a picture, and a mask for those that take one, in place of the plain one."""
    draw = np.random.default_rng(0)
    Image.fromarray(draw.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(tmp_path / "picture.png")
    mask = np.zeros((16, 16), np.uint8)
    mask[:, 6:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    ask = stage.ASK.but(image=tmp_path / "picture.png", mask=tmp_path / "mask.png")
    monkeypatch.setattr(suite, "ASK", ask)
    return ask


@pytest.fixture
def sampler(cls: type[Sampler], request_with_picture: Ask, monkeypatch: pytest.MonkeyPatch) -> Sampler:
    """The sampler with its quick settings; one that makes its own mask is given none."""
    made = stage.quick(cls)
    if cls.card.name == "var-outpaint":
        monkeypatch.setattr(suite, "ASK", request_with_picture.but(mask=None))
    return made


@each
def test_it_shows_its_steps(sampler: Sampler) -> None:
    suite.sampler_shows_its_steps(sampler, tiny_var())


@each
def test_it_repeats_itself(sampler: Sampler) -> None:
    suite.sampler_repeats_itself(sampler, tiny_var())


@each
def test_it_keeps_rows_apart(sampler: Sampler) -> None:
    suite.sampler_keeps_rows_apart(sampler, tiny_var())


@each
def test_it_stops_within_one_step(sampler: Sampler) -> None:
    suite.stops(sampler, tiny_var())


def test_the_catalog_has_samplers_that_redraw() -> None:
    assert len(SAMPLERS) >= 3
