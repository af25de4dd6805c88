"""The trigger is looked at where the subject is: a term on cross-attention maps against known masks.

    w mean over rows and sites of  sum_outside A / sum A,   A the trigger's attention, averaged over heads and tokens

as the attention regularisers of Mix-of-Show (Gu et al. 2023, arXiv 2305.18292: outside the mask to 0) and of FaR's
localised refinement; as a share it has no unit and lies in 0..1.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from workbench.blocks.distill import Batch, Score, student
from workbench.blocks.spans import tokens
from workbench.blocks.terms.examples import Examples
from workbench.core.attend import Attention
from workbench.core.bundle import Bundle, Condition
from workbench.core.errors import AskError, MissingPart
from workbench.core.patch import Patch


class Regions:
    """The term. `attach` lets it see the attention of the calls that have a gradient; the captions' rows come first."""

    made: Score = student("caption")
    goal = Score(())

    def __init__(self, bundle: Bundle, examples: Examples, weight: float = 1.0) -> None:
        if examples.masks is None:
            raise AskError(
                "The regions term needs to know where the subject is. Give masks, one a picture, files NAME-mask.png "
                "beside the pictures, or a thing of the model's world by name."
            )
        if not bundle.sites("cross-attention"):
            raise MissingPart(f"{bundle.name} has no cross-attention, so no word's region can be told.")
        self.bundle, self.weight, self.masks = bundle, weight, examples.masks
        self.phrase = tokens(bundle, examples.phrase)
        self.maps: list[Tensor] = []
        self.ids: Tensor | None = None

    def attach(self, patch: Patch) -> None:
        """Watch the network and its cross-attention."""
        patch.wrap("predict", self._around)
        for site in self.bundle.sites("cross-attention"):
            patch.attend(site, self._see)

    def _around(self, inner: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def predict(x: Tensor, t: Tensor, cond: Condition) -> Tensor:
            if torch.is_grad_enabled():
                self.maps, self.ids = [], cond.text.ids
            return inner(x, t, cond)

        return predict

    def _see(self, call: Attention) -> Tensor:
        if torch.is_grad_enabled() and self.ids is not None and len(self.ids) == len(call.query):
            self.maps.append(call.weights().mean(1))  # [R, N, L]
        return call.run()

    def __call__(self, batch: Batch) -> Float[Tensor, ""]:
        """The share of the trigger's attention that falls outside the masks."""
        at = (batch.told("caption") >= 0).nonzero()[:, 0]
        if not self.maps or self.ids is None:
            raise MissingPart("No attention was seen. Was the term attached to the fit?")
        words = self._words(self.ids[: len(at)]).to(self.maps[0].device)
        shares = [_outside(seen[: len(at)], words, self.masks[batch.states.lesson[at]]) for seen in self.maps]
        return self.weight * torch.stack(shares).sum() / max(len(self.maps) * len(batch.states.lesson), 1)

    def _words(self, ids: Any) -> Float[Tensor, "R L"]:
        """1 at the tokens of the phrase, for each row."""
        length = len(self.phrase)
        windows = ids.unfold(1, length, 1)
        hits = (windows == torch.tensor(self.phrase, device=ids.device)).all(-1)
        marks = torch.zeros(ids.shape, dtype=torch.float32, device=ids.device)
        for shift in range(length):
            marks[:, shift : shift + hits.shape[1]] += hits.float()
        return marks.clamp(max=1)


def _outside(seen: Float[Tensor, "R N L"], words: Float[Tensor, "R L"], masks: Float[Tensor, "R H W"]) -> Tensor:
    """The sum over rows of the share of the words' attention outside the masks; rows without the words count as 0."""
    attention = torch.einsum("rnl,rl->rn", seen.float(), words)
    height = round((seen.shape[1] * masks.shape[1] / masks.shape[2]) ** 0.5)
    inside = F.adaptive_avg_pool2d(masks[:, None].to(attention), (height, seen.shape[1] // height)).flatten(1)
    total = attention.sum(1)
    return ((attention * (1 - inside)).sum(1) / total.clamp_min(1e-12)).sum()
