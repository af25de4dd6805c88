"""DreamBooth with LoRA: a few pictures of a subject, or of a style, become an adapter behind a trigger word.

Papers: Ruiz et al. 2022, "DreamBooth: Fine Tuning Text-to-Image Diffusion Models for Subject-Driven Generation", arXiv
2208.12242; Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", arXiv 2106.09685. Terms: contrastive
adapter training (arXiv 2404.07554), ClassDiffusion (2405.17532), Mix-of-Show (2305.18292).

Equations, with x_t = a x0 + s n of the given pictures, W' = W + up down the only thing that learns and y_t what a
perfect network predicts (n, or the velocity):
    loss = | e(x_t, caption) - y_t |^2
         + prior    | e(x'_t, class) - y'_t |^2              x' drawn by the untrained model for the noun alone
         + contrast | e(x_t, bare) - e*(x_t, bare) |^2       the caption without the trigger, e* the untrained network
         + meaning  mean (1 - cos(M h("V noun"), M h("noun")))    M the trained keys and values of cross-attention
         + regions  the share of the trigger's attention outside the subject's mask

Differs: the text encoder stays as it is and the trigger is any word, not a rare token; timesteps are drawn evenly; the
step size stays as it is; pictures are not turned or cropped at random. The meaning term acts on the projections, since
with a frozen text encoder the texts themselves cannot move (blocks/terms/meaning.py). With the contrast term one call
asks for both captions of a row, and the untrained network is the same one with its weights put back: no copy is held.

Official settings: DreamBooth LoRA of diffusers rank 4, rate 1e-4, 500 steps of batch 1 at 512 px, prior weight 1; CAT
gives no code. The defaults here are for the shipped model of 128 px; what the judge sees of the shipped adapters, and
of true drawings of the same things, is in assets/models/emoji-lora/*/training.json.

Licence of the references: diffusers, Apache-2.0 (`train_dreambooth_lora.py`, read, not copied).
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from workbench.blocks.distill import Recipe, Term, distill
from workbench.blocks.lessons import BatchSize, Iterations, Rate, Seed, Strength
from workbench.blocks.pools import Lesson, Pictures
from workbench.blocks.terms.examples import Examples, Shown, Words, gathered, read_from
from workbench.blocks.terms.meaning import Meaning
from workbench.blocks.terms.pulls import contrast, likeness, prior
from workbench.blocks.terms.regions import Regions
from workbench.core.bundle import Bundle
from workbench.core.delta import Delta
from workbench.core.errors import AskError
from workbench.core.fields import Role
from workbench.core.method import Card, Edit
from workbench.core.tape import Tap

Weight = Annotated[float, Field(ge=0, le=100)]


class FitLora(Edit):
    """Learn a subject or a style from a few pictures, as a LoRA behind a trigger word."""

    card: ClassVar[Card] = Card("fit-lora", "Fit a LoRA (DreamBooth)", "arXiv 2208.12242", ("unet",), "minutes")
    quick: ClassVar[Mapping[str, Any]] = {
        "pictures": ["fox"], "count": 2, "rank": 2, "iterations": 2, "batch": 2, "rate": 0.05}  # fmt: skip
    neutral: ClassVar[Mapping[str, Any] | None] = {"strength": 0.0}

    pictures: Annotated[tuple[str, ...], Role("picture")] = Field(
        min_length=1, description="Picture files, a folder of them, or one thing or style of the model's world by name."
    )
    captions: tuple[str, ...] = Field(
        (), description="One a picture, or one for all, with {} for what is learned; empty reads NAME.txt beside each."
    )
    masks: Annotated[tuple[str, ...], Role("mask")] = Field(
        (), description="Where the subject is, one file a picture; empty looks for NAME-mask.png beside each."
    )
    trigger: Annotated[str, Role("trigger")] = Field(
        "sks", min_length=1, max_length=40, description="The word that will call what is learned."
    )
    noun: Annotated[str, Role("word")] = Field(
        "", max_length=60, description="What it is in plain words; prior and meaning need it."
    )
    count: int = Field(8, ge=1, le=200, description="Drawings to take where the pictures are the world's.")
    rank: int = Field(8, ge=1, le=128, description="Width of the adapter.")
    group: Literal["attention", "xattn_kv", "xattn", "noxattn", "full"] = Field(
        "attention", description="Which matrices learn."
    )
    iterations: Iterations = 240
    batch: BatchSize = 8
    rate: Rate = 2e-3
    prior: Weight = Field(0.0, description="Weight of keeping what the noun alone draws; 0 leaves it out.")
    contrast: Weight = Field(0.0, description="Weight of saying what was said where the trigger is left out (CAT).")
    meaning: Weight = Field(0.0, description="Weight of the trigger still meaning the noun (class term).")
    regions: Weight = Field(0.0, description="Weight of looking at the trigger only where the subject is.")
    seed: Seed = 0
    strength: Strength = 1.0

    @property
    def fit_key(self) -> str:
        """Settings but `strength`, and the bytes of the files that are learned from."""
        mark = hashlib.sha256(super().fit_key.encode())
        for name in (*self.pictures, *self.masks):
            for file in filter(Path.is_file, read_from(name)):
                with file.open("rb") as data:
                    mark.update(f"{file.name}\0{hashlib.file_digest(data, 'sha256').hexdigest()}\n".encode())
        return mark.hexdigest()[:16]

    def fit(self, bundle: Bundle, tap: Tap) -> Delta:
        """Learn, for some minutes; shows every step and goes on where it was stopped."""
        return self.learned(bundle, tap, self.fit_key)

    def learned(self, bundle: Bundle, tap: Tap, name: str = "") -> Delta:
        """The factors, with the trigger and what was learned from in the delta's text."""
        recipe = self.recipe(bundle)
        delta = distill(bundle, recipe, tap, name)
        said = {"trigger": self.trigger, "pictures": ", ".join(self.pictures)[:500], "base": bundle.digest}
        return Delta(delta.kind, delta.tensors, {**delta.text, **said})

    def recipe(self, bundle: Bundle) -> Recipe:
        """Lessons, terms and parameters, as the one training loop takes them."""
        if (self.prior or self.meaning) and not self.noun:
            raise AskError("fit-lora: the terms prior and meaning are about the noun, and none is said. Give noun=dog.")
        words = Words(self.trigger, self.noun)
        drawings = (self.count, self.seed)
        examples = gathered(bundle, self.pictures, self.captions, words, masks=self.masks, drawings=drawings)
        lessons: tuple[Lesson, ...] = examples.lessons()
        drawn = None
        if self.prior:
            lessons = (*lessons, *({"prior": said} for said in dict.fromkeys(examples.bare)))
            drawn = Pictures(2 * len(examples), roles=("prior",))
        terms, regions = self._terms(bundle, examples)
        attach = None if regions is None else regions.attach
        return Recipe(
            lessons, terms, Shown(examples, drawn), self.group, self.rank, iterations=self.iterations,
            batch=self.batch, rate=self.rate, seed=self.seed, attach=attach)  # fmt: skip

    def _terms(self, bundle: Bundle, examples: Examples) -> tuple[list[Term], Regions | None]:
        terms: list[Term] = [likeness()]
        regions = Regions(bundle, examples, self.regions) if self.regions else None
        if regions is not None:
            terms.append(regions)
        if self.prior:
            terms.append(prior(self.prior))
        if self.contrast:
            terms.append(contrast(self.contrast))
        if self.meaning:
            pairs = list(dict.fromkeys(zip(examples.captions, examples.bare, strict=True)))
            terms.append(Meaning(bundle, pairs, self.meaning))
        return terms, regions
