"""RECE: UCE, and then rounds of finding what still brings the concept back and erasing that too.

Paper: Gong, Chen, Wei, Chen and Jiang 2024, "Reliable and Efficient Concept Erasure of Text-to-Image Diffusion Models",
arXiv 2407.12383 (ECCV 2024).

Equations, for the matrices W of the model and W' of the edit so far, both sums over all key and value projections:
    attack    c' = argmin sum |W' c' - W c|^2 + l |c'|^2 = R c,   R = (sum W'^T W' + l I)^-1 sum W'^T W
    erase     W'' = W' + W' (sum c* c'^T - sum c' c'^T) (sum c' c'^T + q sum k k^T + s I)^-1
with c* the anchor's states and k those that stay. The rounds start from UCE.

Differs: all matrices are edited from the right by one operator, W' = W T, so attack and erasure are computed on T and
G = sum W^T W alone: R = (T^T G T + l I)^-1 T^T G. l and s are relative (in units of the mean diagonal of T^T G T and of
the sums). The paper keeps a round only when a detector says that it helped; here the number of rounds is a setting. The
official rounds preserve the empty prompt alone; here they preserve what UCE preserved, with the weight `keep`. Concepts
are said in several prompts; tokens are lined up by `span` in both stages (`all`, place by place, is the official one of
the rounds).

Official numbers: 3 s an edit (abstract); UnlearnDiffAtk leaderboard, SD 1.4: nudity 13.4 % before attack and 75.4 %
after, Van Gogh 14 and 70.7 (rows added by another submitter). Official settings: l = 0.1, 3 rounds for nudity; 0.001
and one round for styles and hard objects; 0.1 and one round for easy objects.

Licence of the reference: RECE, Apache-2.0 (read, not copied), functions `close_form_emb_regzero` and
`edit_model_adversarial`.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field

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
from workbench.blocks.concepts import read_concepts
from workbench.blocks.moments import Moments
from workbench.blocks.neighbours import kept_words
from workbench.core.bundle import Bundle
from workbench.core.delta import Delta
from workbench.core.method import Card, Edit
from workbench.core.tape import Tap
from workbench.ops.linear_edit import System, products


class Rece(Edit):
    """Erase concepts, then what would bring them back, round after round in closed form."""

    card: ClassVar[Card] = Card("rece", "RECE", "arXiv 2407.12383", ("unet",), cost="seconds")
    neutral: ClassVar[Mapping[str, Any] | None] = {"strength": 0.0}
    quick: ClassVar[Mapping[str, Any]] = {"concepts": ("cat",), "preserve": ("dog",)}

    concepts: closed_form.Concepts
    anchor: closed_form.Anchor = ""
    preserve: closed_form.Preserve = ()
    strength: closed_form.Strength = 1.0
    rounds: int = Field(1, ge=0, le=20, description="How often to attack and erase again; 0 is UCE alone.")
    attack_ridge: float = Field(0.01, gt=0, le=100, description="How short the attack's states stay (l), relative.")
    keep: closed_form.Keep = 1.0
    ridge: closed_form.Ridge = 0.01
    span: closed_form.LinedUp = "from-last"
    manner: closed_form.Speech = "auto"

    def fit(self, bundle: Bundle, tap: Tap) -> Delta:
        """W' - W of every key and value projection."""
        handles = text_matrices(bundle, self.card.name)
        wanted = read_concepts(bundle, self.card.name, self.concepts, self.anchor, self.preserve)
        erase = erase_moments(bundle, wanted.targets, wanted.anchor, self.span, self.manner)
        keep = keep_moments(bundle, kept_words(bundle, wanted), self.span).scaled(self.keep)
        weights = [weight_of(handle) for handle in handles]
        gram = products(weights, weights)
        move, system = operator(erase, keep, self.ridge)
        one = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        edit = one + move
        for _ in range(self.rounds):
            now = edit.T @ gram @ edit
            R = System(now, self.attack_ridge * float(now.diagonal().mean())).solve((edit.T @ gram).T).T
            found = Moments(erase.a @ R.T, R @ erase.b @ R.T, erase.n)  # sums over c' = R c
            move, system = operator(found, keep, self.ridge)
            edit = edit @ (one + move)
        changes = [W @ (edit - one) for W in weights]
        return weights_delta(handles, changes, told([system], handles, changes))
