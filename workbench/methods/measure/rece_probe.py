"""RECE probe: bring an erased concept back in closed form, by undoing what the edit did to keys and values.

Paper: Gong, Chen, Wei, Chen and Jiang 2024, "RECE: Reliable and Efficient Concept Erasure of Text-to-Image Diffusion
Models", arXiv 2407.12383, equations 6 and 7, there the first half of each round of erasing.

Equation: of all text states c' the one whose edited keys and values come closest to what the original made of c,
    min over c' of sum_l |W_new c' - W_old c|^2 + s |c'|^2,    c' = R c,
    R = (sum W_new^T W_new + s I)^-1 sum W_new^T W_old,
over every key and value matrix. R is one matrix for all concepts; every token of the target prompts goes through it.

Differs: used to measure and not to erase, on any edit of keys and values; s is a share (`ridge`) of the mean of
W_new^T W_new's diagonal, since text encoders differ in scale; the negative prompt is left as it is. On an edit that
leaves keys and values alone R is close to 1 and the probe finds what plain prompts find, which it says.

Official numbers: the paper uses R inside its method and reports none for it alone. Licence of the reference: RECE,
Apache-2.0 (read, not copied), function `close_form_emb_regzero`.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from workbench.blocks.attack import Judge, Sought, Trial, aim, attacked, drawn, edited
from workbench.core.bundle import Bundle, TextStates
from workbench.core.errors import MissingPart
from workbench.core.method import Card, Lens
from workbench.core.patch import Patch
from workbench.core.report import Note, Report
from workbench.core.scene import Scene
from workbench.ops.linear_edit import recovery


class ReceProbe(Lens):
    """Attack an edit of keys and values with the closed form that undoes it; takes no training."""

    card: ClassVar[Card] = Card("rece-probe", "RECE probe", "arXiv 2407.12383", ("unet",), "seconds")
    quick: ClassVar[Mapping[str, Any]] = {"concepts": ["cat"], "trials": 2}

    concepts: Sought = ()
    trials: int = Field(16, ge=1, le=1024, description="Prompts and seeds to try.")
    ridge: float = Field(1e-3, ge=0, le=10, description="Weight of small states, as a share of the edited Gram matrix.")
    judge: Judge = "emoji-judge"

    def look(self, scene: Scene) -> Report:
        """Draw the trials on the edited model as they are, then with every state sent through R."""
        old = _matrices(scene.bundle)
        if not old:
            raise MissingPart(f"rece-probe reads keys and values of cross-attention; {scene.bundle.name} has none.")
        target = aim(scene, self.concepts, self.trials, self.judge)
        with edited(scene) as bundle:
            new = _matrices(bundle)
            R = self.operator(new, old)
            plain = drawn(scene, bundle, target.ask)
            with Patch(bundle) as patch:
                patch.wrap("read", lambda read: _through(read, R, frozenset(target.ask.prompts)))
                forced = drawn(scene, bundle, target.ask)
        pre, hit = (target.eye.shows(target.eye.look(row, 0), target.about).tolist() for row in (plain, forced))
        trials = [Trial(*row) for row in zip(target.ask.prompts, target.ask.seeds, pre, hit, strict=True)]
        change = float((R - torch.eye(len(R), dtype=R.dtype)).norm() / len(R) ** 0.5)
        text = f"R differs from 1 by {change:.3g} (Frobenius norm, 1 is 1)."
        if all(torch.equal(a, b) for a, b in zip(old, new, strict=True)):
            text += " The edits leave every key and value as it was, so there is nothing to undo."
        report = attacked(target, trials, (plain, forced), [Note(text, "The operator")])
        return replace(report, numbers={**report.numbers, "change": change})

    def operator(self, new: list[Tensor], old: list[Tensor]) -> Tensor:
        """R [d, d] in float64."""
        mean = sum(float(W.double().square().sum()) for W in new) / new[0].shape[1]
        return recovery([W.cpu() for W in new], [W.cpu() for W in old], max(self.ridge * mean, 1e-12))


def _matrices(bundle: Bundle) -> list[Tensor]:
    """Copies of every key and value matrix as they stand."""
    sites = bundle.sites("cross-attention")
    return [handle.weight.detach().clone() for site in sites for handle in (site.key, site.value)]


def _through(read: Any, R: Tensor, asked: frozenset[str]) -> Any:
    def reading(prompts: Any) -> TextStates:
        text: TextStates = read(prompts)
        rows = torch.tensor([prompt in asked for prompt in prompts], device=text.states.device)
        moved = (text.states.double() @ R.T.to(text.states.device)).to(text.states)
        return replace(text, states=torch.where(rows[:, None, None], moved, text.states))

    return reading
