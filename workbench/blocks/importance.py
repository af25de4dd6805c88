"""How much each parameter matters to what a network says: gradients added up over noisy states, and masks from them."""

from collections.abc import Mapping, Sequence
from typing import Literal, cast

import torch
from torch import Tensor

from workbench.blocks.distill import Batch, Recipe, answer
from workbench.blocks.groups import Trainee, select
from workbench.blocks.pools import Room, progress
from workbench.core.bundle import Bundle
from workbench.core.patch import Patch
from workbench.core.tape import Tap, ignore
from workbench.ops.noise import row_generator

#: `square`: the mean squared gradient, the diagonal of the empirical Fisher matrix where the batch is one.
#: `absolute`: the size of the mean gradient.
Measure = Literal["square", "absolute"]


def importance(bundle: Bundle, recipe: Recipe, measure: Measure = "square", tap: Tap = ignore) -> dict[str, Tensor]:
    """The gradient of a recipe's terms by parameter, measured over its `iterations` without taking a step.

    float32 on the bundle's device, of each parameter's shape. The bundle is left as it is.
    """
    tick = progress(tap, recipe.source.ticks(recipe.iterations) + recipe.iterations)
    with torch.inference_mode(False), torch.enable_grad(), Patch(bundle) as patch:
        trainee = Trainee(patch, select(bundle, recipe.group))
        room = Room(bundle, recipe.lessons, trainee, seed=recipe.seed, tick=tick)
        pool = recipe.source.fill(room, 0)
        sums = [torch.zeros_like(live) for live in trainee.live]
        for index in range(recipe.iterations):
            generator = row_generator(recipe.seed, "iteration", index)
            batch = Batch(room, pool.draw(room, recipe.times, recipe.batch, generator))
            answer(batch, recipe.terms)
            losses = [term(batch) for term in recipe.terms]
            total_loss = sum(losses[1:], losses[0])
            every = torch.autograd.grad(total_loss, trainee.live, allow_unused=True)
            found = cast(Sequence[Tensor | None], every)  # torch's types forget that an unused one has none
            for total, grad in zip(sums, found, strict=True):
                if grad is not None:
                    total += (grad.square() if measure == "square" else grad).detach()
            tick(float(batch.states.t.float().mean()))
        count = max(recipe.iterations, 1)
        return {key: (total / count).detach().abs() for key, total in zip(trainee.keys, sums, strict=True)}


def largest(scores: Mapping[str, Tensor], share: float, lowest: bool = False) -> dict[str, Tensor]:
    """Masks (1 chosen, 0 not) of the given share of each tensor's entries with the highest scores, or the lowest.

    Ties at the border are broken by place, so the share is exact to one entry; every tensor keeps at least one.

    >>> largest({"w": torch.tensor([3.0, 1.0, 2.0, 0.0])}, 0.5)["w"].tolist()
    [1.0, 0.0, 1.0, 0.0]
    """
    masks: dict[str, Tensor] = {}
    for key, score in scores.items():
        count = max(1, round(share * score.numel()))
        order = score.flatten().argsort(descending=not lowest, stable=True)[:count]
        masks[key] = torch.zeros_like(score.flatten()).index_fill(0, order, 1.0).reshape(score.shape)
    return masks


def shared(masks: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """What all masks choose."""
    return {key: torch.stack([mask[key] for mask in masks]).amin(0) for key in masks[0]}
