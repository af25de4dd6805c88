"""Inspect report: a lens that knows the truth wins, one that knows nothing does not, floors by hand, refusals."""

import dataclasses
from typing import Annotated, Any, ClassVar

import numpy as np
import pytest
import torch
from pydantic import Field

from tests.tiny import tiny_sd
from tests.toys import card, listed, unlisted
from workbench.blocks.made import made_scenes
from workbench.blocks.world import World
from workbench.core.ask import Ask
from workbench.core.bundle import Bundle
from workbench.core.errors import AskError, MissingPart
from workbench.core.fields import Role
from workbench.core.method import Lens
from workbench.core.patch import fingerprint
from workbench.core.report import Film, Heat, Report, Table
from workbench.core.scene import Scene
from workbench.methods.generate.diffuse import Diffuse
from workbench.methods.inspect.inspect_report import FLOORS, InspectReport
from workbench.ops import truth

WORLD = World.load()
QUICK: dict[str, Any] = {"scenes": 3, "pairs": 2, "levels": (0.5,)}


def worldly() -> Bundle:
    return dataclasses.replace(tiny_sd(), world=WORLD)


def scene(bundle: Bundle) -> Scene:
    return Scene(bundle, Diffuse(steps=1), (), Ask(prompts=["unused"]))


def tables(report: Report) -> list[dict[str, tuple[float, ...]]]:
    assert report.problems() == []
    return [{row[0]: row[1:] for row in panel.rows} for panel in report.panels if isinstance(panel, Table)]  # type: ignore[misc]


@unlisted
class Oracle(Lens):
    """Sees what differs from the ground; the first word is the left object, the second the right one."""

    card: ClassVar = card("toy-oracle", families=("any",))
    words: Annotated[tuple[str, ...], Role("word")] = Field((), description="Words to follow.")

    def look(self, scene: Scene) -> Report:
        """A frame a word: the drawing's own half, or all of it for a single word."""
        pixels = scene.run()[0].permute(1, 2, 0).numpy().astype(int)
        drawn = (np.abs(pixels - pixels[0, 0]).sum(-1) > 40).astype(np.float32)
        half = drawn.shape[1] // 2
        left, right = drawn.copy(), drawn.copy()
        left[:, half:], right[:, :half] = 0, 0
        frames = [drawn] if len(self.words) == 1 else [left, right]
        return Report((Film(np.stack(frames), self.words, over=pixels.astype(np.uint8)),))


@unlisted
class Blind(Lens):
    """The same map for every word."""

    card: ClassVar = card("toy-blind", families=("any",))
    words: Annotated[tuple[str, ...], Role("word")] = Field((), description="Words to follow.")

    def look(self, scene: Scene) -> Report:
        """Ones everywhere."""
        size = scene.run().shape[-2:]
        return Report((Film(np.ones((len(self.words), *size), np.float32), self.words),))


def test_one_that_knows_the_truth_wins_and_one_that_knows_nothing_is_the_whole_image() -> None:
    # pictures of 128 px: the tiny model draws 16, too coarse for masks
    shapes = dataclasses.replace(tiny_sd().shapes, image=(3, 128, 128), latent=(4, 64, 64))
    bundle = dataclasses.replace(worldly(), shapes=shapes)
    with listed(Oracle, Blind):
        report = InspectReport(lenses=("toy-oracle", "toy-blind"), unsaid=(), **QUICK).look(scene(bundle))
    single, pairs = tables(report)
    assert single["toy-oracle"][0] > 0.8  # a drawing may hold the colour of its ground
    assert single["toy-oracle"][3] == 1.0  # pointing
    assert single["toy-oracle"][4] > 0.8  # energy
    assert single["toy-blind"] == single["whole image"]
    assert pairs["toy-oracle"][0] == 1.0
    assert pairs["toy-blind"][0] == 0.0
    assert report.numbers["binding"] == 1.0
    assert report.numbers["ap"] == pytest.approx(single["toy-oracle"][0], abs=1e-4)
    best = max(single[name][0] for name in FLOORS)  # of an oracle, "another caption" is as good as its own
    assert report.numbers["target"] == pytest.approx(best + 0.4 * (1 - best), abs=1e-4)


def test_floors_that_need_no_model_by_hand() -> None:
    report = InspectReport(lenses=("token-maps",), unsaid=(), **{**QUICK, "pairs": 0}).look(scene(worldly()))
    (single,) = tables(report)
    made = made_scenes(WORLD, 3, False, 0, 16)
    middle = truth.centred((64, 64))
    slow = np.mean([truth.average_precision(middle[m.kept], m.masks[0][m.kept]) for m in made])
    assert single["centred Gaussian"][0] == pytest.approx(slow, abs=1e-4)
    area = np.mean([m.masks[0][m.kept].float().mean() for m in made])
    assert single["whole image"][0] == pytest.approx(area, abs=1e-4)
    assert "binding" not in report.numbers


def test_the_whole_report_on_a_tiny_model_leaves_it_as_it_was() -> None:
    bundle = worldly()
    InspectReport(**QUICK).look(scene(bundle))
    before = fingerprint(bundle, deep=True)
    report = InspectReport(**QUICK).look(scene(bundle))
    assert fingerprint(bundle, deep=True) == before
    single, pairs = tables(report)
    assert set(single) == {"token-maps", "open-word-maps", *FLOORS}
    assert set(pairs) == {"token-maps", "open-word-maps", "spoilt weights"}
    for row in single.values():
        assert row[1] <= row[0] <= row[2]
    gap = single["token-maps"][0] - single["open-word-maps"][0]
    assert report.numbers["unsaid_gap"] == pytest.approx(gap, abs=1e-3)
    matrix = next(panel for panel in report.panels if isinstance(panel, Heat) and panel.title.startswith("Binding"))
    assert matrix.values.shape == (2, 2)
    shown = [panel for panel in report.panels if isinstance(panel, Heat) and panel.title == "the true mask"]
    assert len(shown) == 3
    assert torch.equal(torch.from_numpy(shown[0].values) > 0, made_scenes(WORLD, 1, False, 0, 16)[0].masks[0])


def test_what_cannot_be_measured_is_refused_before_any_work() -> None:
    with pytest.raises(MissingPart, match="tiny-sd has no world of its own"):
        InspectReport(**QUICK).look(scene(tiny_sd()))
    with pytest.raises(AskError, match="denoise-film is no lens that follows words"):
        InspectReport(lenses=("denoise-film",), **QUICK).look(scene(worldly()))
    with pytest.raises(AskError, match="levels is"):
        InspectReport(**{**QUICK, "levels": (1.5,)}).look(scene(worldly()))
