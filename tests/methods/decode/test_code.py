"""Collaborative decoding: each half is its own model's, whatever the pair and the split."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.tiny import tiny_var
from workbench.blocks.scales import Choice, Descent, Memory, blank, descend, generators, own_grids, ramp, turn
from workbench.core.ask import Ask
from workbench.core.bundle import Bundle
from workbench.core.errors import AskError, CheckpointMismatch, MissingPart
from workbench.core.method import Sampler
from workbench.core.patch import Patch
from workbench.core.tape import Step, ignore
from workbench.methods.decode.code import Code
from workbench.methods.decode.var import Var

ASK = Ask(prompts=["class:2", "class:4"], seeds=[1, 2])
PLAIN = {"guidance": 2.0, "top_p": 0.9}


def states(bundle: Bundle, sampler: Sampler, ask: Ask = ASK) -> list[Tensor]:
    found: list[Tensor] = []
    sampler.sample(bundle, ask, lambda step: found.append(step.x))  # type: ignore[arg-type]
    return found


def test_the_first_scales_are_the_drafters() -> None:
    draft = states(tiny_var(), Var(**PLAIN))
    both = states(tiny_var(), Code(split=4, draft_temperature=1.0, **PLAIN))
    assert all(torch.equal(both[k], draft[k]) for k in range(4))
    assert not torch.equal(both[4], draft[4])


@torch.no_grad()
@pytest.mark.parametrize("split", [1, 4, 5])
def test_the_last_scales_are_the_refiners_teacher_forced_on_the_drafted_tokens(split: int) -> None:
    bundle = tiny_var()
    refiner, vq = bundle.open("refiner").parts["var"], bundle.parts["vq"]
    drawn: dict[int, Tensor] = {}
    logits: dict[int, Tensor] = {}

    def watch(inner: Any) -> Any:
        def advance(x: Tensor, out: Tensor, t: Tensor, cond: Any, *rest: Any) -> Any:
            result = inner(x, out, t, cond, *rest)
            drawn.update(cond.memory.tokens)
            return result

        return advance

    def listen(inner: Any) -> Any:
        return lambda x, t, cond: logits.setdefault(int(t[0]), inner(x, t, cond))

    with Patch(bundle) as patch:
        patch.wrap("advance", watch)
        patch.wrap("predict", listen)
        Code(split=split, **PLAIN).sample(bundle, ASK, ignore)
    whole, begin = refiner(torch.tensor([2, 4]), vq.inputs([drawn[k] for k in range(6)])), 0  # type: ignore[operator]
    for k, (h, w) in enumerate(own_grids(bundle)):
        if k >= split:
            mine = logits[k][2:].flatten(2).transpose(1, 2)
            assert_close(mine, whole[:, begin : begin + h * w], atol=1e-4, rtol=0)
        begin += h * w


def test_a_model_that_refines_itself_changes_nothing() -> None:
    bundle = tiny_var()
    same = replace(bundle, opener=lambda name: bundle, about={**bundle.about, "refiner": True})
    both, alone = states(same, Code(split=3, draft_temperature=1.0, **PLAIN)), states(bundle, Var(**PLAIN))
    assert_close(both[-1], alone[-1], atol=1e-4, rtol=0)


def test_the_drafters_cache_is_let_go_at_the_split() -> None:
    bundle = tiny_var()
    grids, refiner = own_grids(bundle), bundle.open("refiner")
    memory = Memory(grids, 2)
    later = memory.handed(refiner.predict, 2)
    turns = (turn(bundle, ASK, memory, False), turn(refiner, ASK, later, False, start=3))
    kept: list[tuple[bool, bool]] = []

    def look(step: Step) -> None:
        kept.append(("cache" in memory.keep, "cache" in later.keep))

    descend(
        Descent(bundle, turns, ramp(0.0, 6), Choice(), generators(bundle, ASK), look), blank(bundle, 2, grids[-1])
    )  # fmt: skip
    assert kept == [(True, False)] * 3 + [(False, True)] * 3
    assert later.keep["cache"].block.shape[0] == 1  # the refiner's depth


def test_the_tiny_pair_draws_this_number_with_seeds_1_and_2() -> None:
    found = Code(split=3, **PLAIN).sample(tiny_var(), ASK, ignore)
    assert found.float().mean().item() == pytest.approx(113.3151, rel=1e-3)  # grey levels


def test_wrong_pairs_and_splits_are_one_line() -> None:
    with pytest.raises(AskError, match=r"code: split is 6; tiny-var has 6 scales, so the drafter can do 1 to 5"):
        Code(split=6).sample(tiny_var(), ASK, ignore)
    bundle = tiny_var()
    lonely = replace(bundle, about={**bundle.about, "refiner": False})
    with pytest.raises(MissingPart, match="tiny-var has no refiner of its own"):
        Code(split=2).sample(lonely, ASK, ignore)
    other = replace(bundle, opener=lambda name: tiny_var(prediction="direct"))
    with pytest.raises(CheckpointMismatch, match="differ in their prediction: residual and direct"):
        Code(split=2, refiner="other").sample(other, ASK, ignore)
