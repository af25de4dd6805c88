"""LoRA-Switch: one adapter at a time, taking turns every few steps.

Paper: Zhong, Shen, Wang, Lu, Jiao, Ouyang, Yu, Han and Chen 2024, "Multi-LoRA Composition for Image Generation",
arXiv 2402.16843 (TMLR 2024).

Equation: of k adapters, step t (from 1) uses number floor(((t - 1) mod k tau) / tau) + 1, tau = `period`.

Differs: the reference changes over at the end of every tau-th step but not of the first, so its first adapter has
tau + 1 steps where the equation, and this, gives it tau. An adapter of the text model acts while text is read, before
there is a step, and all of them act there.

Official numbers: preferred by GPT-4V over plain merging on ComposLoRA; no share is quoted here. Official settings:
period 5, weights 0.8, 50 to 200 steps; with the 20 steps usual here a shorter period lets more adapters have a turn.

Licence of the reference: Multi-LoRA-Composition has none (equations alone were taken), callback `make_callback`.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from workbench.blocks import composing
from workbench.blocks.gates import Gate, Now, both, scalar
from workbench.core.bundle import Bundle
from workbench.core.delta import Delta
from workbench.core.method import Card, Edit
from workbench.core.patch import Patch


class LoraSwitch(Edit):
    """Adapters in turns over the steps of the run."""

    card: ClassVar[Card] = Card("lora-switch", "LoRA-Switch", "arXiv 2402.16843", composing.FAMILIES)
    neutral: ClassVar[Mapping[str, Any] | None] = {"strength": 0.0}
    quick: ClassVar[Mapping[str, Any]] = {"adapters": composing.TWO, "period": 1}

    adapters: composing.Adapters
    weights: composing.Weights = ()
    strength: composing.Strength = 1.0
    period: int = Field(2, ge=1, le=1000, description="Steps that an adapter has before the next takes over (tau).")

    def turn(self, index: int, count: int) -> int:
        """Which of `count` adapters acts at step `index`, both counted from 0."""
        return index // self.period % count

    def patch(self, bundle: Bundle, delta: Delta, patch: Patch) -> None:
        """Hang every adapter on the model, open at its own steps."""
        found = composing.read(bundle, self)
        if self.strength == 0:
            return
        count = len(found.low)
        for index, weight in enumerate(found.weights):
            found.wear(patch, bundle, index, both(scalar(self.strength * weight), self.gate(index, count)))

    def gate(self, mine: int, count: int) -> Gate:
        """1 at the steps of one adapter, and where there is no step; else 0."""

        def gate(now: Now) -> float:
            step = None if now.cond is None else now.cond.step
            return 1.0 if step is None else float(self.turn(step.index, count) == mine)

        return gate
