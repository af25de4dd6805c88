"""ANT: early steps keep following the prompt, later ones turn away from the concept.

Paper: Li, Lu, Ren and Kong 2025, "Set You Straight: Auto-Steering Denoising Trajectories to Sidestep Unwanted
Concepts", arXiv 2504.12782 (ACM MM 2025).

Equations, with the frozen network e* and the one in training e, on states of walks towards the concept c, the
boundary t', guidance eta, and "nothing" 0:
    t above t' (early):  a1 ( | e(c) - sg[e*(0) + eta (e*(c) - e*(0))] |^2 + a2 | e(0) - e*(0) |^2 )
    t below t' (late):          | e(c) - sg[e*(0) - eta (e*(c) - e*(0))] |^2 + a2 | e(0) - e*(0) |^2
each in the mean over its own times. Only parameters in a mask are trained: the share of each tensor's entries with the
largest |gradient| of this loss, in the intersection over several draws of noise (and of prompts).

Differs: `compat` does what the authors' code for one concept does where that is something else: it keeps in the late
steps and turns away in the early ones (its counter runs from the picture), the terms in e(0) have no gradient, and the
mask holds the entries with the smallest |gradient|. In either variant the masks' gradients are taken at the frozen
weights (in the code the model is stepped meanwhile, at rate 1e-2), entries outside the mask are held whatever the
optimiser's memory wants, walks are those of the frozen network, and the concept is taught in several prompts,
"nothing" being each prompt without it. `preserve` adds | e(x_t, word) - e*(x_t, word) |^2 on walks towards its words.
The code for several concepts, LoRAs fused as in MACE, is not here.

Official settings for Stable Diffusion 1.4 (code for one concept): 250 iterations at rate 5e-4, eta 1, a1 1, a2 0.5,
boundary at 7 of 50 steps, every parameter, share 0.5, 4 words x 5 draws. The defaults here are for models of some ten
million parameters. Official numbers: not found in a checkable form; an open issue reports results worse than the
paper's with the public code.

Licence of the reference: ANT, non-commercial (read for its facts, not copied), function `train_ant`.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from workbench.blocks import lessons
from workbench.blocks.concepts import read_concepts
from workbench.blocks.distill import Pull, Recipe, Term, distill, student, teacher
from workbench.blocks.groups import Group
from workbench.blocks.importance import importance, largest, shared
from workbench.blocks.pools import Walks
from workbench.core.bundle import Bundle
from workbench.core.delta import Delta
from workbench.core.method import Card, Edit
from workbench.core.tape import Tap, ignore


class Ant(Edit):
    """Teach the model to leave the way to a concept after its first steps."""

    card: ClassVar[Card] = Card("ant", "ANT", "arXiv 2504.12782", ("unet",), "minutes")
    quick: ClassVar[Mapping[str, Any]] = {
        "concepts": ("cat",), "iterations": 2, "batch": 2, "walks": 2, "walk_steps": 4, "draws": 1, "sweeps": 1,
        "boundary": 0.5, "group": "xattn", "rate": 1e-3}  # fmt: skip
    neutral: ClassVar[Mapping[str, Any] | None] = {"strength": 0.0}

    concepts: lessons.Concepts
    preserve: lessons.Preserve = ()
    variant: Literal["exact", "compat"] = Field("exact", description="By the paper's equations, or as its code does.")
    boundary: float = Field(0.14, gt=0, lt=1, description="Share of the steps that count as early ones.")
    eta: float = Field(1.0, ge=0, le=10, description="How far past nothing to steer away, or towards the concept.")
    keep_early: float = Field(1.0, ge=0, le=10, description="Weight of the early steps (a1).")
    keep_empty: float = Field(0.5, ge=0, le=10, description="Weight of what is said without a prompt (a2).")
    group: Group = Field("full", description="Which parameters may learn.")
    share: float = Field(0.5, gt=0, le=1, description="Share of each tensor's entries in the mask; 1 is no mask.")
    draws: int = Field(3, ge=1, le=50, description="Masks that are intersected.")
    sweeps: int = Field(8, ge=1, le=1000, description="Batches whose gradients make one mask.")
    strength: lessons.Strength = 1.0
    iterations: lessons.Iterations = 200
    batch: lessons.BatchSize = 4
    rate: lessons.Rate = 2e-5
    walks: lessons.Count = 16
    walk_steps: lessons.WalkSteps = 20
    walk_guidance: lessons.WalkGuidance = 3.0
    manner: lessons.Speech = "auto"
    seed: lessons.Seed = 0

    @property
    def border(self) -> float:
        """Where t / T divides the two kinds of steps: t falls from 1, so the early ones are above 1 - boundary."""
        return 1 - self.boundary if self.variant == "exact" else self.boundary

    def times(self, when: Tensor) -> Tensor:
        """Either kind of steps is drawn as often as the other."""
        above = when >= self.border
        return torch.where(above, 1 / above.sum().clamp_min(1), 1 / (~above).sum().clamp_min(1))

    def terms(self) -> tuple[Term, ...]:
        """The summands of the loss; 2 undoes that either kind of steps makes half of the rows."""
        concept, empty = teacher("concept"), teacher("empty")
        towards, away = empty + self.eta * (concept - empty), empty - self.eta * (concept - empty)
        above, below = (self.border, 2.0), (-1.0, self.border)
        early, late = (above, below) if self.variant == "exact" else (below, above)
        first = 2 * self.keep_early
        parts = [Pull(student("concept"), away, 2.0, span=late), Pull(student("concept"), towards, first, span=early)]
        if self.variant == "exact" and self.keep_empty:
            for weight, span in ((2.0, late), (first, early)):
                parts.append(Pull(student("empty"), empty, weight * self.keep_empty, span=span))
        if self.preserve:
            parts.append(Pull(student("kept"), teacher("kept")))
        return tuple(parts)

    def recipe(self, bundle: Bundle, tap: Tap = ignore) -> Recipe:
        """What is learned, where and how fast; finds the masks."""
        found = read_concepts(bundle, "ant", self.concepts, preserve=self.preserve)
        taught = lessons.erasing(bundle, found, self.manner)
        return Recipe(
            lessons.alternate(taught, lessons.kept(bundle, found.preserve, self.manner)),
            self.terms(),
            Walks(self.walks, self.walk_steps, self.walk_guidance),
            self.group,
            masks=self.masks(bundle, found.targets, tap) if self.share < 1 else None,
            iterations=self.iterations,
            batch=self.batch,
            rate=self.rate,
            times=self.times,
            seed=self.seed,
        )

    def fit(self, bundle: Bundle, tap: Tap) -> Delta:
        """Find the masks, then train; the change of the group's weights."""
        return distill(bundle, self.recipe(bundle, tap), tap, self.fit_key)

    def masks(self, bundle: Bundle, targets: tuple[str, ...], tap: Tap) -> dict[str, Tensor]:
        """What all draws agree on; targets take turns."""
        found: list[dict[str, Tensor]] = []
        for draw in range(self.draws):
            one = read_concepts(bundle, "ant", (targets[draw % len(targets)],))
            recipe = Recipe(
                lessons.erasing(bundle, one, self.manner),
                self.terms(),
                Walks(min(self.walks, self.batch), self.walk_steps, self.walk_guidance),
                self.group,
                iterations=self.sweeps,
                batch=self.batch,
                times=self.times,
                seed=self.seed + 1 + draw,
            )
            scores = importance(bundle, recipe, "absolute", tap)
            found.append(largest(scores, self.share, lowest=self.variant == "compat"))
        return shared(found)
