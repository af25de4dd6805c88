"""Figures: each panel has one, ranges mean what they say, and nothing foreign gets through."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from workbench.core.report import Curve, Film, Heat, Note, Panel, Picture, Table
from workbench.view.figures import AMOUNT, SIGNED, data_uri, figure, value_range

HOSTILE = '<img src="http://evil.example/x.png" onerror=alert(1)>'
PIXELS = np.arange(8 * 6 * 3, dtype=np.uint8).reshape(8, 6, 3)
PANELS: list[Panel] = [
    Picture(PIXELS, "a picture"),
    Film(np.stack([PIXELS, PIXELS]), ("one", "two"), "a film"),
    Film(np.random.default_rng(0).random((3, 4, 4)), ("cat", "on", "mat"), "maps", over=PIXELS),
    Heat(np.linspace(0, 1, 12).reshape(3, 4), "heat", "share", over=PIXELS),
    Heat(np.linspace(-1, 2, 12).reshape(3, 4), "signed", signed=True),
    Curve(np.arange(5.0), np.ones((2, 5)), ("a", "b"), "curve", ("step", "value")),
    Table(("word", "value"), (("cat", 0.5), ("dog", 2)), "table"),
    Note("text", "note"),
]


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: f"{type(panel).__name__}-{panel.title}")
def test_every_panel_has_a_figure_that_is_plain_data(panel: Panel) -> None:
    made = json.loads(figure(panel).to_json())
    assert made["layout"]["title"]["text"] == panel.title
    assert "http" not in json.dumps(made)


def test_small_pictures_are_enlarged_by_whole_pixels() -> None:
    data = base64.b64decode(data_uri(PIXELS, smallest=16).partition(",")[2])
    image = np.asarray(Image.open(io.BytesIO(data)))
    assert image.shape == (16, 12, 3)
    assert (image[::2, ::2] == PIXELS).all()
    assert (image[1::2, 1::2] == PIXELS).all()


def test_signed_maps_are_centred_and_have_their_own_scale() -> None:
    heat = Heat(np.array([[-1.0, 3.0]]), signed=True)
    assert value_range(heat) == (-3.0, 3.0)
    scales = [json.dumps(json.loads(figure(h).to_json())["data"][0]["colorscale"]) for h in (heat, Heat(heat.values))]
    assert scales[0] != scales[1]
    assert AMOUNT != SIGNED


def test_a_flat_map_has_a_range() -> None:
    low, high = value_range(Heat(np.zeros((2, 2))))
    assert low < high


def test_given_ends_are_kept() -> None:
    assert value_range(Heat(np.array([[0.2, 0.4]]), low=0.0, high=1.0)) == (0.0, 1.0)


def test_film_shows_one_frame_at_a_time() -> None:
    made = figure(PANELS[1])
    assert sum(bool(trace.visible) for trace in made.data) == 1
    assert [step.label for step in made.layout.sliders[0].steps] == ["one", "two"]


def test_overlay_strength_can_be_turned() -> None:
    steps = figure(PANELS[3]).layout.sliders[0].steps
    assert [step.args[0]["opacity"][0] for step in (steps[0], steps[-1])] == [0.0, 1.0]


@pytest.mark.parametrize(
    "panel",
    [
        Table((HOSTILE,), ((HOSTILE,),), HOSTILE),
        Curve(np.arange(2.0), np.ones((1, 2)), (HOSTILE,), HOSTILE, (HOSTILE, HOSTILE)),
        Heat(np.ones((2, 2)), HOSTILE, HOSTILE),
        Film(np.ones((1, 2, 2)), (HOSTILE,), HOSTILE),
        Note(HOSTILE, HOSTILE),
    ],
    ids=lambda panel: type(panel).__name__,
)
def test_texts_cannot_become_markup(panel: Panel) -> None:
    assert "<img" not in figure(panel).to_json().replace("\\u003c", "<")
