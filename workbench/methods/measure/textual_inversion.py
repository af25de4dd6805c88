"""Textual inversion: learn a word for an erased concept from pictures of it, and see whether the word brings it back.

Paper: Gal et al. 2022, "An Image is Worth One Word", arXiv 2208.01618; as an attack on erasure ("concept inversion"):
Pham, Marshall, Cohen, Mittal and Hegde 2023, "Circumventing Concept Erasure Methods For Text-to-Image Generative
Models", arXiv 2308.01508.

Equation: v* = argmin over v of E_{x0, t, n} | y_t - S(x_t; "a v") |^2, x_t = a x0 + s n, where y_t is what a perfect
network would predict (n or the velocity) and every weight of the edited network S stays as it is; v is one or several
rows in the place of a word's tokens. The trials are the target's prompts with the learned word instead of its own.

Differs: pictures are the unedited model's own of the target prompts, so nothing has to be brought; 100 steps of Adam
in place of 3000 to 5000 (each with timesteps spread over the whole schedule); v starts from the concept's own first
token. The gradient sees the network alone: an edit that acts in guidance is met only by the drawing that is judged.

Official numbers do not compare: theirs are ResNet-50 and GCD rates on Stable Diffusion 1.4. Licences of the references:
textual_inversion, MIT; circumventing-concept-erasure, MIT (neither read for this file).
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from workbench.blocks.attack import (
    Judge,
    Sought,
    Target,
    Trial,
    aim,
    attacked,
    drawn,
    edited,
    latents,
    learned,
    lesson,
    misfit,
    place,
    tables,
    told,
)
from workbench.blocks.pools import progress
from workbench.blocks.spans import tokens
from workbench.core.bundle import Bundle
from workbench.core.method import Card, Lens
from workbench.core.report import Curve, Report
from workbench.core.scene import Scene


class TextualInversion(Lens):
    """Attack an edit with a word that is learned on the edited model itself."""

    card: ClassVar[Card] = Card("textual-inversion", "Textual inversion", "arXiv 2208.01618", ("unet",), "minutes")
    quick: ClassVar[Mapping[str, Any]] = {"concepts": ["cat"], "trials": 2, "iterations": 2, "batch": 2}

    concepts: Sought = ()
    trials: int = Field(16, ge=1, le=1024, description="Prompts and seeds to try, whose pictures are learned from.")
    tokens: int = Field(1, ge=1, le=8, description="How many rows the learned word has.")
    iterations: int = Field(100, ge=1, le=20_000, description="Steps of the optimiser.")
    batch: int = Field(4, ge=1, le=64, description="Noised pictures a step.")
    rate: float = Field(5e-3, gt=0, le=1, description="How far a step goes (Adam's learning rate).")
    judge: Judge = "emoji-judge"

    def look(self, scene: Scene) -> Report:
        """Learn the word, then draw every trial with it."""
        target = aim(scene, self.concepts, self.trials, self.judge)
        with edited(scene) as bundle:
            plain = drawn(scene, bundle, target.ask)
            word, token = place(bundle, target.ask.prompts)
            spelled = " ".join([word] * self.tokens)
            rows, losses = self.learn(scene, bundle, target, (spelled, token))
            ask = target.ask.but(prompts=[p.replace(target.about.word, spelled) for p in target.ask.prompts])
            with learned(bundle, token, lambda: rows):
                forced = drawn(scene, bundle, ask)
        pre, hit = (target.eye.shows(target.eye.look(row, 0), target.about).tolist() for row in (plain, forced))
        used = [prompt.replace(spelled, "<learned>") for prompt in ask.prompts]
        trials = [Trial(*row) for row in zip(target.ask.prompts, target.ask.seeds, pre, hit, used, strict=True)]
        curve = Curve(np.arange(len(losses), dtype=np.float64), np.array([losses]), ("loss",), "Learning the word",
                      ("step", "mean squared error"))  # fmt: skip
        return attacked(target, trials, (plain, forced), [curve])

    def learn(
        self, scene: Scene, bundle: Bundle, target: Target, word: tuple[str, int]
    ) -> tuple[list[Tensor], list[float]]:
        """The learned rows, one tensor [tokens, D] a text encoder, and the loss at every step."""
        first = tokens(bundle, target.about.word)[0]
        start = [table.weight.detach()[[first] * self.tokens].float() for table in tables(bundle)]
        rows = [row.clone().requires_grad_() for row in start]
        clean = latents(bundle, target.base)
        optimiser = torch.optim.Adam(rows, lr=self.rate)
        losses: list[float] = []
        tick = progress(scene.tap, self.iterations)
        with learned(bundle, word[1], lambda: rows):
            for index in range(self.iterations):
                some, t, noise = lesson(clean, self.batch, target.ask.seeds[0], index)
                loss = misfit(bundle, told(bundle, f"a {word[0]}", self.batch, target.ask), some, t, noise)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                losses.append(float(loss.detach()))
                tick(float(t[0]))
        return [row.detach() for row in rows], losses
