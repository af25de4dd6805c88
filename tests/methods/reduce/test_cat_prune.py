"""CAT pruning: full while waiting, exact when every token is chosen, blind to batch mates, and what it refuses."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tiny import tiny_flux, tiny_pixart, tiny_sd, tiny_sd3
from workbench.core.ask import Ask
from workbench.core.bundle import Bundle
from workbench.core.errors import AskError, MissingPart
from workbench.core.patch import Patch, differences, fingerprint
from workbench.core.scene import Scene
from workbench.core.tape import Step
from workbench.methods.generate.diffuse import Diffuse
from workbench.methods.reduce.cat_prune import CatPrune, _around
from workbench.methods.reduce.cfg_cutoff import CfgCutoff

ASK = Ask(prompts=["a cat", "the red dog"], seeds=[1, 2])
each = pytest.mark.parametrize("make", [tiny_pixart, tiny_sd3])


def drawn(
    bundle: Bundle, *edits: Any, ask: Ask = ASK, steps: int = 5, record: Any = None
) -> tuple[Tensor, list[Tensor]]:
    states: list[Tensor] = []

    def tap(step: Step) -> None:
        assert step.x is not None
        states.append(step.x)

    return Scene(bundle, Diffuse(steps=steps, guidance=3.0), edits, ask, tap).run(record=record), states


def test_clusters_take_turns_on_paper() -> None:
    gap, labels = torch.tensor([1.0, 5.0, 3.0, 2.0, 4.0]), torch.tensor([0, 0, 1, 1, 1])
    assert _around(gap, labels, [1, 0], 4, 1) == [4, 1, 2, 0]  # each cluster's greatest, then its next
    assert _around(gap, labels, [0, 1], 3, 2) == [1, 0, 4]
    assert len(_around(gap, labels, [0, 1], 9, 2)) == 5


@each
def test_waiting_steps_are_full_and_later_ones_see_fewer_tokens(make: Any) -> None:
    bundle, lengths = make(), []
    before = fingerprint(bundle)

    def record(patch: Patch) -> None:
        site = next(site for site in bundle.sites("mlp") if site.tokens is not None)
        patch.hook(site.module, lambda module, args, kwargs: lengths.append(args[0].shape[1]), "before")

    pruned, states = drawn(bundle, CatPrune(ratio=0.5, wait=2), record=record)
    assert lengths == [16, 16, 8, 8, 8]
    plain, others = drawn(bundle)
    assert all(torch.equal(states[i], others[i]) for i in range(2))
    assert not torch.equal(states[-1], others[-1])
    assert pruned.shape == plain.shape
    assert differences(before, fingerprint(bundle)) == []


@each
def test_it_is_exact_when_every_token_is_chosen(make: Any) -> None:
    _, states = drawn(make(), CatPrune(ratio=0.01, wait=2))  # of 16 tokens none is left out, but all take that way
    _, others = drawn(make())
    for one, other in zip(states, others, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    neutral, _ = drawn(make(), CatPrune(ratio=0.0))
    assert torch.equal(neutral, drawn(make())[0])


@each
def test_an_image_does_not_depend_on_its_mates(make: Any) -> None:
    edit = CatPrune(ratio=0.6, wait=2, clusters=3)
    for edits in ((edit,), (edit, CfgCutoff()), (CfgCutoff(), edit)):
        together, _ = drawn(make(), *edits)
        alone = torch.cat([drawn(make(), *edits, ask=ASK.row(i))[0] for i in range(2)])
        assert (together.int() - alone.int()).abs().max() <= 1


def test_tokens_that_waited_are_chosen_before_the_others() -> None:
    generator = torch.Generator().manual_seed(0)
    v, change = torch.randn(16, 4, generator=generator), torch.randn(16, 4, generator=generator)
    stale = torch.ones(16)
    stale[[3, 7, 12]] = 0.0
    edit = CatPrune(ratio=0.5, wait=2, clusters=3)
    chosen = edit.choose(v, change.norm(dim=-1), change, stale, (4, 4)).tolist()
    assert len(chosen) == len(set(chosen)) == 8
    assert {3, 7, 12} <= set(chosen)
    assert chosen == sorted(chosen)
    assert len(edit.choose(v, change.norm(dim=-1), change, None, (4, 4))) == 8


def test_unets_rotary_models_and_runs_of_one_step_are_refused() -> None:
    with Patch(tiny_sd()) as patch, pytest.raises(MissingPart, match="For UNets there is deep-cache"):
        CatPrune().patch(tiny_sd(), CatPrune().fit(tiny_sd(), lambda step: None), patch)
    with pytest.raises(MissingPart, match="turns them by their place"):
        drawn(tiny_flux(), CatPrune())
    with pytest.raises(AskError, match="cat-prune reuses what earlier steps computed; this run has 1 step"):
        drawn(tiny_pixart(), CatPrune(), steps=1)
