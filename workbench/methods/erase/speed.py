"""SPEED: erase in the null space of what has to stay, so that preserved words cannot move.

Paper: Li, Wang, Hu, Jiang, Liang, Hao, Ma and Feng 2025, "SPEED: Scalable, Precise, and Efficient Concept Erasure for
Diffusion Models", arXiv 2503.07392 (ICLR 2026).

Equations, for the states t of the targets and a of their anchors, S_tt = mean t t^T, S_at = mean a t^T, and each value
projection W:
    prior filter    keep those words k to be preserved with |W (S_at - S_tt)(I + S_tt)^-1 k| above the mean
    augmentation    k + v v^T e, e ~ N(0, I), v the input that W answers least; ten a word, filtered in the same way
    null space      P = U U^T, U the eigenvectors with the least eigenvalues of the mean of k k^T over all that is kept
    invariance      W' C = W C for C = [start token; three centres of the other tokens] of the empty prompt
    W' = W + W (S_at - S_tt) H (H^T S_tt H + s I)^-1 H^T,  H a basis of P's range at right angles to C

Differs: the paper's expression for the invariance, Delta = W (S_at - S_tt) P Q M, equals this solution exactly when its
weight is 0, the official setting but for nudity (0.5); only the basis H is written down. The null space is what lies
outside the directions that hold the share `energy` of the kept states; the official threshold on eigenvalues (0.1, or
1e-4 for ten and more) is absolute and has to be chosen for each encoder. I and s are relative, in units of the mean
diagonal of S_tt, s divided by the number of targets (the official 1.0 becomes 0.05 for many). e has the scale of the
states' elements and is drawn with a seed. Concepts and preserved words are said in several prompts; the official code
reads the bare word's last token (`span=last`). Targets are taken out of the preserved words by whole name, with their
synonyms.

Official numbers: 100 concepts within 5 s, 350 times faster than MACE (README).

Licence of the reference: SPEED, Apache-2.0 (read, not copied), function `edit_model`.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from workbench.blocks import closed_form
from workbench.blocks.closed_form import (
    erase_moments,
    kept_states,
    text_matrices,
    told,
    weight_of,
    weights_delta,
)
from workbench.blocks.concepts import read_concepts
from workbench.blocks.neighbours import kept_words
from workbench.core.bundle import Bundle
from workbench.core.delta import Delta
from workbench.core.errors import AskError
from workbench.core.method import Card, Edit
from workbench.core.tape import Tap
from workbench.ops.clusters import kmeans
from workbench.ops.linear_edit import System, least_direction, null_basis, restrict
from workbench.ops.noise import row_generator

CENTRES, COPIES = 3, 10


class Speed(Edit):
    """Rewrite concepts, up to hundreds, where the preserved words have no part."""

    card: ClassVar[Card] = Card("speed", "SPEED", "arXiv 2503.07392", ("unet",), cost="seconds")
    neutral: ClassVar[Mapping[str, Any] | None] = {"strength": 0.0}
    quick: ClassVar[Mapping[str, Any]] = {"concepts": ("cat",), "preserve": ("dog",)}

    concepts: closed_form.Concepts
    anchor: closed_form.Anchor = ""
    preserve: closed_form.Preserve = ()
    strength: closed_form.Strength = 1.0
    energy: float = Field(0.999, ge=0, le=1, description="Share of the preserved states that must not move at all.")
    ridge: float = Field(0.3, gt=0, le=100, description="Pull back to the old weights (s), relative to one target.")
    augment: bool = Field(True, description="Add copies of preserved states, varied where the matrix is deaf.")
    seed: int = Field(0, ge=0, description="Of the variations and of the centres.")
    span: closed_form.LinedUp = "from-last"
    manner: closed_form.Speech = "auto"

    def fit(self, bundle: Bundle, tap: Tap) -> Delta:
        """W' - W of every value projection."""
        handles = text_matrices(bundle, self.card.name, "values")
        wanted = read_concepts(bundle, self.card.name, self.concepts, self.anchor, self.preserve)
        erase = erase_moments(bundle, wanted.targets, wanted.anchor, self.span, self.manner)
        erase = erase.scaled(1 / len(wanted.targets))
        kept = kept_states(bundle, kept_words(bundle, wanted), self.span)
        held = _invariants(bundle, self.seed).to(kept)
        rest = erase.a - erase.b
        toward = System(erase.b, erase.level).solve(rest)  # the unconstrained edit, which says whom it would move
        changes: list[Tensor] = []
        systems: list[System] = []
        for index, handle in enumerate(handles):
            W = weight_of(handle)
            basis = restrict(null_basis(self._moved(W, toward, kept, index), energy=self.energy), held)
            systems.append(System(erase.b, self.ridge * erase.level / len(wanted.targets), basis))
            changes.append(W @ systems[-1].solve(rest))
        if not any(bool(change.any()) for change in changes):
            raise AskError(
                f"speed: energy is {self.energy}, which leaves no direction free of the preserved words. Lower it, or "
                "preserve fewer words."
            )
        return weights_delta(handles, changes, told(systems, handles, changes))

    def _moved(self, W: Tensor, toward: Tensor, kept: Tensor, index: int) -> Tensor:
        """Mean of k k^T [D, D] over the preserved states that the edit of W would move most, and variations of them."""

        def most(states: Tensor) -> Tensor:
            influence = (states @ (W @ toward).T).norm(dim=1)
            return states[influence >= influence.mean()]

        chosen = most(kept)
        if self.augment:
            generator = row_generator(self.seed, "speed", index)
            deaf = least_direction(W)
            noise = torch.randn(COPIES * len(chosen), 1, generator=generator, dtype=torch.float64).to(W.device)
            copies = chosen.repeat(COPIES, 1)  # v v^T e is v times one normal number
            chosen = torch.cat([chosen, most(copies + noise * copies.square().mean(1, keepdim=True).sqrt() * deaf)])
        return chosen.T @ chosen / len(chosen)


def _invariants(bundle: Bundle, seed: int) -> Tensor:
    """The start token's state and three centres of the others' in the empty prompt, as columns [D, 4]."""
    states = bundle.read([""]).states[0].detach()
    states = states.cpu().double()
    centres, _ = kmeans(states[1:], min(CENTRES, len(states) - 1), seed=seed)
    return torch.cat([states[:1], centres]).T
