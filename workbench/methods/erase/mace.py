"""MACE: many concepts at once, by refining the text projections, one LoRA a concept, and one fusion of them all.

Paper: Lu, Wang, Li, Liu and Kong 2024, "MACE: Mass Concept Erasure in Diffusion Models", arXiv 2403.06135 (CVPR 2024).

Equations, for every key and value projection W of cross-attention:
    refine   min_W' sum |W' k - W k*|^2 + p sum |W' c - W c|^2 + s |W' - W|^2, k the states of the words around a
             concept in its prompts, k* those of the same words around its anchor, c states that stay
    one LoRA a concept   min sum over layers |A[places of the concept, its tokens]|_F, on noised pictures of it at t
             drawn with p(t) ~ sigma(0.05 (t - 200)) - sigma(0.05 (t - 400))
    fuse     min_W* sum_i sum_e |W* e - (W' + D_i) e|^2 + p sum |W* c - W c|^2 + s |W* - W'|^2, e the states of
             concept i's prompts, D_i its LoRA

Differs: pictures and masks are true drawings of the model's world where it has the concept; otherwise the model's own
pictures, unmasked, where the official code segments them (an external model of several GB). The words that stay are a
list (`preserve`; empty takes the model's vocabulary) in the place of moments over 617 thousand captions. s and p are
relative: s in units of the sums' mean diagonal. Each concept is refined in the sum of all, not by itself. LoRA factors
begin uniform in 1 / sqrt(D), so the rate is larger than the official 1e-4 and 1e-5, which belong to unit normal ones.
Several prompts a concept in place of 30 templates; the tokens after the concept count as context.

Official numbers (from memory of table 1, mean over ten CIFAR objects): accuracy on the erased 8.5 %, on the others
97.4 %, on synonyms 10.5 %, harmonic mean 92.6. UnlearnDiffAtk leaderboard, SD 1.4: nudity 9.1 % before attack and 74.6
after (rows added by another submitter).

Licence of the reference: MACE, NTU dual licence, non-commercial; written from the equations, functions
`closed_form_refinement` and `main` of the fusion script.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from workbench.blocks import closed_form
from workbench.blocks.closed_form import (
    erase_moments,
    keep_moments,
    operator,
    text_matrices,
    told,
    weight_of,
    weights_delta,
)
from workbench.blocks.closeups import Closeups, closeups
from workbench.blocks.concepts import phrases, read_concepts, text_sites
from workbench.blocks.denoise import condition
from workbench.blocks.groups import Trainee
from workbench.blocks.neighbours import kept_words
from workbench.blocks.spans import places
from workbench.core.ask import Ask
from workbench.core.attend import Attention
from workbench.core.bundle import Bundle, Condition, Handle
from workbench.core.delta import Delta
from workbench.core.method import Card, Edit
from workbench.core.patch import Patch
from workbench.core.tape import Step, Tap
from workbench.ops.attention import grid
from workbench.ops.linear_edit import System
from workbench.ops.noise import row_generator

TIMES = 1000


class Mace(Edit):
    """Erase many concepts: refine, train a small LoRA each, fuse."""

    card: ClassVar[Card] = Card("mace", "MACE", "arXiv 2403.06135", ("unet",), cost="minutes")
    neutral: ClassVar[Mapping[str, Any] | None] = {"strength": 0.0}
    quick: ClassVar[Mapping[str, Any]] = {"concepts": ("cat",), "preserve": ("dog",), "iterations": 2, "pictures": 1}

    concepts: closed_form.Concepts
    anchor: str = Field("", description="What the words around a concept should say instead; empty is nothing.")
    preserve: closed_form.Preserve = ()
    strength: closed_form.Strength = 1.0
    iterations: int = Field(50, ge=0, le=10_000, description="Training steps of each concept's LoRA; 0 refines alone.")
    pictures: int = Field(8, ge=1, le=64, description="Pictures of each concept to train on.")
    rank: int = Field(1, ge=1, le=64, description="Rank of each LoRA.")
    rate: float = Field(0.01, gt=0, le=1, description="Learning rate of the LoRA stage.")
    keep: closed_form.Keep = 1.0
    ridge: closed_form.Ridge = 0.01
    seed: int = Field(0, ge=0, le=2**32, description="Of pictures, noise, timesteps and the LoRAs' start.")
    manner: closed_form.Speech = "auto"

    def fit(self, bundle: Bundle, tap: Tap) -> Delta:
        """W* - W of every key and value projection."""
        handles = text_matrices(bundle, self.card.name)
        wanted = read_concepts(bundle, self.card.name, self.concepts, self.anchor, self.preserve)
        erase = erase_moments(bundle, wanted.targets, wanted.anchor, "context", self.manner)
        keep = keep_moments(bundle, kept_words(bundle, wanted), "all").scaled(self.keep)
        move, system = operator(erase, keep, self.ridge)
        moved = [weight_of(handle) @ move for handle in handles]
        refined = weights_delta(handles, moved, told([system], handles, moved))
        if not self.iterations:
            return refined
        found: list[Delta] = []
        said: list[Tensor] = []
        for index, concept in enumerate(wanted.targets):
            report = _Progress(tap, index * self.iterations, len(wanted.targets) * self.iterations)
            found.append(self._lora(bundle, handles, refined, concept, report))
            said.append(keep_moments(bundle, [concept], "all", self.manner).b)
        both = torch.stack(said).sum(0) + keep.b
        last = System(both, self.ridge * float(both.diagonal().mean()))
        changes = [
            first + last.solve(fusion([d.change(handle.key).to(first) for d in found], said) - first @ keep.b)
            for handle, first in zip(handles, moved, strict=True)
        ]
        return weights_delta(handles, changes, told([system, last], handles, changes))

    def _lora(self, bundle: Bundle, handles: Sequence[Handle], refined: Delta, concept: str, tap: "_Progress") -> Delta:
        """The low-rank change that looks away from one concept, trained on the refined model."""
        mine, _ = phrases(bundle, concept, "", self.manner)
        views = closeups(bundle, concept, [phrase.text for phrase in mine], self.pictures, self.seed, tap.drawing)
        size = (bundle.shapes.image[2], bundle.shapes.image[1])
        told_ = condition(bundle, Ask(prompts=[phrase.text for phrase in mine]), False, size)
        ids = bundle.read([phrase.text for phrase in mine]).ids
        where = places(bundle, mine, ids if ids is not None else torch.zeros(0, 0, dtype=torch.long))
        noise = bundle.scheduler("ddpm", TIMES)
        generator = row_generator(self.seed, "mace", concept)
        with torch.enable_grad(), Patch(bundle) as patch:
            patch.delta(refined)
            trainee = Trainee(patch, handles, rank=self.rank, seed=self.seed)
            gaze = _Gaze(bundle, patch, views, self.card.name)
            optimiser = torch.optim.Adam(trainee.values, self.rate)
            for i in range(self.iterations):
                row, way = i % self.pictures, i % len(mine)
                t = torch.multinomial(likely(TIMES), 1, generator=generator)
                x = views.latents[row : row + 1]
                x = noise.add_noise(x, torch.randn(x.shape, generator=generator).to(x), t.to(x.device))
                tokens = list(range(where[way].start, where[way].stop))
                loss = gaze.at(x, t.to(x.device), told_.rows([way]), row, tokens)
                grads = torch.autograd.grad(loss, trainee.live, allow_unused=True)
                trainee.take({k: g for k, g in zip(trainee.keys, grads, strict=True) if g is not None})
                optimiser.step()
                trainee.settle()
                tap.step(i, float(t))
            return trainee.delta({})


def likely(total: int) -> Tensor:
    """How likely each timestep is, unnormalised: high between 200 and 400 of 1000 (the paper's eq. 8)."""
    t = torch.arange(total) * 1000 / total
    return (torch.sigmoid(0.05 * (t - 200)) - torch.sigmoid(0.05 * (t - 400))).clamp_min(1e-12)


def fusion(changes: Sequence[Tensor], said: Sequence[Tensor]) -> Tensor:
    """sum D_i E_i: what fused weights should do beyond the refined ones, on sums E_i = sum e e^T of each concept."""
    total = torch.zeros_like(changes[0])
    for change, sums in zip(changes, said, strict=True):
        total += change @ sums
    return total


class _Gaze:
    """How much a pass looks at some tokens from the places of the concept: Frobenius norms, summed over layers."""

    def __init__(self, bundle: Bundle, patch: Patch, views: Closeups, name: str) -> None:
        self.bundle, self.views = bundle, views
        self.row, self.tokens, self.size = 0, [0], (1, 1)
        self.norms: list[Tensor] = []
        for site in text_sites(bundle, name):
            patch.attend(site, self._watch)

    def at(self, x: Tensor, t: Tensor, cond: Condition, row: int, tokens: list[int]) -> Tensor:
        """The loss of one pass on the noised picture `row`."""
        self.row, self.tokens, self.size, self.norms = row, tokens, (x.shape[-2], x.shape[-1]), []
        self.bundle.predict(x, t, cond)
        return torch.stack(self.norms).sum()

    def _watch(self, call: Attention) -> Tensor:
        inside = self.views.inside(self.row, grid(call.query.shape[-2], self.size))
        self.norms.append(call.weights()[:, :, inside][..., self.tokens].norm())
        return call.run()


@dataclass(frozen=True)
class _Progress:
    """A concept's share of the whole fit, for the tap."""

    tap: Tap
    done: int
    total: int

    def step(self, index: int, level: float) -> None:
        self.tap(Step(self.done + index, max(self.total, 1), level))

    def drawing(self, step: Step) -> None:
        """Pictures being drawn: the fit stands where it stood, and can still be stopped."""
        self.tap(Step(self.done, max(self.total, 1), step.level))
