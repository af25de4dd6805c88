"""Relearn: how few steps of ordinary training bring an erased concept back.

Paper: Lu, Kriplani, Gandikota, Memon, Bau and Cohen 2025, "When Are Concepts Erased From Diffusion Models?", arXiv
2505.17013 (probes of what an erased model still knows); relearning as a test of unlearning: Lynch et al. 2024, "Eight
Methods to Evaluate Robust Unlearning in LLMs", arXiv 2402.16835.

Equation: W_0 are the edited weights, and W_{k+1} = Adam(W_k, gradient of E |y_t - S(x_t; c)|^2) on the target's
pictures under its prompts; the curve is the share of trials that show the target after k steps, k = 0 first.

Differs: pictures are the unedited model's own; the weights that learn are keys and values of cross-attention, all of
cross-attention, or everything; an erasure that only hid the concept comes back in a handful of steps, one that removed
it costs as many as learning it anew would, and only the comparison of edits says which is which. No threshold is drawn.

There are no official numbers that compare. No reference code was read.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field

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
    lesson,
    misfit,
    told,
)
from workbench.blocks.groups import Trainee, select
from workbench.blocks.pools import progress
from workbench.core.bundle import Bundle, Images
from workbench.core.method import Card, Lens
from workbench.core.patch import Patch
from workbench.core.report import Curve, Report
from workbench.core.scene import Scene


class Relearn(Lens):
    """Attack an edit by training it away, and draw the recovery curve."""

    card: ClassVar[Card] = Card("relearn", "Relearn", "arXiv 2505.17013", ("unet",), "minutes")
    quick: ClassVar[Mapping[str, Any]] = {"concepts": ["cat"], "trials": 2, "iterations": 2, "points": 1, "batch": 2}

    concepts: Sought = ()
    trials: int = Field(16, ge=1, le=1024, description="Prompts and seeds to try, whose pictures are learned from.")
    iterations: int = Field(40, ge=1, le=20_000, description="Steps of training.")
    points: int = Field(4, ge=1, le=32, description="How often on the way the trials are drawn.")
    batch: int = Field(4, ge=1, le=64, description="Noised pictures a step.")
    rate: float = Field(1e-4, gt=0, le=1, description="How far a step goes (Adam's learning rate).")
    group: Literal["xattn_kv", "xattn", "full"] = Field("xattn", description="Which weights learn.")
    judge: Judge = "emoji-judge"

    def look(self, scene: Scene) -> Report:
        """Train the edited model on the target's pictures and draw the trials now and then."""
        target = aim(scene, self.concepts, self.trials, self.judge)
        with edited(scene) as bundle:
            plain = drawn(scene, bundle, target.ask)
            with Patch(bundle) as patch:
                trainee = Trainee(patch, select(bundle, self.group))
                pictures = self.train(scene, bundle, target, trainee)
        shown = {0: target.eye.shows(target.eye.look(plain, 0), target.about)}
        shown |= {k: target.eye.shows(target.eye.look(row, 0), target.about) for k, row in pictures.items()}
        last = max(shown)
        rows = zip(target.ask.prompts, target.ask.seeds, shown[0].tolist(), shown[last].tolist(), strict=True)
        able = 100 * float(target.eye.shows(target.before, target.about).float().mean())
        ys = [[100 * float(row.float().mean()) for row in shown.values()], [able] * len(shown)]
        curve = Curve(np.array(list(shown), dtype=np.float64), np.array(ys), ("edited", "unedited, untrained"),
                      "Recovery", ("training steps", "% of trials that show it"))  # fmt: skip
        return attacked(target, [Trial(*row) for row in rows], (plain, pictures[last]), [curve])

    def train(self, scene: Scene, bundle: Bundle, target: Target, trainee: Trainee) -> dict[int, Images]:
        """The trials' pictures after some of the steps, the last one included."""
        clean = latents(bundle, target.base)
        with torch.no_grad():
            conds = [told(bundle, prompt, 1, target.ask) for prompt in target.ask.prompts]
        optimiser = torch.optim.Adam(trainee.values, lr=self.rate)
        stops = {round((i + 1) * self.iterations / self.points) for i in range(self.points)} | {self.iterations}
        tick = progress(scene.tap, self.iterations)
        pictures: dict[int, Images] = {}
        for index in range(self.iterations):
            at = index % len(conds)
            some, t, noise = lesson(clean[at : at + 1], self.batch, target.ask.seeds[0], index)
            loss = misfit(bundle, conds[at].rows([0] * self.batch), some, t, noise)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            trainee.settle()
            tick(float(t[0]))
            if index + 1 in stops:
                pictures[index + 1] = drawn(scene, bundle, target.ask)
        return pictures
