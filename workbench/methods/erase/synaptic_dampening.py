"""Selective synaptic dampening: parameters that matter more to what goes than to the rest are shrunk. No training.

Paper: Foster, Schoepf and Brintrup 2023, "Fast Machine Unlearning Without Retraining Through Selective Synaptic
Dampening", arXiv 2308.07707 (AAAI 2024).

Equations, with I the diagonal of the empirical Fisher matrix, the mean of (dL/dw)^2 over examples, of all data D and of
the part f to forget:
    w' = b w  where I_f > alpha I_D,  b = min(lambda I_D / I_f, 1);   w' = w elsewhere

Differs: the paper's data are labelled pictures and its loss a classifier's. Here they are latents that the model itself
draws, of the concepts for f, and of them and of `preserve` (without one, of words that the model knows) for D; the loss
is the error of its prediction against the noise that was put on them. One example at a time, so the squares are those
of single gradients (the official code squares gradients of mini-batches). Norms are never dampened: a little of that
spoils every picture.

Official settings: alpha 10 and lambda 1 for ResNet-18, alpha 5 for ViT, alpha 50 and lambda 0.1 for faces. Official
numbers, from memory: ViT on CIFAR-100, class rocket, accuracy on the rest 88.88 before and 88.90 after, on the class
94.70 and 0.00. The paper has none for diffusion models.

Licence of the reference: if-loops/selective-synaptic-dampening, MIT (read, not copied), class `ParameterPerturber`.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from workbench.blocks import lessons
from workbench.blocks.concepts import Names, read_concepts
from workbench.blocks.distill import TRUTH, Pull, Recipe, student
from workbench.blocks.groups import select
from workbench.blocks.importance import importance
from workbench.blocks.neighbours import kept_words
from workbench.blocks.pools import Pictures
from workbench.core.bundle import Bundle
from workbench.core.delta import Delta
from workbench.core.method import Card, Edit
from workbench.core.tape import Tap


class SynapticDampening(Edit):
    """Shrink the parameters that matter to a concept and hardly to anything else."""

    card: ClassVar[Card] = Card(
        "synaptic-dampening", "Selective synaptic dampening", "arXiv 2308.07707", ("unet",), "minutes"
    )
    quick: ClassVar[Mapping[str, Any]] = {
        "concepts": ("cat",), "preserve": ("dog",), "examples": 2, "pictures": 2, "picture_steps": 2,
        "alpha": 1.0}  # fmt: skip
    neutral: ClassVar[Mapping[str, Any] | None] = {"strength": 0.0}

    concepts: lessons.Concepts
    preserve: Names = Field((), description="What the rest is; empty takes words that the model knows.")
    alpha: float = Field(10.0, gt=0, le=1e6, description="How many times as important to be chosen; low takes more.")
    dampening: float = Field(1.0, gt=0, le=100, description="How much of what was chosen is left (lambda).")
    group: Literal["xattn_k", "xattn_v", "xattn_kv", "xattn", "noxattn"] = Field(
        "xattn", description="Which parameters may be dampened."
    )
    strength: lessons.Strength = 1.0
    examples: int = Field(96, ge=1, le=20_000, description="Noisy pictures that are measured, for each side.")
    pictures: lessons.Count = 24
    picture_steps: lessons.WalkSteps = 12
    guidance: lessons.WalkGuidance = 5.0
    manner: lessons.Speech = "auto"
    seed: lessons.Seed = 0

    def fit(self, bundle: Bundle, tap: Tap) -> Delta:
        """W' - W of the group."""
        found = read_concepts(bundle, "synaptic-dampening", self.concepts, preserve=self.preserve)
        rest = (*kept_words(bundle, found, self.pictures), *found.targets)
        forget = importance(bundle, self.recipe(bundle, found.targets), "square", tap)
        whole = importance(bundle, self.recipe(bundle, rest), "square", tap)
        tensors: dict[str, Tensor] = {}
        chosen = 0
        for handle in select(bundle, self.group):
            factor = damping(forget[handle.key], whole[handle.key], self.alpha, self.dampening)
            weight: Tensor = getattr(handle.owner, handle.name).detach()
            tensors[handle.key] = ((factor - 1) * weight).float().cpu()
            chosen += int((factor < 1).sum())
        return Delta("weights", tensors, {"group": self.group, "dampened": str(chosen)})

    def recipe(self, bundle: Bundle, words: tuple[str, ...]) -> Recipe:
        """The error on pictures of some words, one example at a time."""
        taught = lessons.kept(bundle, words, self.manner)
        source = Pictures(self.pictures, self.picture_steps, self.guidance, ("kept",))
        terms = (Pull(student("kept"), TRUTH),)
        return Recipe(taught, terms, source, self.group, iterations=self.examples, batch=1, seed=self.seed)


def damping(forget: Tensor, whole: Tensor, alpha: float, left: float) -> Tensor:
    """What each parameter is multiplied by: min(left I_D / I_f, 1) where I_f > alpha I_D, 1 elsewhere.

    >>> damping(torch.tensor([4.0, 1.0]), torch.tensor([1.0, 1.0]), 2.0, 1.0).tolist()
    [0.25, 1.0]
    """
    factor = (left * whole / forget.clamp_min(torch.finfo(forget.dtype).tiny)).clamp_max(1.0)
    return torch.where(forget > alpha * whole, factor, torch.ones_like(factor))
