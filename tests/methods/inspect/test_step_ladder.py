"""Step ladder: which rungs, whose pictures, distances to the last of the base, and the judge where there is one."""

import pytest
import torch

from tests.tiny import tiny_sd
from workbench.blocks.alongside import distance
from workbench.core.ask import Ask
from workbench.core.errors import AskError
from workbench.core.report import Picture, Table
from workbench.core.scene import Scene
from workbench.methods.fewstep.lcm import Lcm
from workbench.methods.generate.diffuse import Diffuse
from workbench.methods.inspect.step_ladder import StepLadder

ASK = Ask(prompts=["a flat emoji of a cat", "the red dog"], seeds=[1, 2])
BASE, STUDENT = Diffuse(guidance=2.0), Lcm(student="random:1")


def scene(*prompts: str) -> Scene:
    return Scene(tiny_sd(), Diffuse(steps=3), (), Ask(prompts=prompts, seeds=[1, 2]) if prompts else ASK)


def ladder(*steps: int) -> StepLadder:
    return StepLadder(steps=steps, base=BASE, student=STUDENT)


def test_a_sheet_an_image_with_the_base_above_the_student() -> None:
    report = ladder(2, 1).look(scene())
    assert report.problems() == []
    sheets = [panel for panel in report.panels if isinstance(panel, Picture)]
    assert [s.pixels.shape for s in sheets] == [(32, 32, 3)] * 2
    assert "base in 1, 2; student in 1, 2 steps" in sheets[0].title
    images = Scene(tiny_sd(), STUDENT.but(steps=2), (), ASK).run()
    assert torch.equal(torch.from_numpy(sheets[1].pixels[16:, 16:]), images[1].permute(1, 2, 0))


def test_distances_are_to_the_bases_most_steps() -> None:
    report = ladder(1, 3).look(scene())
    last, first = (Scene(tiny_sd(), BASE.but(steps=n), (), ASK).run() for n in (3, 1))
    assert report.numbers["base_3_distance"] == 0
    assert report.numbers["base_1_distance"] == pytest.approx(distance(first, last))


def test_steps_that_a_sampler_does_not_take_are_left_out() -> None:
    lens = StepLadder(steps=(1, 2), base={"method": "diffuse"}, student={"method": "diversity-distillation"})
    report = lens.but(student={"method": "diversity-distillation", "student": "random:1"}).look(scene())
    table = report.panels[-1]
    assert isinstance(table, Table)
    assert [row[:2] for row in table.rows] == [("base", 1), ("base", 2), ("student", 2)]
    with pytest.raises(AskError, match="neither sampler takes any of"):
        ladder(0).look(scene())


def test_without_a_judged_object_there_are_no_judges_columns() -> None:
    report = ladder(1).look(scene("nothing xyz", "nor this"))
    assert set(report.numbers) == {"base_1_distance", "student_1_distance"}
    assert set(ladder(1).look(scene()).numbers) > {"base_1_object", "student_1_object"}


def test_a_sampler_without_steps_is_refused() -> None:
    from typing import ClassVar

    from workbench.core.method import Card, Sampler

    class Fixed(Sampler):
        card: ClassVar[Card] = Card("fixed-for-the-ladder", "Fixed", "none", ("unet",), topic="toys")

    try:
        with pytest.raises(AskError, match="fixed-for-the-ladder has no number of steps"):
            StepLadder(base=Fixed()).look(scene())
    finally:
        Sampler.known.pop("fixed-for-the-ladder")
