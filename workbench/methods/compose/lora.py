"""LoRA: any number of adapters live beside the weights, each with its weight, by part of the network and by step.

Paper: Hu, Shen, Wallis, Allen-Zhu, Li, Wang, Wang and Chen 2021, "LoRA: Low-Rank Adaptation of Large Language Models",
arXiv 2106.09685. Files of LoCon, LoHa, LoKr, DoRA, IA3, full differences, textual inversion and ResAdapter are read as
well (blocks/adapter_formats.py says by which equations).

Equation, at every changed module:    y = W x + sum_i w_i b_i(module) s_i(step) (alpha_i / r_i) up_i down_i x
with the weight w_i of adapter i, the factor b_i of the module's place and s_i on a line through the schedule's points;
places and schedules are given for all adapters, or for one of them.

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
from workbench.blocks.gates import Gate, both, covers, places, points, scalar, steps
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
        (),
        description='Factors for single places, such as "unet:up_blocks.1=0.5", or "2/unet:up_blocks.1=0.5" for the '
        "second adapter alone, which counts first; then the longest name does.",
    )
    schedule: Annotated[tuple[float, ...], Role("schedule")] = Field(
        (), max_length=1000, description="Factors over the run, first to last step, with lines between; empty is 1."
    )
    schedules: tuple[tuple[float, ...], ...] = Field(
        (), max_length=composing.MOST,
        description="A schedule for each adapter, in their order; an empty one follows the common schedule."
    )  # fmt: skip

    def patch(self, bundle: Bundle, delta: Delta, patch: Patch) -> None:
        """Hang every adapter on the model."""
        weights = self.weights or (1.0,) * len(self.adapters)
        if len(weights) != len(self.adapters):
            raise AskError(
                f"lora: there are {len(self.adapters)} adapters and {len(weights)} weights. Give one each, or none."
            )
        if self.schedules and len(self.schedules) != len(self.adapters):
            raise AskError(
                f"lora: there are {len(self.adapters)} adapters and {len(self.schedules)} schedules. Give one each "
                "(empty ones follow the common schedule), or none."
            )
        for index, (source, weight) in enumerate(zip(self.adapters, weights, strict=True)):
            adapter = read_adapter(bundle, source)
            wear(patch, bundle, adapter, both(scalar(weight), *self.gates(bundle, index)))
            if weight:
                wear_rows(patch, bundle, adapter)
                remind(patch, bundle, adapter)

    def gates(self, bundle: Bundle, index: int) -> list[Gate]:
        """b and s of an adapter."""
        schedule = (self.schedules[index] if self.schedules else ()) or self.schedule
        found: list[Gate] = [places(self.places(bundle, index))]
        return [*found, steps(points(schedule))] if schedule else found

    def places(self, bundle: Bundle, index: int = 0) -> dict[str, float]:
        """Factor by place for an adapter: of the halves, of single blocks, and of its own ones.

        Raises `AskError` for a place that the model does not have, and for an adapter that is not there.
        """
        halves = {"down": self.down, "mid": self.mid, "up": self.up}
        found = {site.name: halves[site.side] for site in bundle.sites("stage") if site.side in halves}
        found |= {part: self.text for part in bundle.parts if part.startswith("text")}
        known = {f"{part}:{path}" for part, root in bundle.parts.items() for path, _ in root.named_modules() if path}
        own: dict[str, float] = {}
        for line in self.blocks:
            whose, name, number = _parted(line)
            if whose is not None and not 1 <= whose <= len(self.adapters):
                raise AskError(f"lora: {line!r} is about adapter {whose}; there are {len(self.adapters)}.")
            try:
                factor = float(number)
            except ValueError:
                raise AskError(f"lora: {line!r} is no factor of a place. Write unet:up_blocks.1=0.5.") from None
            if name not in known and name not in bundle.parts:
                stages = ", ".join(site.name for site in bundle.sites("stage")) or "none"
                raise AskError(f"lora: {bundle.name} has no place {name!r}. Its blocks: {stages}.")
            if whose in (None, index + 1):
                (found if whose is None else own)[name] = factor
        return _with(found, own)


def _parted(line: str) -> tuple[int | None, str, str]:
    """The adapter that a factor is for, counted from 1 (None for all), its place and its number."""
    head, _, number = line.rpartition("=")
    whose, slash, name = head.partition("/")
    mine = bool(slash) and whose.strip().isdecimal()
    return (int(whose), name.strip(), number) if mine else (None, head.strip(), number)


def _with(common: Mapping[str, float], own: Mapping[str, float]) -> dict[str, float]:
    """Factors of one adapter over those of all: what lies inside one of its own places has that factor."""
    kept = {name: factor for name, factor in common.items() if not any(covers(mine, name) for mine in own)}
    return {**kept, **own}
