"""Relearning: the curve has its points, training lowers the error, the weights come back."""

import pytest

from tests.methods.measure.test_rece_probe import scene
from tests.tiny import tiny_sd
from tests.toys import Fade
from workbench.core.patch import differences, fingerprint
from workbench.core.report import Curve
from workbench.methods.measure.relearn import Relearn


@pytest.mark.parametrize("group", ["xattn_kv", "full"])
def test_the_curve_starts_before_training_and_the_weights_come_back(group: str) -> None:
    before = fingerprint(tiny_sd(), deep=True)
    report = Relearn(trials=2, iterations=5, points=2, batch=1, group=group).look(scene(Fade()))  # type: ignore[arg-type]
    assert report.problems() == []
    assert differences(before, fingerprint(tiny_sd(), deep=True)) == []
    curve = next(panel for panel in report.panels if isinstance(panel, Curve))
    assert curve.x.tolist() == [0.0, 2.0, 5.0]
    assert report.numbers["count"] == 2


def test_the_same_look_finds_the_same() -> None:
    lens = Relearn(trials=1, iterations=2, points=1, batch=1)
    assert dict(lens.look(scene(Fade())).numbers) == dict(lens.look(scene(Fade())).numbers)
