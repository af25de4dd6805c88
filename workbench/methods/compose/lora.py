"""LoRA: any number of adapters live beside the weights, each with its weight, by part of the network and by step.

Paper: Hu, Shen, Wallis, Allen-Zhu, Li, Wang, Wang and Chen 2021, "LoRA: Low-Rank Adaptation of Large Language Models",
arXiv 2106.09685. Files of LoCon, LoHa, LoKr, DoRA, IA3, full differences, textual inversion and ResAdapter are read as
well (blocks/adapter_formats.py says by which equations).

Equation, at every changed module:    y = W x + sum_i w_i b(module) s(step) (alpha_i / r_i) up_i down_i x
with the weight w_i of adapter i, the factor b of the module's place and s on a line through the schedule's points.

Differs: nothing is written into the model, neither factors nor their sum: the additions are hooks, so repeated use does
not drift (as fusing and unfusing in half precision does). alpha / sqrt(r) of rank-stabilised files is honoured, and
weights add changes exactly, never products of factors. A factor of a place acts on every matrix in it, convolutions
too (diffusers' per-block scales miss those). DoRA is linear in its weight here: exact at 1, a blend between.
Text towers are read before the first step, so schedules do not act there.

Official numbers: none that compare; the paper's are of language models.

Licence of the references: peft and diffusers, Apache-2.0 (read, not copied); tests hold this against peft's own
injected layers.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field

from workbench.blocks import composing
from workbench.blocks.adapter_words import remind, wear_rows
from workbench.blocks.adapters import read_adapter, wear
from workbench.blocks.gates import Gate, both, places, points, scalar, steps
from workbench.core.bundle import Bundle
from workbench.core.delta import Delta
from workbench.core.errors import AskError
from workbench.core.fields import Role
from workbench.core.method import Card, Edit
from workbench.core.patch import Patch

Share = Annotated[float, Field(ge=-4, le=4)]


class Lora(Edit):
    """Wear adapters: files, folders or shipped ones by name, each with a weight."""

    card: ClassVar[Card] = Card("lora", "LoRA", "arXiv 2106.09685", composing.FAMILIES)
    quick: ClassVar[Mapping[str, Any]] = {"adapters": composing.TWO[:1]}
    neutral: ClassVar[Mapping[str, Any] | None] = {"weights": [0.0]}

    adapters: composing.Adapters
    weights: composing.Weights = ()
    text: Share = Field(1.0, description="Factor for the text towers; 0 leaves them as they are.")
    down: Share = Field(1.0, description="Factor for the half of the network that narrows.")
    mid: Share = Field(1.0, description="Factor for the middle of the network.")
    up: Share = Field(1.0, description="Factor for the half that widens again.")
    blocks: tuple[str, ...] = Field(
        (), description='Factors for single places, such as "unet:up_blocks.1=0.5"; the longest name counts.'
    )
    schedule: Annotated[tuple[float, ...], Role("schedule")] = Field(
        (), max_length=1000, description="Factors over the run, first to last step, with lines between; empty is 1."
    )

    def patch(self, bundle: Bundle, delta: Delta, patch: Patch) -> None:
        """Hang every adapter on the model."""
        weights = self.weights or (1.0,) * len(self.adapters)
        if len(weights) != len(self.adapters):
            raise AskError(
                f"lora: there are {len(self.adapters)} adapters and {len(weights)} weights. Give one each, or none."
            )
        common: list[Gate] = [places(self.places(bundle))]
        if self.schedule:
            common.append(steps(points(self.schedule)))
        for source, weight in zip(self.adapters, weights, strict=True):
            adapter = read_adapter(bundle, source)
            wear(patch, bundle, adapter, both(scalar(weight), *common))
            if weight:
                wear_rows(patch, bundle, adapter)
                remind(patch, bundle, adapter)

    def places(self, bundle: Bundle) -> dict[str, float]:
        """Factor by place, those of single blocks after those of the halves.

        Raises `AskError` for a place that the model does not have.
        """
        halves = {"down": self.down, "mid": self.mid, "up": self.up}
        found = {site.name: halves[site.side] for site in bundle.sites("stage") if site.side in halves}
        found |= {part: self.text for part in bundle.parts if part.startswith("text")}
        known = {f"{part}:{path}" for part, root in bundle.parts.items() for path, _ in root.named_modules() if path}
        for line in self.blocks:
            name, _, number = line.rpartition("=")
            try:
                found[name.strip()] = float(number)
            except ValueError:
                raise AskError(f"lora: {line!r} is no factor of a place. Write unet:up_blocks.1=0.5.") from None
            if name.strip() not in known and name.strip() not in bundle.parts:
                stages = ", ".join(site.name for site in bundle.sites("stage")) or "none"
                raise AskError(f"lora: {bundle.name} has no place {name.strip()!r}. Its blocks: {stages}.")
        return found
