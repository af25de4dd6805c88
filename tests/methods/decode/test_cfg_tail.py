"""Guidance off at the end: which scales, how many rows, and unguided logits where it is off."""

from typing import Any

import pytest
import torch
from torch.testing import assert_close

from tests.tiny import tiny_var
from workbench.core.ask import Ask
from workbench.core.scene import Scene
from workbench.methods.decode.cfg_tail import CfgTail
from workbench.methods.decode.code import Code
from workbench.methods.decode.var import Var

ASK = Ask(prompts=["class:2", "class:4"], seeds=[1, 2])
SAMPLER = Var(guidance=3.0, top_p=0.9)


def watched(*edits: CfgTail, sampler: Any = SAMPLER) -> tuple[list[int], list[torch.Tensor], list[torch.Tensor]]:
    """Rows that the transformer computes and guided logits of each scale, and the states."""
    rows: list[int] = []
    logits: list[torch.Tensor] = []
    states: list[torch.Tensor] = []

    def guide(inner: Any) -> Any:
        return lambda *args: logits.append(inner(*args)) or logits[-1]

    def record(patch: Any) -> None:
        patch.hook(tiny_var().parts["var"].head, lambda module, args, kwargs: rows.append(len(args[0])), "before")
        patch.wrap("guide", guide)

    Scene(tiny_var(), sampler, edits, ASK).run(record=record, tap=lambda step: states.append(step.x))  # type: ignore[arg-type]
    return rows, logits, states


def test_the_network_sees_half_the_rows_at_the_last_scales() -> None:
    assert watched(CfgTail(scales=2))[0] == [4, 4, 4, 4, 2, 2]
    assert watched(CfgTail(scales=60))[0] == [2] * 6


def test_before_the_tail_nothing_changes_and_in_it_logits_are_the_conditional_ones() -> None:
    _, plain, whole = watched()
    _, cut, states = watched(CfgTail(scales=2))
    assert all(torch.equal(a, b) for a, b in zip(whole[:4], states[:4], strict=True))
    seen: list[torch.Tensor] = []

    def record(patch: Any) -> None:
        patch.wrap("predict", lambda inner: lambda *args: seen.append(inner(*args)) or seen[-1])

    Scene(tiny_var(), SAMPLER, (), ASK).run(record=record)
    assert_close(cut[4], seen[4][2:], atol=1e-4, rtol=0)  # the same state goes into scale 4
    assert (cut[4] - plain[4]).abs().max() > 0.1


def test_a_tail_over_all_scales_is_no_guidance() -> None:
    never = Scene(tiny_var(), SAMPLER, (CfgTail(scales=6),), ASK).run()
    assert torch.equal(never, Scene(tiny_var(), Var(guidance=0.0, top_p=0.9), (), ASK).run())


def test_it_reaches_the_refiner_of_collaborative_decoding() -> None:
    sizes: list[int] = []

    def record(patch: Any) -> None:
        refiner = tiny_var().open("refiner").parts["var"]
        patch.hook(refiner.head, lambda module, args, kwargs: sizes.append(len(args[0])), "before")  # type: ignore[arg-type]

    Scene(tiny_var(), Code(split=3), (CfgTail(scales=2),), ASK).run(record=record)
    assert sizes == [4, 2, 2]


def test_unguided_runs_pass_through() -> None:
    plain = Var(guidance=0.0)
    assert torch.equal(
        Scene(tiny_var(), plain, (CfgTail(),), ASK).run(), Scene(tiny_var(), plain, (), ASK).run()
    )  # fmt: skip


def test_the_tiny_model_draws_this_number_with_seeds_1_and_2() -> None:
    cut = Scene(tiny_var(), SAMPLER, (CfgTail(),), ASK).run().float()
    whole = Scene(tiny_var(), SAMPLER, (), ASK).run().float()
    assert (cut - whole).square().mean().sqrt().item() == pytest.approx(25.717, rel=1e-2)  # grey levels
