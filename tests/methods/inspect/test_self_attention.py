"""Self-attention: maps that sum to one and equal the recorder's rows, levels, moments, pixels outside."""

import numpy as np
import pytest
import torch

from tests.tiny import tiny_sd, tiny_sdxl
from workbench.blocks.recorder import Recorder, token_maps
from workbench.core.ask import Ask
from workbench.core.errors import AskError
from workbench.core.patch import fingerprint
from workbench.core.report import Heat, Picture, Report, Table
from workbench.core.scene import Scene
from workbench.methods.generate.diffuse import Diffuse
from workbench.methods.inspect.self_attention import SelfAttention, parts

ASK = Ask(prompts=["a cat", "the red dog"], seeds=[1, 2])


def scene(make=tiny_sd) -> Scene:
    return Scene(make(), Diffuse(steps=3, guidance=3.0), (), ASK)


def heats(report: Report) -> list[Heat]:
    assert report.problems() == []
    return [panel for panel in report.panels if isinstance(panel, Heat)]


@pytest.mark.parametrize("make", [tiny_sd, tiny_sdxl])
def test_a_gaze_sums_to_one_over_the_grid_of_its_level(make) -> None:
    for level, side in ((0, 8), (1, 4)):
        maps = heats(SelfAttention(level=level).look(scene(make)))
        assert [heat.values.shape for heat in maps] == [(side, side)] * 2
        assert [heat.values.sum() for heat in maps] == pytest.approx([1.0, 1.0], abs=1e-5)
        assert maps[0].over is not None
        assert maps[0].over.shape == (16, 16, 3)


def test_it_equals_the_row_of_the_full_maps_by_hand() -> None:
    sites = [site for site in tiny_sd().sites("self-attention") if site.level == 0]
    recorder = Recorder(steps=lambda step: step.index == 2)
    recorder.attention(sites, "maps", token_maps)
    scene().run(record=recorder.attach)
    rows = torch.stack([recorder.tape[f"maps/{site.name}"][0, :, 3 * 8 + 7] for site in sites]).double().mean(0)
    maps = heats(SelfAttention(pixel=(15, 6), level=0, moment=1.0).look(scene()))
    for row, heat in zip(rows, maps, strict=True):
        assert np.allclose(heat.values, row.reshape(8, 8).numpy(), atol=1e-6)


def test_evenness_lies_between_its_ends_and_has_a_line_a_site() -> None:
    report = SelfAttention().look(scene())
    table = next(panel for panel in report.panels if isinstance(panel, Table))
    assert len(table.rows) == len([s for s in tiny_sd().sites("self-attention") if s.level == 0])
    assert 0 < report.numbers["evenness"] <= 1
    assert all(row[2] <= row[1] <= row[3] for row in table.rows)


def test_the_tiny_model_gives_this_number_with_seeds_1_and_2() -> None:
    assert SelfAttention().look(scene()).numbers["evenness"] == pytest.approx(0.891234, rel=1e-3)


def test_looking_leaves_the_model_as_it_was() -> None:
    scene().run()  # transformers sets attributes of its own at the first call
    before = fingerprint(tiny_sd())
    SelfAttention().look(scene())
    assert fingerprint(tiny_sd()) == before


def test_a_pixel_outside_and_a_level_without_are_refused() -> None:
    with pytest.raises(AskError, match=r"The pixel is \(16, 3\); the picture is 16x16"):
        SelfAttention(pixel=(16, 3)).look(scene())
    with pytest.raises(AskError, match=r"Level 3 of tiny-sd has no self-attention. Levels that have: 0, 1\."):
        SelfAttention(level=3).look(scene())


def test_places_of_a_kind_have_a_colour() -> None:
    features = torch.zeros(16, 5)
    features[:4, 0], features[12:, 1] = 4.0, 3.0
    picture = parts(features, (4, 4))
    assert picture.shape == (4, 4, 3)
    assert {tuple(picture[0, i]) for i in range(4)} == {tuple(picture[0, 0])}  # the first row is one kind
    assert tuple(picture[0, 0]) != tuple(picture[3, 0]) != tuple(picture[1, 0])


def test_a_picture_of_the_keys_for_each_image() -> None:
    report = SelfAttention(level=1).look(scene())
    pictures = [panel for panel in report.panels if isinstance(panel, Picture)]
    assert [picture.pixels.shape for picture in pictures] == [(4, 4, 3)] * 2
