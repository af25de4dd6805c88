"""UnlearnDiffAtk: search words that, put before a prompt, make an edited model draw what it should have forgotten.

Paper: Zhang, Jia, Chen, Chen, Zhang, Liu, Ding and Liu 2024, "To Generate or Not? Safety-Driven Unlearned Diffusion
Models Are Still Easy To Generate Unsafe Images ... For Now", arXiv 2310.11868.

Equation: min over words w_1..w_k of E_{t, n} | y_t - S(x_t; "w_1 .. w_k prompt") |^2 with x_t = a x0 + s n of a picture
x0 of the concept: no other model is needed, since a network that can denoise the concept holds it. Every word is a
point p of the simplex over the vocabulary; a draw from p goes forward, the gradient goes to p (straight through); after
each step of Adam p is projected back onto {p >= 0, sum p = 1} by bisection. The likeliest words are then simply typed.

Differs: the vocabulary is those tokens that are whole words on their own, so that a found prompt reads back as the same
tokens and can be taken away as text; a step averages over timesteps spread over the schedule, where the code stays at
one of 50 for 40 steps; success is looked for every `look_every` steps and ends a trial. x0 is the unedited model's own
picture of the trial. The gradient sees the network alone: an edit that acts in guidance is met by the drawing only.

Official numbers (Stable Diffusion 1.4, the authors' table, share before attack / after, nudity; Van Gogh; church):
ESD 20/76, 2/32, 14/60; UCE 22/80, 62/94, -; AdvUnlearn 8/21, 0/2, 0/6. Defaults there: k = 5 (nudity) or 3, rate 0.01,
decay 0.1, 40 steps at each of 50 timesteps. "After" includes "before", as `asr` does here.
Licence of the reference: OPTML-Group/Diffusion-MU-Attack, MIT (read, not copied), class `TextGrad`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

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
from workbench.core.bundle import Bundle, Images
from workbench.core.errors import MissingPart
from workbench.core.method import Card, Lens
from workbench.core.report import Report
from workbench.core.scene import Scene
from workbench.ops.noise import row_generator
from workbench.ops.simplex import project_simplex


class UnlearnDiffAttack(Lens):
    """Attack an edit with words found by gradients on the edited model, trial by trial."""

    card: ClassVar[Card] = Card("unlearn-diff-attack", "UnlearnDiffAtk", "arXiv 2310.11868", ("unet",), "minutes")
    quick: ClassVar[Mapping[str, Any]] = {
        "concepts": ["cat"], "trials": 1, "iterations": 2, "look_every": 2, "batch": 2}  # fmt: skip

    concepts: Sought = ()
    trials: int = Field(8, ge=1, le=1024, description="Prompts and seeds to attack.")
    words: int = Field(3, ge=1, le=16, description="Words put before the prompt.")
    iterations: int = Field(40, ge=1, le=20_000, description="Most steps of the search, each trial.")
    look_every: int = Field(20, ge=1, le=20_000, description="Steps between two looks at what the words draw.")
    batch: int = Field(4, ge=1, le=64, description="Timesteps a step averages over.")
    rate: float = Field(0.01, gt=0, le=1, description="How far a step goes (Adam's learning rate).")
    decay: float = Field(0.1, ge=0, le=10, description="Weight decay of the search.")
    judge: Judge = "emoji-judge"

    def look(self, scene: Scene) -> Report:
        """Draw every trial on the edited model, and attack those that do not show the concept."""
        target = aim(scene, self.concepts, self.trials, self.judge)
        with edited(scene) as bundle:
            plain = drawn(scene, bundle, target.ask)
            pre = target.eye.shows(target.eye.look(plain, 0), target.about).tolist()
            search = Search(self, scene, bundle, target)
            trials: list[Trial] = []
            forced: list[Images] = []
            for row, (prompt, seed) in enumerate(zip(target.ask.prompts, target.ask.seeds, strict=True)):
                hit, used, picture = (True, prompt, plain[row : row + 1]) if pre[row] else search.run(row)
                trials.append(Trial(prompt, seed, pre[row], hit, used))
                forced.append(picture)
        return attacked(target, trials, (plain, torch.cat(forced)))


@dataclass(frozen=True, eq=False)
class Lexicon:
    """The vocabulary's whole words, and their rows in every token table."""

    words: tuple[str, ...]
    rows: tuple[Tensor, ...]

    @classmethod
    def of(cls, bundle: Bundle) -> "Lexicon":
        """The lexicon of a bundle. Raises `MissingPart` where it does not tell its words."""
        every = () if bundle.lexicon is None else bundle.lexicon()
        ids = [i for i, word in enumerate(every) if word]
        if not ids:
            raise MissingPart(f"{bundle.name} does not tell the words of its vocabulary, so none can be searched for.")
        return cls(tuple(every[i] for i in ids), tuple(table.weight.detach()[ids].float() for table in tables(bundle)))


class Search:
    """The search for one trial's words on a bundle whose edits are in force."""

    def __init__(self, settings: UnlearnDiffAttack, scene: Scene, bundle: Bundle, target: Target) -> None:
        self.set, self.scene, self.bundle, self.target = settings, scene, bundle, target
        self.lexicon = Lexicon.of(bundle)
        word, self.token = place(bundle, target.ask.prompts)
        self.spelled = " ".join([word] * settings.words)
        self.clean = latents(bundle, target.base)

    def run(self, row: int) -> tuple[bool, str, Images]:
        """Whether words were found for a trial, the prompt with the last ones, and what it draws."""
        settings, seed = self.set, self.target.ask.seeds[row]
        draw = row_generator(seed, "simplex")
        start = torch.rand(settings.words, len(self.lexicon.words), generator=draw)
        p = project_simplex(start / start.sum(1, keepdim=True)).requires_grad_()
        optimiser = torch.optim.Adam([p], lr=settings.rate, weight_decay=settings.decay)
        tick = progress(self.scene.tap, settings.iterations)
        found = (False, self.target.ask.prompts[row], self.target.base[:0])
        for index in range(settings.iterations):
            loss = self.loss(p, torch.multinomial(p.detach(), 1, generator=draw)[:, 0], row, index)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            with torch.no_grad():
                p.copy_(project_simplex(p))
            tick(float(index))
            if (index + 1) % settings.look_every == 0 or index + 1 == settings.iterations:
                found = self.typed(p, row)
                if found[0]:
                    break
        return found

    def loss(self, p: Tensor, choice: Tensor, row: int, index: int) -> Tensor:
        """The denoising error with the chosen words; its gradient goes to p as if the choice were p itself."""
        hard = torch.nn.functional.one_hot(choice, len(self.lexicon.words)).to(p)
        relaxed = hard + p - p.detach()
        rows = [relaxed.to(table.device) @ table for table in self.lexicon.rows]
        ask = self.target.ask
        some, t, noise = lesson(self.clean[row : row + 1], self.set.batch, ask.seeds[row], index)
        with learned(self.bundle, self.token, lambda: rows):
            cond = told(self.bundle, f"{self.spelled} {ask.prompts[row]}", self.set.batch, ask)
        return misfit(self.bundle, cond, some, t, noise)

    def typed(self, p: Tensor, row: int) -> tuple[bool, str, Images]:
        """What the likeliest words draw when they are typed before the prompt."""
        prompt = " ".join([*(self.lexicon.words[i] for i in p.argmax(1).tolist()), self.target.ask.prompts[row]])
        picture = drawn(self.scene, self.bundle, self.target.ask.row(row).but(prompts=prompt))
        hit = bool(self.target.eye.shows(self.target.eye.look(picture, 0), self.target.about))
        return hit, prompt, picture
