"""No guidance at the last scales: they compute the conditional half of the batch alone.

Paper: Li, Zhang, Wang, Wang, Hu, Zhou, Zhou and Xu 2025, "SkipVAR: Accelerating Visual Autoregressive Modeling via
Adaptive Frequency-Aware Skipping", arXiv 2506.08908, whose second branch does without the unconditional rows late;
Switti (arXiv 2412.01819) switches guidance off after a fixed scale, as here.

Equation: l = (1 + t) l(c) - t l(none) at scales k < S - scales; l = l(c) at the others, where l(none) is never
computed.

Differs: a fixed number of last scales, where SkipVAR decides for each picture by a trained rule. The rows without a
prompt are handed the logits of their conditional partner, so that edits of the guidance see the rows they expect; their
keys and values of these scales are never needed.

Official numbers: none for this alone. Saving, counted: of d30's work at 256 px 19 % with the last scale, 32 % with two,
39 % with three.

Licence of the reference: fakerone-li/SkipVAR, MIT (README read; nothing copied).
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from workbench.core.bundle import Bundle, Condition
from workbench.core.delta import Delta
from workbench.core.method import Card, Edit
from workbench.core.patch import Patch


class CfgTail(Edit):
    """Save the unconditional half at the finest scales."""

    card: ClassVar[Card] = Card("cfg-tail", "Guidance off at the end", "arXiv 2506.08908", ("var",))
    neutral: ClassVar[Mapping[str, Any] | None] = {"scales": 0}

    scales: int = Field(2, ge=0, le=64, description="How many of the last scales go without guidance.")

    def patch(self, bundle: Bundle, delta: Delta, patch: Patch) -> None:
        """Wrap the network: at the last scales it sees conditional rows only."""

        def wrap(inner: Callable[..., Tensor]) -> Callable[..., Tensor]:
            def predict(x: Tensor, t: Tensor, cond: Condition) -> Tensor:
                pairs = dict(zip(cond.where("uncond"), cond.where("cond"), strict=False))
                if cond.step is None or not pairs or cond.step.index < cond.step.total - self.scales:
                    return inner(x, t, cond)
                keep = [row for row in range(len(cond.roles)) if row not in pairs]
                output = inner(x[keep], t[keep], cond.rows(keep))
                where = {row: place for place, row in enumerate(keep)}
                source = [where[pairs.get(row, row)] for row in range(len(cond.roles))]
                return output[torch.tensor(source, device=output.device)]

            return predict

        patch.wrap("predict", wrap)
