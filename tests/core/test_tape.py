"""The tape keeps copies, in order, below its ceiling."""

import pytest
import torch

from workbench.core.errors import TapeFull
from workbench.core.tape import Step, Tape, ignore


def test_values_come_back_stacked_in_order() -> None:
    tape = Tape()
    for i in range(3):
        tape.add("maps", torch.full((2,), float(i)))
    assert tape["maps"].tolist() == [[0, 0], [1, 1], [2, 2]]
    assert (len(tape), list(tape), "maps" in tape, "other" in tape) == (1, ["maps"], True, False)


def test_what_is_kept_is_a_detached_copy() -> None:
    tape, value = Tape(), torch.zeros(2, requires_grad=True)
    tape.add("x", value)
    with torch.no_grad():
        value.add_(1)
    assert tape["x"].tolist() == [[0, 0]]
    assert not tape["x"].requires_grad


def test_the_ceiling_is_kept_and_the_message_says_what_to_do() -> None:
    tape = Tape(ceiling=40)
    tape.add("x", torch.zeros(10))
    assert tape.bytes == 40
    with pytest.raises(TapeFull, match=r"holds 0\.0 MiB and y would add .* \(1 float32\); the ceiling .* Record fewer"):
        tape.add("y", torch.zeros(1))
    assert tape.bytes == 40
    assert "y" not in tape


def test_a_step_may_be_ignored() -> None:
    assert ignore(Step(0, 1, 0.0)) is None
