"""Textual inversion as an attack: it lowers its loss, draws with the word, and leaves the model alone."""

from tests.methods.measure.test_rece_probe import scene
from tests.tiny import tiny_sd
from tests.toys import Fade
from workbench.blocks.attack import aim, place
from workbench.core.patch import differences, fingerprint
from workbench.core.report import Curve, Table
from workbench.methods.measure.textual_inversion import TextualInversion


def test_the_word_is_put_into_every_prompt_and_the_model_is_left_alone() -> None:
    before = fingerprint(tiny_sd(), deep=True)
    report = TextualInversion(trials=2, iterations=2, batch=2, tokens=2).look(scene(Fade()))
    assert report.problems() == []
    assert differences(before, fingerprint(tiny_sd(), deep=True)) == []
    table = next(panel for panel in report.panels if isinstance(panel, Table))
    assert [row[-1] for row in table.rows] == ["a <learned>", "a photo of a <learned>"]
    assert next(p for p in report.panels if isinstance(p, Curve)).x.tolist() == [0.0, 1.0]
    assert report.numbers["asr"] == report.numbers["pre"] + report.numbers["post"]


def test_learning_lowers_the_error_on_the_same_noise() -> None:
    lens = TextualInversion(trials=1, iterations=30, batch=2, rate=0.05)
    stage = scene()
    target = aim(stage, (), 1, "emoji-judge")
    word, token = place(stage.bundle, target.ask.prompts)
    rows, losses = lens.learn(stage, stage.bundle, target, (word, token))
    again, _ = lens.learn(stage, stage.bundle, target, (word, token))
    assert (rows[0] == again[0]).all()
    assert sum(losses[-10:]) < sum(losses[:10])
