"""The RECE probe: R by hand, what it undoes, what it leaves alone."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from tests.contract.stage import sampler_for
from tests.methods.measure.scorers import colour_judge
from tests.tiny import tiny_sd
from tests.toys import Dim, Fade
from workbench.core.ask import Ask
from workbench.core.report import Note
from workbench.core.scene import Scene
from workbench.methods.measure.rece_probe import ReceProbe, _through


def scene(*edits: object) -> Scene:
    judge = colour_judge(["cat", "dog", "fox"], ["flat", "noto"])
    return Scene(replace(tiny_sd(), opener=judge.opener), sampler_for(tiny_sd()), edits, Ask(prompts=["a cat"]))  # type: ignore[arg-type]


def matrix(seed: int, rows: int = 5, columns: int = 3) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_r_minimises_the_distance_of_keys_and_values_by_hand() -> None:
    new, old = [matrix(0), matrix(1)], [matrix(2), matrix(3)]
    R = ReceProbe(ridge=0.1).operator(new, old)
    weight = 0.1 * sum(float(x) ** 2 for W in new for x in W.flatten()) / 3
    stacked = torch.cat([*new, weight**0.5 * torch.eye(3, dtype=torch.float64)])
    wanted = torch.cat([*old, torch.zeros(3, 3, dtype=torch.float64)])
    assert_close(R, torch.linalg.lstsq(stacked, wanted).solution, atol=1e-10, rtol=0)


def test_an_invertible_edit_is_undone_exactly() -> None:
    old, M = matrix(0, 8, 4), matrix(1, 4, 4)
    R = ReceProbe(ridge=0.0).operator([old @ M], [old])
    assert_close(M @ R, torch.eye(4, dtype=torch.float64), atol=1e-8, rtol=0)


def test_halved_values_change_r_and_a_run_time_edit_does_not() -> None:
    faded = ReceProbe(trials=2).look(scene(Fade()))
    assert faded.problems() == []
    assert faded.numbers["change"] > 0.1
    dimmed = ReceProbe(trials=2, ridge=0.0).look(scene(Dim()))
    assert dimmed.numbers["change"] == pytest.approx(0.0, abs=1e-6)
    assert "nothing to undo" in next(p.text for p in dimmed.panels if isinstance(p, Note) and p.title == "The operator")


def test_only_the_prompts_under_attack_go_through_r() -> None:
    bundle = tiny_sd()
    plain = bundle.read(["a cat", ""])
    R = 2 * torch.eye(32, dtype=torch.float64)
    moved = _through(bundle.read, R, frozenset(["a cat"]))(["a cat", ""])
    assert_close(moved.states[0], 2 * plain.states[0])
    assert torch.equal(moved.states[1], plain.states[1])
