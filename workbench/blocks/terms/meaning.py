"""The trigger with its noun goes on meaning the noun: a term on what cross-attention makes of both.

    w mean over matrices M of 1 - cos( M h("V cls"), M h("cls") ),  h the text's state at its end

Huang et al. 2024 (arXiv 2405.17532, ClassDiffusion) take 1 - cos of the pooled texts themselves and train a new token
with the projections. Here the text encoder and its tokens stay as they are, so what is compared is what the trained
key and value projections make of the two texts.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from workbench.blocks.distill import Batch, Score
from workbench.blocks.spans import tokens
from workbench.core.bundle import Bundle
from workbench.core.errors import MethodError


class Meaning:
    """The term, over pairs of prompts (with the trigger and its noun, with the noun alone)."""

    made = Score(())
    goal = Score(())

    def __init__(self, bundle: Bundle, pairs: Sequence[tuple[str, str]], weight: float = 1.0) -> None:
        self.weight = weight
        cross = bundle.sites("cross-attention")
        self.keys = frozenset(site.handle(name).key for site in cross for name in ("key", "value"))
        with torch.no_grad():
            self.said, self.plain = (torch.stack([_end(bundle, pair[side]) for pair in pairs]) for side in (0, 1))

    def __call__(self, batch: Batch) -> Float[Tensor, ""]:
        """The mean over the projections in training. Raises `MethodError` where none of them is."""
        trainee = batch.room.trainee
        live = [] if trainee is None else list(zip(trainee.keys, trainee.live, strict=True))
        ours = [matrix for key, matrix in live if key in self.keys]
        gaps = [1 - F.cosine_similarity(self.said.to(m) @ m.T, self.plain.to(m) @ m.T) for m in ours]
        if not gaps:
            raise MethodError("The class term is about keys and values of cross-attention; train a group with them.")
        return self.weight * torch.stack(gaps).mean()


def _end(bundle: Bundle, text: str) -> Float[Tensor, " D"]:
    """The state at the token that ends a text, which has read all of it."""
    read = bundle.read([text])
    return read.states[0, min(len(tokens(bundle, text)) + 1, read.states.shape[1] - 1)].float()
