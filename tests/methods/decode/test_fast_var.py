"""Token pruning: which tokens, what the others get, how many keys are kept, and nothing at ratio 0."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.tiny import tiny_var
from workbench.blocks.scales import Memory
from workbench.core.ask import Ask
from workbench.core.errors import AskError
from workbench.core.scene import Scene, using
from workbench.methods.decode.cfg_tail import CfgTail
from workbench.methods.decode.fast_var import FastVar, keepers
from workbench.methods.decode.var import Var

ASK = Ask(prompts=["class:2", "class:4"], seeds=[1, 2])
SAMPLER = Var(guidance=3.0, top_p=0.9)


def run(*edits: Any, ask: Ask = ASK, sampler: Var = SAMPLER) -> tuple[Memory, list[Tensor]]:
    memories: list[Memory] = []
    states: list[Tensor] = []

    def record(patch: Any) -> None:
        patch.wrap("predict", lambda inner: lambda x, t, cond: memories.append(cond.memory) or inner(x, t, cond))

    Scene(tiny_var(), sampler, edits, ask).run(record=record, tap=lambda step: states.append(step.x))  # type: ignore[arg-type]
    return memories[0], states


def test_tokens_that_stand_out_are_kept_in_their_order() -> None:
    x = torch.tensor([[[5.0], [0.0], [0.0], [-4.0], [0.1]]])
    assert keepers(x, 0.6).tolist() == [[0, 3]]
    assert keepers(x, 0.99).tolist() == [[0]]
    assert keepers(x, 0.0).tolist() == [[0, 1, 2, 3, 4]]


def by_hand(x: Tensor, past: Tensor, ratio: float, layer: Any) -> Tensor:
    """One sub-layer of one row, token by token: x [N, C] goes in, past [n, C] is of half the side; in float64."""
    mean = x.mean(0)
    score = [float(((token - mean) ** 2).sum()) for token in x]
    kept = sorted(range(len(x)), key=lambda n: -score[n])[: len(x) - int(len(x) * ratio)]
    side, small = int(len(x) ** 0.5), int(len(past) ** 0.5)
    out = [past[(n // side) * small // side * small + (n % side) * small // side] for n in range(len(x))]
    for n in kept:
        out[n] = layer(n)
    return torch.stack(out)


@torch.no_grad()
def test_an_mlp_at_a_pruned_scale_is_what_the_equations_say() -> None:
    """Scales 4 and 8 of an mlp: the last whole scale is 4, so each of its outputs stands for 2 x 2 tokens of 8."""
    bundle = tiny_var()
    site = bundle.sites("mlp")[1]
    seen: dict[int, tuple[Tensor, Tensor]] = {}

    def record(patch: Any) -> None:
        def norm(module: Any, args: Any, kwargs: Any) -> None:
            seen["x"] = args[0].double()  # type: ignore[index]

        patch.hook(bundle.sites("norm")[1].module, norm, "before")
        patch.hook(site.module, lambda module, args, kwargs, out: seen.__setitem__(
            out.shape[1], (seen["x"], args[0].double(), out.double())), "after")  # type: ignore[index, call-overload]  # fmt: skip

    with using(bundle, FastVar(ratio=0.5, scales=2, spare=0), record=record) as edited:
        SAMPLER.sample(edited, ASK, lambda step: None)
    past = seen[16][-1]  # type: ignore[misc]
    x, into, out = seen[64]  # type: ignore[misc]
    weight = {name: value.double() for name, value in site.module.named_parameters()}
    inner = torch.nn.functional.gelu(into @ weight["fc1.weight"].T + weight["fc1.bias"], approximate="tanh")
    whole = inner @ weight["fc2.weight"].T + weight["fc2.bias"]
    for r in range(4):
        slow = by_hand(x[r], past[r], 0.5, lambda n, r=r: whole[r, n])
        assert_close(out[r], slow, atol=1e-4, rtol=1e-4)


def test_keys_and_values_are_kept_for_computed_tokens_alone() -> None:
    memory, _ = run(FastVar(ratio=0.5, scales=2, spare=0))
    assert memory.keep["cache"].begins == [[0, 1, 5, 14, 30, 48, 80]] * 2  # 36 / 2 and 64 / 2 more
    kept = memory.kept[5]
    assert kept.counts.shape == (4, 8, 8)
    assert kept.counts.sum((1, 2)).tolist() == [4 * 32.0] * 4  # two blocks of two layers
    assert kept.share(range(4)).mean().item() == pytest.approx(0.5)


def test_scales_before_the_pruned_ones_are_untouched() -> None:
    whole, cut = run()[1], run(FastVar(ratio=0.5, scales=2, spare=0))[1]
    assert all(torch.equal(a, b) for a, b in zip(whole[:4], cut[:4], strict=True))
    assert not torch.equal(whole[4], cut[4])


def test_ratio_zero_changes_nothing() -> None:
    assert torch.equal(run()[1][-1], run(FastVar(ratio=0.0, spare=0))[1][-1])


def test_pictures_of_a_batch_are_those_of_one() -> None:
    edit = FastVar(spare=0)
    together = run(edit)[1][-1]
    for i in range(2):
        assert_close(run(edit, ask=ASK.row(i))[1][-1], together[i : i + 1], atol=1e-4, rtol=0)


def test_it_stacks_with_a_tail_without_guidance_in_both_orders() -> None:
    edit = FastVar(ratio=0.5, scales=2, spare=0)
    first, second = run(edit, CfgTail(scales=1))[1], run(CfgTail(scales=1), edit)[1]
    assert torch.equal(first[-1], second[-1])
    assert torch.equal(first[4], run(edit)[1][4])


def test_each_picture_alone_is_pruned_too() -> None:
    edit, alone = FastVar(spare=0), SAMPLER.but(alone=True)
    assert_close(run(edit, sampler=alone)[1][-1], run(edit)[1][-1], atol=1e-4, rtol=0)


def test_the_first_scale_is_whole_however_many_are_to_be_pruned() -> None:
    most = run(FastVar(scales=5, spare=0))
    assert torch.equal(run(FastVar(scales=64, spare=0))[1][-1], most[1][-1])
    assert sorted(most[0].kept) == [1, 2, 3, 4, 5]


def test_sparing_every_block_is_refused() -> None:
    with pytest.raises(AskError, match="spare is 1; tiny-var has 2 blocks, so none would be left to prune"):
        run(FastVar())


def test_the_tiny_model_draws_this_number_with_seeds_1_and_2() -> None:
    cut, whole = run(FastVar(spare=0))[1][-1], run()[1][-1]
    assert (cut - whole).square().mean().sqrt().item() == pytest.approx(0.4519, rel=1e-2)
