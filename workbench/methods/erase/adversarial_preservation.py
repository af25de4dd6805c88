"""Adversarial preservation: what the erasing would hurt most is found as it goes on, and kept.

Paper: Bui, Vuong, Doan, Le, Montague, Abraham and Phung 2024, "Erasing Undesirable Concepts in Diffusion Models with
Adversarial Preservation", arXiv 2410.15618 (NeurIPS 2024).

Equations, with z0(e, c) the clean latent that a network predicts at x_t, frozen e* and e in training:
    min_e max_ca  | z0(e, c) - sg[ z0(e*, 0) - eta (z0(e*, c) - z0(e*, 0)) ] |^2  +  | z0(e, ca) - z0(e*, ca) |^2
    ca = y E,  y ~ Gumbel-softmax(pi) with temperature 2, one-hot forwards and soft backwards
for the text states E of some words; a step of Adam on pi, upwards, after every step of the model.

Differs: as in the code, pi's gradient passes through e(x_t, ca) alone, at fixed x_t. There x_t of the second term is
walked along ca; here along a random word of E, and walks are those of the frozen network, used for many steps. E are
representatives (nearest to k-means centres) of the target's nearest words among those that the model knows, or of
`preserve`; in the code 50 to 100 of 3000 English words. Each target has its own pi there; here all share one. The
concept is taught in several prompts, "nothing" being each prompt without it. For noise predictors z0 weighs a step by
(1 - a^2) / a^2, which is large at the noisiest ones; for velocity by 1 - a^2.

Official settings (SD 1.4): 1000 iterations at rate 1e-5, eta 1, rate of pi 1e-2, cross-attention (`noxattn` for
nudity), 100 words of the 1000 nearest; the defaults here are for models of some ten million parameters. Official
numbers (authors' notebooks, 5 of 10 Imagenette classes): erased 98.6 %, kept 55.2 %; ESD-x 78.1, 53.3; UCE 100, 24.4.

Licence of the reference: Erasing-Adversarial-Preservation, none given (read, not copied), function `train`.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from workbench.blocks import lessons
from workbench.blocks.concepts import Names, read_concepts
from workbench.blocks.distill import Batch, Pull, Recipe, answer, distill, student, teacher
from workbench.blocks.groups import Group
from workbench.blocks.neighbours import bank, suggest
from workbench.blocks.pools import Space, Walks
from workbench.core.bundle import Bundle, TextStates
from workbench.core.delta import Delta
from workbench.core.method import Card, Edit
from workbench.core.tape import Tap
from workbench.ops.noise import row_generator


class AdversarialPreservation(Edit):
    """Erase as ESD does while keeping the words that suffer most."""

    card: ClassVar[Card] = Card(
        "adversarial-preservation", "Adversarial preservation", "arXiv 2410.15618", ("unet",), "minutes"
    )
    quick: ClassVar[Mapping[str, Any]] = {
        "concepts": ("cat",), "preserve": ("dog", "red"), "iterations": 2, "batch": 2, "walks": 2, "walk_steps": 2,
        "rate": 1e-3}  # fmt: skip
    neutral: ClassVar[Mapping[str, Any] | None] = {"strength": 0.0}

    concepts: lessons.Concepts
    preserve: Names = Field((), description="Words to choose the adversary from; empty takes near ones.")
    eta: float = Field(1.0, ge=0, le=10, description="How far past nothing to steer away; 0 stops at nothing.")
    space: Space = Field("x0", description="What is compared: clean latents, noises, or the predictions as they are.")
    group: Group = Field("xattn", description="Which parameters learn.")
    near: int = Field(64, ge=1, le=2000, description="How many near words are looked at.")
    words: int = Field(12, ge=1, le=200, description="How many of them stand for all.")
    word_rate: float = Field(0.05, gt=0, le=1, description="Step of the adversary (Adam's learning rate).")
    strength: lessons.Strength = 1.0
    iterations: lessons.Iterations = 200
    batch: lessons.BatchSize = 4
    rate: lessons.Rate = 1e-4
    walks: lessons.Count = 24
    walk_steps: lessons.WalkSteps = 20
    walk_guidance: lessons.WalkGuidance = 3.0
    manner: lessons.Speech = "auto"
    seed: lessons.Seed = 0

    def recipe(self, bundle: Bundle) -> Recipe:
        """What is learned, where and how fast."""
        found = read_concepts(bundle, "adversarial-preservation", self.concepts, preserve=self.preserve)
        words = found.preserve or suggest(bundle, found.targets, self.near)
        words = bank(bundle, words, whole=True).representatives(self.words, self.seed) if words else found.targets
        stay = Pull(student("kept"), teacher("kept"), space=self.space)
        concept, empty = teacher("concept"), teacher("empty")
        away = Pull(student("concept"), empty - self.eta * (concept - empty), space=self.space)
        kept = tuple({"kept": f"a {word}"} for word in words)
        return Recipe(
            lessons.alternate(lessons.erasing(bundle, found, self.manner), kept),
            (away, stay),
            Walks(self.walks, self.walk_steps, self.walk_guidance),
            self.group,
            companion=Adversary(kept, stay, self.word_rate, self.seed),
            iterations=self.iterations,
            batch=self.batch,
            rate=self.rate,
            seed=self.seed,
        )

    def fit(self, bundle: Bundle, tap: Tap) -> Delta:
        """Train against the adversary; the change of the group's weights."""
        return distill(bundle, self.recipe(bundle), tap, self.fit_key)


class Adversary:
    """A choice among words, moved towards those that the student has changed most."""

    def __init__(self, words: tuple[lessons.Lesson, ...], stay: Pull, rate: float, seed: int) -> None:
        self.words, self.stay, self.seed, self.count = words, stay, seed, 0
        self.pi = torch.zeros(len(words), requires_grad=True)
        self.optimiser = torch.optim.Adam([self.pi], lr=rate)

    def before(self, batch: Batch) -> None:
        """Take a step upwards at the batch's states (after the model's first), then choose the word to be kept."""
        rows = [i for i, told in enumerate(batch.told("kept").tolist()) if told >= 0]
        if rows and self.count:
            trial = Batch(batch.room, batch.states.rows(torch.tensor(rows)))
            self.choose(trial)
            answer(trial, (self.stay,))
            (self.pi.grad,) = torch.autograd.grad(-self.stay(trial), self.pi)
            self.optimiser.step()
        self.count += 1
        with torch.no_grad():
            self.choose(batch)

    def choose(self, batch: Batch) -> None:
        """Tell all rows the chosen word, as a function of pi."""
        draw = torch.rand(len(self.pi), generator=row_generator(self.seed, "gumbel", self.count)).clamp_min(1e-20)
        soft = F.softmax((self.pi - (-draw.log()).log()) / 2, -1)
        hard = F.one_hot(soft.argmax(), len(soft)) - soft.detach() + soft
        room, count = batch.room, len(batch.states.t)
        every = room.cond(torch.tensor([room.row(lesson["kept"]) for lesson in self.words]))

        def mix(rows: Tensor | None) -> Tensor | None:
            if rows is None:
                return None
            mixed = torch.tensordot(hard.to(rows.device, torch.float32), rows.float(), 1).to(rows.dtype)
            return mixed.expand(count, *mixed.shape)

        one = every.rows([0] * count)
        text = TextStates(mix(every.text.states), mix(every.text.pooled), one.text.mask, one.text.ids)  # type: ignore[arg-type]
        batch.conds["kept"] = replace(one, text=text)

    def tensors(self) -> dict[str, Tensor]:
        """Logits, count and the optimiser's memory."""
        return {"pi": self.pi.detach(), "count": torch.tensor(self.count), **self.optimiser.state[self.pi]}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from there."""
        self.count = int(tensors["count"])
        self.pi.data.copy_(tensors["pi"])
        self.optimiser.state[self.pi] = {k: v for k, v in tensors.items() if k not in ("pi", "count")}
