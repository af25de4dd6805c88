"""Masked LoRA: every adapter acts at its own place in the picture and on its own word, at the cost of one network.

Papers: Liu, Ding and Zhou 2025, "FreeFuse: Multi-Subject LoRA Fusion via Auto Masking at Test Time", arXiv 2510.23515
(masks found in attention, laid on what adapters add); Gu et al. 2023, "Mix-of-Show", arXiv 2305.18292 (regions that
the user draws).

Equations, for adapter i with mask M_i over places and gate T_i over text tokens:
    y = W x + sum_i w_i G_i (up_i down_i x),    G_i = T_i at keys and values of cross-attention, M_i elsewhere,
    T_i = 1 on the tokens of its own trigger, 0 on those of another's, 1 / n on the rest (n adapters).
Masks are the user's boxes, or come from the run itself: while step / steps < `until` all adapters act everywhere and
the attention A_i to each trigger is added up; then M_i = 1 where A_i, brought to 0..1, is the greatest and above
`threshold`.

Differs: FreeFuse refines its masks by self-attention and superpixels and was made for DiT models; here a mask is the
plain argmax over words at the resolution of the latent. Mix-of-Show swaps the attention's output inside a region for
that of another prompt; here one prompt serves all regions. An adapter whose trigger is not in the prompt has no place
and does not act; compose-report says so. Matrices that answer on no place (time) are open to all.

Official numbers: none that compare.

Licence of the references: Mix-of-Show, Apache-2.0 (read, not copied); FreeFuse (its abstract and description alone).
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Float
from pydantic import AfterValidator, Field
from torch import Tensor

from workbench.blocks import composing
from workbench.blocks.branches import images
from workbench.blocks.gates import Gate, Now, both, region, scalar
from workbench.blocks.regions import Box, Watch, Words, box_masks, checked, parted, refuse_unnamed
from workbench.blocks.wordmaps import cross_sites
from workbench.core.bundle import Bundle, Condition
from workbench.core.delta import Delta
from workbench.core.errors import AskError
from workbench.core.fields import Role
from workbench.core.method import Card, Edit
from workbench.core.patch import Patch
from workbench.core.tape import Event, Step

Regions = Annotated[tuple[Box, ...], AfterValidator(checked), Role("region")]


class MaskedLora(Edit):
    """Adapters side by side in one picture, each behind its mask."""

    card: ClassVar[Card] = Card("masked-lora", "Masked LoRA", "arXiv 2510.23515", ("unet", "dit"))
    neutral: ClassVar[Mapping[str, Any] | None] = {"strength": 0.0}
    quick: ClassVar[Mapping[str, Any]] = {"adapters": composing.TWO, "triggers": ("cat", "dog"), "until": 0.5}

    adapters: composing.Adapters
    weights: composing.Weights = ()
    strength: composing.Strength = 1.0
    triggers: composing.Triggers = ()
    regions: Regions = Field(
        (), max_length=composing.MOST,
        description="A box for each adapter: left, top, right, bottom as shares of the picture, 0 to 1; empty finds "
        "places in attention.")  # fmt: skip
    until: float = Field(0.3, gt=0, le=1, description="Share of the run in which attention is watched for masks.")
    threshold: float = Field(0.3, ge=0, lt=1, description="How much of its greatest attention a place needs.")

    def patch(self, bundle: Bundle, delta: Delta, patch: Patch) -> None:
        """Hang every adapter on the model behind its mask, and watch attention where masks are to be found."""
        found = composing.read(bundle, self)
        triggers = composing.called(self, found)
        count = len(found.low)
        if self.regions and len(self.regions) != count:
            raise AskError(f"masked-lora: there are {count} adapters and {len(self.regions)} regions. Give one each.")
        if not self.regions:
            refuse_unnamed("masked-lora", triggers, self.adapters)
        if self.strength == 0:
            return
        masks = _Masks(self, bundle, Words(bundle, triggers))
        for index, weight in enumerate(found.weights):
            found.wear(patch, bundle, index, both(scalar(self.strength * weight), masks.gate(index)))
        if not self.regions:
            masks.watch.attach(patch)
            patch.each(masks.listen)
            patch.wrap("predict", masks.wrap)


class _Masks:
    """The attention seen so far in a run, and what follows from it for the rows of a call."""

    def __init__(self, method: MaskedLora, bundle: Bundle, words: Words) -> None:
        self.method, self.words = method, words
        self.watch = Watch(() if method.regions else cross_sites(bundle), words)
        self.summed: Tensor | None = None
        self._last: tuple[Condition, Tensor, Tensor | None] | None = None

    def listen(self, event: Event) -> None:
        """Forget the attention of the run before."""
        if not isinstance(event, Step):
            self.summed = None

    def gate(self, index: int) -> Gate:
        """M_i and T_i of the module's equation for one adapter; 1 outside of the network."""

        def gate(now: Now) -> float | Tensor:
            if now.cond is None:
                return 1.0
            spoken, places = self._of(now.cond, now.grid)
            if places is None:
                return spoken[..., index, None] if now.ground == "text" else 1.0
            return region(places[:, index], spoken[..., index])(now)

        return gate

    def wrap(self, inner: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """`predict` that adds up attention while places are being looked for."""

        def predict(x: Tensor, t: Tensor, cond: Condition) -> Tensor:
            if not self._looking(cond):
                return inner(x, t, cond)
            with self.watch.seeing() as seen:
                made = inner(x, t, cond)
            maps = seen.maps(lambda told: told.where("cond")).detach()
            self.summed = maps if self.summed is None else self.summed + maps
            return made

        return predict

    def _looking(self, cond: Condition) -> bool:
        """Whether attention is being added up: in a run, until its share `until`, and in its first step."""
        step = cond.step
        return step is not None and (step.index == 0 or step.index < self.method.until * step.total)

    def _of(self, cond: Condition, size: tuple[int, int]) -> tuple[Tensor, Tensor | None]:
        """Token gates [R, L, n] of the rows of a call and their masks [R, n, h, w], None while those are looked for."""
        if self._last is None or self._last[0] is not cond:
            self._last = (cond, shares(self.words.columns(cond.text.ids)), self._placed(cond, size))
        return self._last[1:]

    def _placed(self, cond: Condition, size: tuple[int, int]) -> Tensor | None:
        if self.method.regions:
            return box_masks(self.method.regions, size)[None].expand(len(cond.roles), -1, -1, -1)
        if self.summed is None or cond.step is None or self._looking(cond):
            return None
        return parted(self.summed, self.method.threshold)[images(cond, len(self.summed))]


def shares(columns: Float[Tensor, "R L n"]) -> Float[Tensor, "R L n"]:
    """T of the module's equation from the words' columns: own tokens 1, another's 0, the rest shared evenly."""
    own = (columns > 0).float()
    return torch.where(own.amax(-1, keepdim=True) > 0, own, 1 / columns.shape[-1])
