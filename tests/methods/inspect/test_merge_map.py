"""The merge map: colours by hand, places as the plan made them, and a word where nothing merges."""

import pytest
import torch

from tests.tiny import tiny_flux, tiny_pixart, tiny_sd, tiny_sd3
from workbench.core.ask import Ask
from workbench.core.bundle import Bundle
from workbench.core.report import Film, Heat, Note, Table
from workbench.core.scene import Scene
from workbench.methods.generate.diffuse import Diffuse
from workbench.methods.inspect.merge_map import MergeMap, mosaic
from workbench.methods.reduce.todo import Todo
from workbench.methods.reduce.tome import Tome

ASK = Ask(prompts=["a cat", "the red dog"], seeds=[1, 2])


def scene(*edits: Tome | Todo, bundle: Bundle | None = None, steps: int = 3) -> Scene:
    return Scene(bundle or tiny_sd(), Diffuse(steps=steps), edits, ASK)


def test_colours_of_a_place_are_the_mean_on_paper() -> None:
    image = torch.tensor([0.0, 100.0, 200.0, 40.0]).reshape(1, 2, 2).expand(3, -1, -1).to(torch.uint8)
    shown = mosaic(image, torch.tensor([0, 1, 0, 2]), (2, 2))
    assert shown[..., 0].tolist() == [[100, 100], [100, 40]]
    large = image.repeat_interleave(4, -1).repeat_interleave(4, -2)
    assert mosaic(large, torch.arange(4), (2, 2)).shape == (8, 8, 3)


def test_a_frame_a_layer_and_step_and_a_line_a_layer() -> None:
    report = MergeMap(moments=2, layers=2).look(scene(Tome(ratio=0.75)))
    film, heat = report.panels[:2]
    table = next(panel for panel in report.panels if isinstance(panel, Table))
    assert isinstance(film, Film)
    assert film.frames.shape == (1 + 2 * 2, 16, 16, 3)
    assert film.labels[0] == "picture"
    assert film.labels[1].startswith("step 1, ")
    assert isinstance(heat, Heat)
    assert heat.values.shape == (8, 8)
    assert all(row[1:3] == (64, 16.0) for row in table.rows)
    assert 0.75 < report.numbers["merged"] <= 1.0


@pytest.mark.parametrize("make", [tiny_pixart, tiny_sd3, tiny_flux])
def test_transformers_show_the_pictures_tokens_alone(make: object) -> None:
    bundle: Bundle = make()  # type: ignore[operator]
    for edit in (Tome(), Todo()):
        report = MergeMap().look(scene(edit, bundle=bundle, steps=2))
        table = next(panel for panel in report.panels if isinstance(panel, Table))
        tokens = bundle.sites("self-attention")[0].tokens
        assert {row[1] for row in table.rows} == {tokens}
        expected = tokens / 2 if isinstance(edit, Tome) else tokens / 4  # type: ignore[operator]
        assert {row[2] for row in table.rows} == {expected}


def test_without_a_merging_edit_it_says_so() -> None:
    report = MergeMap().look(scene())
    assert report.numbers == {"merged": 0.0, "largest": 1.0}
    assert any(isinstance(panel, Note) and "merges tokens" in panel.text for panel in report.panels)
