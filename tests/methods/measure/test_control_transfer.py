"""Control transfer: four ways of the same seeds, fitted once, and a cosine that is 1 for the same change."""

from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from tests.tiny import tiny_sd
from tests.toys import Fade
from workbench.core.ask import Ask
from workbench.core.patch import differences, fingerprint
from workbench.core.report import Note, Picture
from workbench.core.scene import Scene, using
from workbench.methods.fewstep.lcm import Lcm
from workbench.methods.generate.diffuse import Diffuse
from workbench.methods.measure.control_transfer import ControlTransfer, transfer

ASK = Ask(prompts=["a flat emoji of a cat"], seeds=[1])
STUDENT = Lcm(student="random:1", steps=2)
LENS = ControlTransfer(student=STUDENT)


def scene(*edits: Any) -> Scene:
    return Scene(tiny_sd(), Diffuse(steps=2), edits, ASK)


def test_the_four_ways_are_the_four_runs() -> None:
    before = fingerprint(tiny_sd())
    report = LENS.look(scene(Fade()))
    assert not differences(before, fingerprint(tiny_sd()))
    assert report.problems() == []
    sheet = next(panel for panel in report.panels if isinstance(panel, Picture)).pixels
    runs = [scene().run(), scene(Fade()).run(), scene().run(sampler=STUDENT), scene(Fade()).run(sampler=STUDENT)]
    for place, run in enumerate(runs):
        assert np.array_equal(sheet[:, 16 * place : 16 * (place + 1)], run[0].permute(1, 2, 0).numpy())
    assert report.numbers["base_moved"] > 0
    assert report.numbers["student_moved"] > 0
    assert -1 <= report.numbers["transfer"] <= 1
    assert {"base_object", "student_edited_object"} <= set(report.numbers)


def test_an_edit_is_fitted_once() -> None:
    fits: list[int] = []

    class Counted(Fade):
        card: ClassVar[Any] = Fade.card.__class__("counted-fade", "Counted", "none", ("any",), topic="toys")

        def fit(self, bundle: Any, tap: Any) -> Any:
            fits.append(1)
            return super().fit(bundle, tap)

    try:
        LENS.look(scene(Counted()))
    finally:
        Fade.known.pop("counted-fade")
    assert fits == [1]


def test_without_an_edit_nothing_moves_and_a_note_says_so() -> None:
    report = LENS.look(scene())
    assert isinstance(report.panels[0], Note)
    assert report.numbers["base_moved"] == report.numbers["student_moved"] == 0
    assert "transfer" not in report.numbers


def test_the_same_change_has_cosine_one_and_the_opposite_minus_one() -> None:
    base, student = torch.tensor([[1.0, 0.0]]), torch.tensor([[5.0, 5.0]])
    change = torch.tensor([[0.3, -0.4]])
    assert transfer(base, base + change, student, student + 2 * change) == pytest.approx(1.0)
    assert transfer(base, base + change, student, student - change) == pytest.approx(-1.0)
    assert transfer(base, base + change, student, student) == 0.0
    turned = torch.tensor([[0.4, 0.3]])
    assert transfer(base, base + change, student, student + turned) == pytest.approx(0.0, abs=1e-6)


def test_slow_twin() -> None:
    one, two, three, four = (torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(n)) for n in range(4))  # fmt: skip  # noqa: E501
    cosines = []
    for a, b, c, d in zip(one.tolist(), two.tolist(), three.tolist(), four.tolist(), strict=True):
        left, right = [y - x for x, y in zip(c, d, strict=True)], [y - x for x, y in zip(a, b, strict=True)]
        dot = sum(x * y for x, y in zip(left, right, strict=True))
        cosines.append(dot / (sum(x * x for x in left) * sum(x * x for x in right)) ** 0.5)
    assert transfer(one, two, three, four) == pytest.approx(sum(cosines) / 3, abs=1e-12)


def test_the_student_is_worn_on_the_edited_base() -> None:
    with using(tiny_sd(), Fade()) as bundle:
        worn = STUDENT.sample(bundle, ASK, lambda step: None)
    assert torch.equal(worn, scene(Fade()).run(sampler=STUDENT))
