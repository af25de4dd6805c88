"""The loop of scales: who is asked what and when, what a run remembers, and who may interfere."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.tiny import tiny_sd, tiny_var
from workbench.blocks.scales import (
    Choice,
    Descent,
    Memory,
    Turn,
    blank,
    descend,
    generators,
    own_grids,
    pictures,
    ramp,
    turn,
)
from workbench.core.ask import Ask
from workbench.core.bundle import Bundle
from workbench.core.errors import CheckpointMismatch, MissingPart, Stopped
from workbench.core.patch import Patch
from workbench.core.tape import Ended, Event, Started, Step, ignore

ASK = Ask(prompts=["class:2", "class:4"], seeds=[1, 2])


def descent(bundle: Bundle, choice: Choice, tap: Any = ignore, guidance: Any = None, **more: Any) -> Descent:
    grids = own_grids(bundle)
    memory = Memory(grids, 2 * len(ASK))
    scales = ramp(2.0, len(grids)) if guidance is None else guidance
    return Descent(
        bundle, (turn(bundle, ASK, memory, True),), scales, choice, generators(bundle, ASK), tap, **more
    )  # fmt: skip


def walked(choice: Choice, **more: Any) -> tuple[Tensor, Descent]:
    run = descent(tiny_var(), choice, **more)
    return descend(run, blank(tiny_var(), len(ASK), (8, 8))), run


def test_guidance_grows_evenly_from_one() -> None:
    assert ramp(1.5, 4) == pytest.approx((1.0, 1.5, 2.0, 2.5))
    assert ramp(3.0, 1) == (1.0,)


def test_views_of_a_memory_name_rows_of_the_whole() -> None:
    memory = Memory(((1, 1),), 6)
    view = memory.rows([5, 1, 3]).rows([2, 0])
    assert view.at == (3, 5)
    view.tokens[0] = torch.zeros(1)
    assert 0 in memory.tokens
    later = memory.handed(None, 4)
    later.keep["x"] = 1
    assert (later.at, later.count, memory.keep) == (None, 4, {})
    assert later.seen is memory.seen


def test_the_run_is_announced_shown_and_ended_also_when_it_is_stopped() -> None:
    events: list[Event] = []

    def stop(step: Step) -> None:
        if step.index == 2:
            raise Stopped

    with Patch(tiny_var()) as patch:
        patch.each(events.append)
        with pytest.raises(Stopped):
            walked(Choice(), tap=stop)
    assert events[0] == Started(6, (1, 2))
    assert [event.index for event in events if isinstance(event, Step)] == [0, 1, 2]
    assert isinstance(events[-1], Ended)


def test_forced_tokens_are_what_the_picture_is_made_of() -> None:
    draw = torch.Generator().manual_seed(0)
    tokens = {k: torch.randint(0, 24, (2, p * p), generator=draw) for k, p in enumerate((1, 2, 3, 4, 6, 8))}
    x, run = walked(Choice(force=tokens))
    vq: Any = tiny_var().parts["vq"]
    slow = vq.blank(2)
    for k, at in tokens.items():
        slow, _ = vq.accumulate(k, slow, vq.embed(k, at))
    assert_close(x, slow)
    assert all(torch.equal(run.memory.tokens[k], tokens[k]) for k in tokens)


def test_noise_of_ones_takes_the_likeliest_and_change_may_replace_codes() -> None:
    greedy, _ = walked(Choice(top_k=1))
    ones, _ = walked(Choice(noise=lambda k, like: torch.ones_like(like)))
    assert torch.equal(ones, greedy)
    seen: list[tuple[int, tuple[int, ...]]] = []

    def nothing(k: int, codes: Tensor, x: Tensor) -> Tensor:
        seen.append((k, tuple(codes.shape)))
        return torch.zeros_like(codes)

    vq: Any = tiny_var().parts["vq"]
    x, _ = walked(Choice(change=nothing))
    assert seen == [(k, (2, 4, p, p)) for k, p in enumerate((1, 2, 3, 4, 6, 8))]
    slow = vq.blank(2)
    for k, p in enumerate((1, 2, 3, 4, 6, 8)):
        slow, _ = vq.accumulate(k, slow, torch.zeros(2, 4, p, p))
    assert_close(x, slow)


def test_settings_may_be_one_a_scale() -> None:
    cold, _ = walked(Choice(temperature=(1e-4,)))
    assert torch.equal(cold, walked(Choice(top_k=1))[0])
    mixed, _ = walked(Choice(top_k=(1, 1, 1, 0)))
    assert not torch.equal(mixed, cold)


def test_guidance_may_be_one_an_image() -> None:
    each = [torch.tensor([a, b]).view(2, 1, 1, 1) for a, b in zip(ramp(1.0, 6), ramp(3.0, 6), strict=True)]
    both, _ = walked(Choice(top_p=0.9), guidance=each)
    for i, strength in enumerate((1.0, 3.0)):
        alone, _ = walked(Choice(top_p=0.9), guidance=ramp(strength, 6))
        assert_close(both[i], alone[i], atol=1e-4, rtol=0)
    apart, _ = walked(Choice(top_p=0.9), guidance=each, alone=True)
    assert_close(apart, both, atol=1e-4, rtol=0)


def test_a_run_may_stop_early_and_its_state_be_looked_at() -> None:
    run = descent(tiny_var(), Choice(top_p=0.9))
    early = descend(run, blank(tiny_var(), 2, (8, 8)), stop=3)
    states: list[Tensor] = []
    walked(Choice(top_p=0.9), tap=lambda step: states.append(step.x))
    assert torch.equal(early, states[2])
    shown = pictures(tiny_var(), early)
    assert shown.dtype == torch.uint8
    assert shown.shape == (2, 3, 16, 16)
    assert torch.equal(pictures(tiny_var(), early, alone=True), shown)


def test_values_that_are_not_finite_are_told() -> None:
    with pytest.raises(CheckpointMismatch, match="tiny-var drew values that are not finite"):
        walked(Choice(change=lambda k, codes, x: codes * torch.nan))


def test_a_model_without_scales_is_named() -> None:
    with pytest.raises(MissingPart, match="tiny-sd has no scales"):
        own_grids(tiny_sd())


def test_turns_follow_each_other_at_their_starts() -> None:
    """Three turns of the same model with memories of their own are one run."""
    bundle = tiny_var()
    whole, run = walked(Choice(top_p=0.9))
    first = run.turns[0]
    fresh = Memory(own_grids(bundle), 4)
    turns = [Turn(0, replace(first.cond, memory=fresh))]
    turns += [Turn(k, replace(first.cond, memory=fresh.handed(bundle.predict, 4))) for k in (2, 5)]
    again = descend(replace(run, turns=tuple(turns), generators=generators(bundle, ASK)), blank(bundle, 2, (8, 8)))
    assert_close(again, whole, atol=1e-4, rtol=0)
