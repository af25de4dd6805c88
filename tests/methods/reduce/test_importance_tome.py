"""Importance-based merging: which tokens are kept, a slow twin of the plan, and forgetting between runs."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.tiny import tiny_pixart, tiny_sd
from workbench.blocks.denoise import condition
from workbench.blocks.merging import Spot, images
from workbench.core.ask import Ask
from workbench.core.errors import AskError
from workbench.core.scene import Scene, using
from workbench.core.tape import Started, Step
from workbench.methods.generate.diffuse import Diffuse
from workbench.methods.reduce.importance_tome import ImportanceTome, _Heat
from workbench.methods.reduce.tome import Tome

ASK = Ask(prompts=["a cat", "the red dog"], seeds=[1, 2])


def spot() -> Spot:
    return Spot(0, tiny_sd().sites("block")[0], (8, 8))


def drawn(rows: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(rows, 64, 6, generator=generator), torch.rand(rows, 2, 64, generator=generator)


@pytest.mark.parametrize(("ratio", "choice"), [(0.5, "top"), (0.7, "top"), (0.5, "random")])
def test_a_slow_twin_of_the_plan_in_float64(ratio: float, choice: str) -> None:
    x, known = drawn()
    plan = ImportanceTome(ratio=ratio, choice=choice)._plan(x, spot(), known)  # type: ignore[arg-type]
    assert plan is not None
    count, keep = int(64 * ratio), 16
    for row in range(2):
        heat, chance = known[row].tolist()
        pool = sorted(range(64), key=lambda i: -heat[i])[: max(keep, min(64, int((64 - count) * 1.4)))]
        score = heat if choice == "top" else chance
        targets = sorted(sorted(pool, key=lambda i: -score[i])[:keep])
        wide = torch.nn.functional.normalize(x[row].double(), dim=-1)
        cosines = wide @ wide[targets].T
        best = cosines.amax(1).tolist()
        sources = [i for i in range(64) if i not in targets]
        order = sorted(sources, key=lambda i: (i in pool, -best[i]))
        merged = {i: targets[int(cosines[i].argmax())] for i in order[:count]}
        groups = {target: {target, *(i for i, to in merged.items() if to == target)} for target in targets}
        expected = {frozenset(group) for group in groups.values()} | {frozenset({i}) for i in order[count:]}
        place = plan.place[row].tolist()
        assert {frozenset(i for i in range(64) if place[i] == each) for each in set(place)} == expected


def test_the_first_steps_prune_and_keep_the_destinations_values() -> None:
    x, _ = drawn()
    plan = ImportanceTome()._plan(x, spot(), torch.zeros(2, 16, dtype=torch.long))
    assert plan is not None
    assert torch.equal(plan.merge(x)[:, 0], x[:, 0])  # the first tile's corner, unmixed


@torch.no_grad()
def test_importance_is_what_guidance_changed_in_the_step_before_and_is_forgotten() -> None:
    heat = _Heat(1)
    cond = condition(tiny_sd(), ASK, True, (16, 16))
    output = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    at = [replace(cond, step=Step(index, 4, 500.0)) for index in range(3)]
    heat.watch(lambda x, t, c: output)(output, output, at[0])
    assert heat.of(at[0]) is None  # the first step has none
    found = heat.of(at[1])
    assert found is not None
    expected = (output[2:] - output[:2]).abs().mean(1, keepdim=True)
    assert torch.equal(found, expected.repeat(2, 1, 1, 1))
    assert images(cond) == ((1, 0), (2, 0), (1, 0), (2, 0))
    alone = replace(at[1].rows([2, 3]))
    heat.watch(lambda x, t, c: output[2:] + 1)(output, output, alone)  # no guidance: the change since the last call
    assert torch.allclose(heat.of(replace(alone, step=Step(2, 4, 500.0))), torch.ones(2, 1, 8, 8))  # type: ignore[arg-type]
    heat.hear(Started(4, (1, 2)))
    assert heat.of(at[2]) is None


def test_it_merges_elsewhere_than_tome_and_repeats_itself() -> None:
    sampler, ask = Diffuse(steps=4, guidance=4.0), ASK
    edit = ImportanceTome(wait=1)
    with using(tiny_sd(), edit) as bundle:
        first = sampler.sample(bundle, ask, lambda step: None)
        assert torch.equal(sampler.sample(bundle, ask, lambda step: None), first)
    assert not torch.equal(first, Scene(tiny_sd(), sampler, (Tome(),), ask).run())
    pixart = [Scene(tiny_pixart(), Diffuse(steps=3), edits, ask).run() for edits in ((edit,), ())]
    assert not torch.equal(*pixart)


def test_more_than_the_destinations_leave_is_refused() -> None:
    with pytest.raises(AskError, match=r"importance-tome has ratio 0\.7, must be at most 0\.5 with keep 0\.5"):
        ImportanceTome(ratio=0.7, keep=0.5)
