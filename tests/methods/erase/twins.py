"""A recipe's first batch, and the tiny network in float64, prompt by prompt, for the tests of trained erasers."""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor

from tests.tiny import sd_pipe, tiny_sd
from workbench.blocks.distill import Batch, Recipe, answer
from workbench.blocks.groups import Trainee, select
from workbench.blocks.pools import Room, States
from workbench.core.patch import Patch
from workbench.ops.noise import row_generator

PIPE = sd_pipe()
PIPE.unet.double()
PIPE.text_encoder.double()


def first(recipe: Recipe, nudge: float = 0.0) -> tuple[States, list[float], dict[str, Tensor]]:
    """A recipe's first batch on the tiny model, each term's value, and the trained values, moved by some noise."""
    bundle = tiny_sd()
    with Patch(bundle) as patch:
        trainee = Trainee(patch, select(bundle, recipe.group))
        room = Room(bundle, recipe.lessons, trainee, seed=recipe.seed)
        pool = recipe.source.fill(room, 0)
        generator = torch.Generator().manual_seed(5)
        for live in trainee.live:
            live.data = live.data + nudge * live.std() * torch.randn(live.shape, generator=generator)
        batch = Batch(room, pool.draw(room, recipe.times, recipe.batch, row_generator(recipe.seed, "iteration", 0)))
        answer(batch, recipe.terms)
        losses = [float(term(batch).detach()) for term in recipe.terms]
        return batch.states, losses, {k: v.detach().clone() for k, v in zip(trainee.keys, trainee.live, strict=True)}


class Network:
    """The tiny network in float64, with some values of its own."""

    def __init__(self, values: Mapping[str, Tensor] | None = None) -> None:
        self.unet = PIPE.unet if not values else copy.deepcopy(PIPE.unet)
        state = {key.removeprefix("unet:"): value.double() for key, value in (values or {}).items()}
        self.unet.load_state_dict(state, strict=False)

    @torch.no_grad()
    def says(self, states: States, row: int, prompt: str | None) -> Tensor:
        """Its prediction at one row of states, [C, h, w]."""
        words = PIPE.tokenizer(prompt or "", padding="max_length", max_length=77, truncation=True, return_tensors="pt")
        text = PIPE.text_encoder(words.input_ids)[0]
        return self.unet(states.x[row : row + 1].double(), states.t[row], text).sample[0]


def square(made: Tensor, goal: Tensor) -> float:
    """The mean squared difference, number by number."""
    pairs = zip(made.flatten().tolist(), goal.flatten().tolist(), strict=True)
    return sum((a - b) ** 2 for a, b in pairs) / made.numel()
