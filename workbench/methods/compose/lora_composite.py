"""LoRA-Composite: at every step each adapter predicts alone, and the predictions are averaged before guidance.

Paper: Zhong, Shen, Wang, Lu, Jiao, Ouyang, Yu, Han and Chen 2024, "Multi-LoRA Composition for Image Generation",
arXiv 2402.16843 (TMLR 2024).

Equation, for k adapters with predictions e_i:
    e = (1/k) sum_i [ e_i(x, "") + g (e_i(x, c) - e_i(x, "")) ]

Differs: averaging before or after guidance is the same, since guidance is linear, and this averages before, so edits of
the guidance see one pair of rows. All adapters' rows go through the network in one call of k times the rows, each row
with one adapter's gate open. An adapter of the text model has no rows of its own: while text is read, all act.

Official numbers: preferred by GPT-4V over plain merging on ComposLoRA; no share is quoted here. Official settings:
weights 0.8, guidance 7 to 10. Cost: k times the network.

Licence of the reference: Multi-LoRA-Composition has none (equations alone were taken).
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from workbench.blocks import composing
from workbench.blocks.branches import Branches
from workbench.blocks.gates import both, scalar
from workbench.core.bundle import Bundle
from workbench.core.delta import Delta
from workbench.core.method import Card, Edit
from workbench.core.patch import Patch


class LoraComposite(Edit):
    """The mean of what the adapters predict one by one."""

    card: ClassVar[Card] = Card("lora-composite", "LoRA-Composite", "arXiv 2402.16843", composing.FAMILIES)
    neutral: ClassVar[Mapping[str, Any] | None] = {"strength": 0.0}
    quick: ClassVar[Mapping[str, Any]] = {"adapters": composing.TWO}

    adapters: composing.Adapters
    weights: composing.Weights = ()
    strength: composing.Strength = 1.0

    def patch(self, bundle: Bundle, delta: Delta, patch: Patch) -> None:
        """Hang every adapter on the model, open in its own branch, and average the branches."""
        found = composing.read(bundle, self)
        if self.strength == 0:
            return
        branches = Branches(len(found.low))
        for index, weight in enumerate(found.weights):
            found.wear(patch, bundle, index, both(scalar(self.strength * weight), branches.gate(index)))
        patch.wrap("predict", branches.wrap)
