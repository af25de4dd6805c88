"""The cached loop: equal to teacher forcing at every scale, to the plain loop token for token, for any rows."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.tiny import tiny_var, var_parts
from workbench.blocks.scales import Choice, Descent, Memory, blank, descend, generators, own_grids, ramp, turn
from workbench.core.ask import Ask
from workbench.core.bundle import Bundle, Condition
from workbench.core.errors import AskError
from workbench.core.patch import Patch
from workbench.core.tape import Step, ignore
from workbench.models.var import plain
from workbench.models.var.bundle import from_parts
from workbench.models.var.engine import Cache

ASK = Ask(prompts=["class:2", "class:4"], seeds=[1, 2])


def forced(bundle: Bundle, seed: int = 0) -> list[Tensor]:
    """Random tokens of every scale, for two pictures."""
    draw = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 24, (2, h * w), generator=draw) for h, w in own_grids(bundle)]


def run(bundle: Bundle, choice: Choice, guidance: float = 2.0) -> tuple[Tensor, Memory, list[Tensor]]:
    """A guided run: the last state, its memory, the network's logits [2 B, V, h, w] of every scale."""
    logits: list[Tensor] = []
    memory = Memory(own_grids(bundle), 2 * len(ASK))
    descent = Descent(
        bundle, (turn(bundle, ASK, memory, True),), ramp(guidance, 6), choice, generators(bundle, ASK), ignore
    )  # fmt: skip
    with Patch(bundle) as patch:
        patch.wrap("predict", lambda inner: lambda *args: logits.append(inner(*args)) or logits[-1])
        x = descend(descent, blank(bundle, len(ASK), own_grids(bundle)[-1]))
    return x, memory, logits


@pytest.mark.parametrize("shared", [False, True])
@torch.no_grad()
def test_the_cached_loop_with_forced_tokens_is_teacher_forcing_at_each_scale(shared: bool) -> None:
    vq, net = var_parts(shared_aln=shared)
    bundle = from_parts(vq, net, name="fresh")
    tokens = forced(bundle)
    _, _, logits = run(bundle, Choice(force=dict(enumerate(tokens))))
    inputs = vq.inputs(tokens)
    for rows, label in (((0, 1), [5, 5]), ((2, 3), [2, 4])):
        whole, begin = net(torch.tensor(label), inputs), 0
        for k, (h, w) in enumerate(own_grids(bundle)):
            mine = logits[k][list(rows)].flatten(2).transpose(1, 2)
            assert_close(mine, whole[:, begin : begin + h * w], atol=1e-4, rtol=0)
            begin += h * w


@torch.no_grad()
def test_direct_prediction_is_teacher_forcing_too() -> None:
    bundle = tiny_var(prediction="direct")
    vq, net = bundle.parts["vq"], bundle.parts["var"]
    tokens = forced(bundle)
    _, _, logits = run(bundle, Choice(force=dict(enumerate(tokens))))
    whole, begin = net(torch.tensor([2, 4]), vq.inputs(tokens)), 0
    for k, (h, w) in enumerate(own_grids(bundle)):
        assert_close(logits[k][2:].flatten(2).transpose(1, 2), whole[:, begin : begin + h * w], atol=1e-4, rtol=0)
        begin += h * w


@pytest.mark.parametrize(("top_k", "top_p", "smooth"), [(0, 1.0, False), (9, 0.9, False), (0, 0.95, True)])
def test_the_plain_loop_draws_the_same_tokens(top_k: int, top_p: float, smooth: bool) -> None:
    bundle = tiny_var()
    x, memory, _ = run(bundle, Choice(top_k, top_p, smooth=smooth))
    cond = turn(bundle, ASK, memory, True).cond.text.states[:, 0]
    slow, tokens = plain.decode(
        bundle.parts["vq"], bundle.parts["var"], cond, guidance=2.0, top_k=top_k, top_p=top_p, smooth=smooth,
        generators=list(generators(bundle, ASK)))  # type: ignore[arg-type]  # fmt: skip
    for k, mine in memory.tokens.items():
        assert torch.equal(mine, tokens[k]), f"scale {k}"
    assert_close(x, slow, atol=1e-4, rtol=0)


def condition(bundle: Bundle, memory: Memory, k: int) -> Condition:
    return replace(turn(bundle, ASK, memory, True).cond, step=Step(k, 6, 1.0))


@torch.no_grad()
def test_scales_that_were_never_run_are_worked_out_from_what_was_seen() -> None:
    """Another network takes over at scale 4, and rows that were left out at scales 2 and 3 come back."""
    bundle = tiny_var()
    _, memory, logits = run(bundle, Choice(top_p=0.9))
    fresh = memory.handed(None, memory.count)
    late = bundle.predict(memory.seen[4], torch.full((4,), 4), condition(bundle, fresh, 4))
    assert_close(late, logits[4], atol=1e-4, rtol=0)
    holes = memory.handed(None, memory.count)
    for k in range(6):
        cond = condition(bundle, holes, k)
        if k in (2, 3):
            found = bundle.predict(memory.seen[k][2:], torch.full((2,), k), cond.rows([2, 3]))
            assert_close(found, logits[k][2:], atol=1e-4, rtol=0)
        else:
            found = bundle.predict(memory.seen[k], torch.full((4,), k), cond)
            assert_close(found, logits[k], atol=1e-4, rtol=0)


@torch.no_grad()
def test_a_scale_may_be_asked_for_again() -> None:
    bundle = tiny_var()
    _, memory, logits = run(bundle, Choice(top_p=0.9))
    for k in (3, 5, 0, 5):
        again = bundle.predict(memory.seen[k], torch.full((4,), k), condition(bundle, memory, k))
        assert_close(again, logits[k], atol=1e-4, rtol=0)


@torch.no_grad()
def test_scattered_rows_and_another_order_find_their_own_past() -> None:
    bundle = tiny_var()
    _, memory, logits = run(bundle, Choice(top_p=0.9))
    for rows in ([3, 0], [0, 2], [1], [0, 1, 3]):
        cond = condition(bundle, memory, 5).rows(rows)
        found = bundle.predict(memory.seen[5][rows], torch.full((len(rows),), 5), cond)
        assert_close(found, logits[5][rows], atol=1e-4, rtol=0)


@torch.no_grad()
def test_a_changed_condition_is_not_answered_from_the_old_modulation() -> None:
    bundle = tiny_var()
    _, memory, logits = run(bundle, Choice(top_p=0.9))
    cond = condition(bundle, memory, 5)
    text = replace(cond.text, states=cond.text.states * 2)
    found = bundle.predict(memory.seen[5], torch.full((4,), 5), replace(cond, text=text))
    assert (found - logits[5]).abs().max() > 1e-2


def test_the_cache_takes_the_bytes_of_the_formula_and_is_made_once() -> None:
    bundle = tiny_var()
    _, memory, _ = run(bundle, Choice())
    cache, net = memory.keep["cache"], bundle.parts["var"]
    assert isinstance(cache, Cache)
    assert cache.block.numel() * 4 == 4 * 2 * len(net.blocks) * 4 * 130 * net.width  # 2 depth R L C numbers
    assert cache.begins == [[0, 1, 5, 14, 30, 66, 130]] * 2
    assert len(cache.modulations) == 1


def test_half_the_precision_keeps_half_the_bytes() -> None:
    vq, net = var_parts()
    bundle = from_parts(vq, net.bfloat16(), name="half")
    _, memory, _ = run(bundle, Choice(top_p=0.9))
    assert memory.keep["cache"].block.dtype == torch.bfloat16


@torch.no_grad()
def test_predicting_without_a_run_is_refused() -> None:
    bundle = tiny_var()
    cond = replace(turn(bundle, ASK, Memory(own_grids(bundle), 4), True).cond, memory=None)
    with pytest.raises(AskError, match="give the condition a Memory of the run"):
        bundle.predict(torch.zeros(4, 4, 8, 8), torch.zeros(4), cond)
