"""UCE: concepts are rewritten as others in the key and value projections of cross-attention, in closed form.

Paper: Gandikota, Orgad, Belinkov, Materzynska and Bau 2023, "Unified Concept Editing in Diffusion Models",
arXiv 2308.14761 (WACV 2024).

Equation, for the text states c_i of what goes, c*_i of what takes its place, c_j of what stays, for each matrix W:
    min_W' sum_i |W' c_i - W c*_i|^2 + p sum_j |W' c_j - W c_j|^2 + s |W' - W|^2
    W' = W + W (sum c*_i c_i^T - sum c_i c_i^T) (sum c_i c_i^T + p sum c_j c_j^T + s I)^-1

Differs: s is relative, in units of the mean diagonal of the sums, because text states of other encoders have other
lengths (CLIP's of SD 1.x have about 27, where the official 0.5 is about 0.5 of ours for one concept and nothing to
preserve). Every concept is said in several prompts, each concept weighing one. The states are those from the subject's
last token to the end of the padding, lined up as the first official script does; the newer one takes the last token
alone (`span=last`). An empty preserve list takes words that the model knows, spread over its vocabulary; the official
default preserves the empty prompt alone. One factorisation serves all matrices. Not here: the debiasing variant and
the `tensor` technique of the official code. As there, the pooled text of SDXL, which reaches the network beside
cross-attention, stays as it is.

Official numbers: under a second an edit (README); UnlearnDiffAtk leaderboard, SD 1.4: nudity 21.8 % before attack and
79.6 % after, Van Gogh 62 and 94. MACE's table 1, from memory: accuracy on the erased of ten CIFAR objects 13.5 %, on
the others 98.5 %.

Licence of the reference: unified-concept-editing, MIT (read, not copied), functions `UCE` and, as kept in RECE's
repository, `edit_model`.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

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
from workbench.blocks.neighbours import kept_words
from workbench.core.bundle import Bundle
from workbench.core.delta import Delta
from workbench.core.method import Card, Edit
from workbench.core.tape import Tap


class Uce(Edit):
    """Rewrite concepts as others in every key and value projection, in one solution."""

    card: ClassVar[Card] = Card("uce", "UCE", "arXiv 2308.14761", ("unet",), cost="seconds")
    neutral: ClassVar[Mapping[str, Any] | None] = {"strength": 0.0}
    quick: ClassVar[Mapping[str, Any]] = {"concepts": ("cat",), "preserve": ("dog",)}

    concepts: closed_form.Concepts
    anchor: closed_form.Anchor = ""
    preserve: closed_form.Preserve = ()
    strength: closed_form.Strength = 1.0
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
        move, system = operator(erase, keep, self.ridge)
        changes = [weight_of(handle) @ move for handle in handles]
        return weights_delta(handles, changes, told([system], handles, changes))
