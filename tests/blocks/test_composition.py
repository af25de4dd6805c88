"""Who plays, what is asked, and what two halves of a picture come to."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from tests.methods.measure.scorers import colour_judge
from tests.tiny import tiny_sd
from workbench.blocks import composition
from workbench.blocks.adapters import random_adapter
from workbench.blocks.composition import Composed, Halves, Player, paired_marks, question, requests
from workbench.blocks.judging import Concept, concept, world_of
from workbench.core.errors import AskError, MissingPart
from workbench.core.report import Note, Table

NAMES = ("cat", "dog", "fox", "none")
CAT, DOG = Concept("cat", frozenset({"cat"})), Concept("dog", frozenset({"dog"}))
STYLE = Concept("ink", style="ink")


def halves(*pictures: tuple[tuple[float, ...], tuple[float, ...]]) -> torch.Tensor:
    return torch.tensor([[*left, *right] for left, right in pictures]).float()


def test_pairs_are_marked_by_what_either_half_shows() -> None:
    seen = halves(
        ((9, 0, 0), (0, 9, 0)),  # cat and dog
        ((0, 9, 0), (9, 1, 0)),  # dog and cat
        ((9, 0, 0), (9, 0, 0)),  # the cat twice
        ((9, 0, 0), (0, 0, 9)),  # a cat and a fox
        ((0, 0, 0), (0, 2, 0)),  # too little of anything
        ((9, 5, 0), (0, 9, 0)),  # the dog leaks into the cat's half
    )
    marks = {name: values.tolist() for name, values in paired_marks(seen, NAMES, CAT, DOG).items()}
    assert marks == {
        "pair": [True, True, False, False, False, True],
        "missing": [False, False, True, True, True, False],
        "duplicate": [False, False, True, False, False, False],
        "leak": [False, False, False, False, False, True],
    }


class Cells(nn.Module):
    """Says "cat" of red cells and "dog" of green ones on a grid of two by two."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones(1))

    def forward(self, pixels: torch.Tensor) -> Any:
        small = nn.functional.adaptive_avg_pool2d(pixels, 2)
        logits = torch.cat([20 * small[:, :2], torch.full_like(small[:, :1], -20), torch.zeros_like(small[:, :1])], 1)
        return SimpleNamespace(cells=logits * self.one)


def test_halves_count_the_cells_of_the_judges_grid() -> None:
    scene = colour_judge(["cat", "dog", "fox"], ["flat", "noto"])
    judge = scene.open("emoji-judge")
    seeing = replace(scene, opener=lambda _: replace(judge, parts={"judge": Cells()}))
    picture = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    picture[0, 0, :, :4], picture[0, 1, :, 4:] = 255, 255
    found = Halves(seeing).look(picture).features
    assert found[0].round().tolist() == [2.0, 0.0, 0.0, 0.0, 2.0, 0.0]
    blind = replace(scene, opener=lambda _: replace(judge, parts={"judge": nn.Identity()}))
    eye = Halves(blind)
    eye.judge = replace(judge, parts={"judge": nn.Conv2d(3, 3, 1)})
    with pytest.raises(MissingPart, match="judges whole pictures alone"):
        eye.look(picture)


def test_players_are_what_is_said_or_what_files_note(monkeypatch: pytest.MonkeyPatch) -> None:
    noted = {"a": {"object": "cat face"}, "b": {"style": "ink"}, "c": {}}

    def read(bundle: Any, source: str) -> Any:
        return replace(random_adapter(bundle, "random:1"), trigger="sks", training=noted[source])

    monkeypatch.setattr(composition, "read_adapter", read)
    players = composition.cast(tiny_sd(), ("a", "b"))
    assert [(p.word, sorted(p.about.labels), p.about.style) for p in players] == [("sks", ["cat face"], ""),
                                                                                  ("sks", [], "ink")]  # fmt: skip
    given = composition.cast(tiny_sd(), ("a", "c"), ("dog face", "ink"), ("one", "two"))
    assert [(p.word, p.about.word) for p in given] == [("one", "dog face"), ("two", "ink")]
    with pytest.raises(AskError, match="c does not say what it draws"):
        composition.cast(tiny_sd(), ("a", "c"))
    with pytest.raises(AskError, match="2 adapters and 1 subjects"):
        composition.cast(tiny_sd(), ("a", "b"), ("cat face",))


def test_a_cast_decides_what_is_asked() -> None:
    cat, dog, ink = (Player(name, name, about) for name, about in (("sks", CAT), ("zwx", DOG), ("emjo", STYLE)))
    assert [question(row) for row in ((cat,), (ink,), (cat, ink), (cat, dog), (cat, dog, ink))] == [
        "one", "one", "both", "pair", "pair"]  # fmt: skip
    for row in ((), (ink, ink), (cat, dog, cat)):
        with pytest.raises(AskError, match="can be judged in a picture"):
            question(row)
    world = world_of(tiny_sd())
    lines = [text for piece in requests(world, (cat, ink), 12, 5) for text in piece.ask.prompts]
    assert lines[:2] == ["an emoji of a sks, emjo", "an emoji of a sks on a white background, emjo"]
    fewer = [text for piece in requests(world, (cat, ink), 9, 5) for text in piece.ask.prompts]
    assert fewer == lines[:9]
    pieces = requests(world, (cat, dog), 12, 5)
    assert [seed for piece in pieces for seed in piece.ask.seeds] == list(range(5, 17))
    assert all("sks and a zwx" in text for piece in pieces for text in piece.ask.prompts)
    assert composition.silent((cat, dog), ["a SKS"]) == ["zwx"]


def outcome(name: str, both: list[bool]) -> Composed:
    marks = {"subject": torch.tensor([True] * len(both)), "style": torch.tensor(both), "both": torch.tensor(both)}
    return Composed(name, marks, torch.tensor([True, True]), torch.tensor([True, False]), torch.tensor([0.1, 0.3]), 1.0)


def test_numbers_hold_shares_intervals_and_gains() -> None:
    one, two = outcome("sum", [False] * 20), outcome("stf", [True] * 19 + [False])
    found = composition.numbers(two, one)
    assert (found["both"], found["product"], found["gain"]) == (0.95, 0.95, 0.95)
    assert found["both_low"] < 0.95 < found["both_high"]
    assert found["gain_low"] > 0.5
    assert (found["prior"], found["prior_loss"], found["drift"]) == (0.5, 0.5, pytest.approx(0.2))
    assert "gain" not in composition.numbers(one)
    assert composition.difference(torch.tensor([True, False]), torch.tensor([False, False]))[0] == -0.5


def test_panels_warn_and_lay_the_ways_side_by_side() -> None:
    players = (Player("a.safetensors", "sks", CAT), Player("b", "emjo", STYLE))
    made = composition.panels(players, [outcome("sum", [True] * 4), outcome("stf", [True] * 4)], (1, 8), ["s`ks"])
    notes = [panel.text for panel in made if isinstance(panel, Note)]
    assert any("do not say `s'ks`" in text for text in notes)
    assert any("1 of 8 true drawings" in text for text in notes)
    table = next(panel for panel in made if isinstance(panel, Table))
    assert [row[0] for row in table.rows] == ["sum", "stf"]
    assert table.rows[1][table.columns.index("gain in both")].startswith("+0%")


def test_prior_prompts_call_nobody() -> None:
    world = world_of(tiny_sd())
    cell = composition.prior(world, ("red apple",), 8)
    assert [subject.about for subject in cell.subjects] == [concept(world, "red apple")]
    assert len(composition.prior(world, (), 8).subjects) == 4
