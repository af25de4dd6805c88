"""Concept ablation: asked for the target, the model learns to draw what it draws for an anchor.

Paper: Kumari, Zhang, Wang, Shechtman, Zhang and Zhu 2023, "Ablating Concepts in Text-to-Image Diffusion Models",
arXiv 2303.13516 (ICCV 2023).

Equations, on noised pictures x_t = a x0 + s n of the anchor c, for the target c* and the network e in training:
    model:  | e(x_t, c*) - sg e(x_t, c) |^2          noise:  | e(x_t, c*) - n |^2
    both:   + prior | e(x_t, c) - n |^2

Differs: the pictures are latents that the model itself draws for the anchor, never decoded, in prompts of the model's
world; the official set has 1000 of them over 200 prompts, random rescaling and a mask for it. Each picture serves many
noises and times. For networks that predict velocity, n is the true velocity. With `preserve`, every second picture
shows such a word and | e(x_t, word) - e*(x_t, word) |^2 is added, e* being the frozen network.

Official settings for Stable Diffusion 1.4: 100 iterations, rate 2e-6 times the batch of 4 to 8 (400 at 4e-6 for
nudity; `full` and 5e-7 for memorised pictures), key and value projections of cross-attention, anchors such as
"painting" for a style and "cat" for a grumpy cat. The defaults here are for models of some ten million parameters.
Official numbers (README): share of I2P pictures that NudeNet flags 19.1 % before and 7.65 % after.

Licence of the reference: nupurkmr9/concept-ablation, MIT (read, not copied), file `diffusers/train.py`.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from workbench.blocks import lessons
from workbench.blocks.concepts import read_concepts
from workbench.blocks.distill import TRUTH, Pull, Recipe, Term, distill, student, teacher
from workbench.blocks.groups import Group
from workbench.blocks.pools import Pictures
from workbench.core.bundle import Bundle
from workbench.core.delta import Delta
from workbench.core.method import Card, Edit
from workbench.core.tape import Tap


class ConceptAblation(Edit):
    """Teach the model to draw an anchor where a concept is asked for."""

    card: ClassVar[Card] = Card("concept-ablation", "Concept ablation", "arXiv 2303.13516", ("unet",), "minutes")
    quick: ClassVar[Mapping[str, Any]] = {
        "concepts": ("cat",), "anchor": "dog", "iterations": 3, "batch": 2, "pictures": 2, "picture_steps": 2,
        "rate": 1e-3}  # fmt: skip
    neutral: ClassVar[Mapping[str, Any] | None] = {"strength": 0.0}

    concepts: lessons.Concepts
    anchor: str = Field("", max_length=300, description="What to draw instead; empty is the same prompt without it.")
    preserve: lessons.Preserve = ()
    goal: Literal["model", "noise"] = Field(
        "model",
        description="What to learn: the model's words at the anchor, or the noise in the anchor's pictures.",
    )
    prior: float = Field(0.0, ge=0, le=10, description="Weight of staying able to draw the anchor.")
    group: Group = Field("xattn_kv", description="Which parameters learn.")
    strength: lessons.Strength = 1.0
    iterations: lessons.Iterations = 200
    batch: lessons.BatchSize = 4
    rate: lessons.Rate = 1e-4
    pictures: lessons.Count = 32
    picture_steps: lessons.WalkSteps = 12
    guidance: lessons.WalkGuidance = 5.0
    manner: lessons.Speech = "auto"
    seed: lessons.Seed = 0

    def terms(self) -> tuple[Term, ...]:
        """The summands of the loss."""
        goal = student("anchor") if self.goal == "model" else TRUTH
        prior = (Pull(student("anchor"), TRUTH, self.prior),) if self.prior else ()
        stay = (Pull(student("kept"), teacher("kept")),) if self.preserve else ()
        return (Pull(student("concept"), goal), *prior, *stay)

    def recipe(self, bundle: Bundle) -> Recipe:
        """What is learned, where and how fast."""
        found = read_concepts(bundle, "concept-ablation", self.concepts, self.anchor, self.preserve)
        taught = lessons.erasing(bundle, found, self.manner)
        return Recipe(
            lessons.alternate(taught, lessons.kept(bundle, found.preserve, self.manner)),
            self.terms(),
            Pictures(self.pictures, self.picture_steps, self.guidance, ("anchor", "kept")),
            self.group,
            iterations=self.iterations,
            batch=self.batch,
            rate=self.rate,
            seed=self.seed,
        )

    def fit(self, bundle: Bundle, tap: Tap) -> Delta:
        """Train; the change of the group's weights."""
        return distill(bundle, self.recipe(bundle), tap, self.fit_key)
