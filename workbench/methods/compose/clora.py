"""CLoRA: a branch of the network for each adapter, kept apart by their attention and blended where it looks.

Paper: Meral, Simsar, Tombari and Yanardag 2024, "CLoRA: A Contrastive Approach to Compose Multiple LoRA Models",
arXiv 2403.19776 (ICCV 2025).

Equations, for branch 0 without adapters and branch j with adapter j, cross-attention A_cb to concept c in branch b:
    L = NT-Xent over all A_cb, maps of one concept alike and of different concepts unlike (temperature 0.5)
    z <- z - step grad_z L                        while step / steps < `guide`
    M_j = [A_jj > threshold max A_jj],    M_0 = 1 where no other mask is
    e = sum_b M_b e_b / sum_b M_b                  with and without prompt, before guidance
In branch j the trigger of adapter j stands in the prompt and the others give way to their `classes` ("cat" for "sks
cat"); branch 0 has classes alone. Without `classes` every branch reads the prompt as it is.

Differs: all branches are one call of the network, each row with its own adapter's gate, and the gradient goes through
that call. Attention is the mean over heads and fine layers on the latent grid, not one 16x16 level, and masks are not
opened or closed. With `regions` masks are the boxes, and L also holds the share of each word's attention outside of its
box (Chen et al. 2023, arXiv 2304.03373). `everywhere` are adapters of all branches, as the paper's style adapter.

Official settings: threshold 0.3, gradient in the first 25 of 50 steps; the step size is 0.02 in a port to SDXL, and
users of SD 1.5 set 3. Official numbers: better than merging, ZipLoRA and Mix-of-Show in DINO similarity. Cost: n + 1
networks a step, about three times that where the gradient is taken.

Licence of the reference: gemlab-vt/clora, MIT (its README, and a port of it, read, not copied).
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any, ClassVar

import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from workbench.blocks import composing
from workbench.blocks.branches import Branches, images, masked
from workbench.blocks.concepts import Names
from workbench.blocks.gates import both, scalar
from workbench.blocks.regions import (
    Box,
    Reworded,
    Seen,
    Watch,
    Words,
    above,
    box_masks,
    checked,
    contrast,
    outside,
    refuse_unnamed,
)
from workbench.blocks.wordmaps import cross_sites
from workbench.core.bundle import Bundle, Condition
from workbench.core.delta import Delta
from workbench.core.errors import AskError
from workbench.core.fields import Role
from workbench.core.method import Card, Edit
from workbench.core.patch import Patch


class Clora(Edit):
    """One branch an adapter, kept apart by a contrastive loss on attention and fused by masks."""

    card: ClassVar[Card] = Card("clora", "CLoRA", "arXiv 2403.19776", ("unet", "dit"))
    neutral: ClassVar[Mapping[str, Any] | None] = {"strength": 0.0}
    quick: ClassVar[Mapping[str, Any]] = {
        "adapters": composing.TWO, "triggers": ("cat", "dog"), "classes": ("red", "flat"), "guide": 0.3}  # fmt: skip

    adapters: composing.Adapters
    weights: composing.Weights = ()
    strength: composing.Strength = 1.0
    triggers: composing.Triggers = ()
    classes: Names = Field(
        (), max_length=composing.MOST, description="What each trigger is a kind of; stands for it in other branches."
    )
    everywhere: Annotated[Names, Role("adapter")] = Field(
        (), max_length=composing.MOST, description="Adapters that act in every branch, such as a style."
    )
    regions: Annotated[tuple[Box, ...], AfterValidator(checked), Role("region")] = Field(
        (), max_length=composing.MOST,
        description="A box for each adapter: left, top, right, bottom as shares of the picture, 0 to 1; empty finds "
        "places in attention.")  # fmt: skip
    threshold: float = Field(0.3, ge=0, lt=1, description="How much of its greatest attention a place needs.")
    guide: float = Field(0.5, ge=0, le=1, description="Share of the run in which latents follow the loss.")
    step: float = Field(3.0, ge=0, le=100, description="How far latents follow it; 0 is masks alone.")
    temperature: float = Field(0.5, gt=0, le=10, description="Of the contrastive loss.")

    def patch(self, bundle: Bundle, delta: Delta, patch: Patch) -> None:
        """Hang every adapter on the model in its own branch, and blend the branches by masks."""
        found = composing.read(bundle, self)
        triggers = composing.called(self, found)
        count = len(found.low)
        for name, given in (("regions", self.regions), ("classes", self.classes)):
            if given and len(given) != count:
                raise AskError(f"clora: there are {count} adapters and {len(given)} {name}. Give one each, or none.")
        refuse_unnamed("clora", triggers, self.adapters)
        if self.strength == 0:
            return
        fusion = _Fusion(self, bundle, triggers)
        for index, weight in enumerate(found.weights):
            gate = both(scalar(self.strength * weight), fusion.branches.gate(index + 1))
            found.wear(patch, bundle, index, gate)
        if self.everywhere:
            style = composing.read(bundle, self.but(adapters=self.everywhere, weights=(), triggers=(), regions=(),
                                                    classes=(), everywhere=()))  # fmt: skip
            for index in range(len(style.low)):
                style.wear(patch, bundle, index, scalar(self.strength))
        fusion.watch.attach(patch)
        patch.wrap("read", fusion.reworded.wrap)
        patch.wrap("predict", fusion.wrap)
        patch.wrap("advance", fusion.moved)


class _Fusion:
    """The branches of a call: what each reads, where each counts, and how far latents were moved before it."""

    def __init__(self, method: Clora, bundle: Bundle, triggers: tuple[str, ...]) -> None:
        self.method, self.count = method, len(triggers)
        wordings = [
            {trigger: word for at, (trigger, word) in enumerate(zip(triggers, method.classes, strict=True), 1)
             if at != branch} if method.classes else {} for branch in range(self.count + 1)]  # fmt: skip
        self.reworded = Reworded(wordings)
        self.branches = Branches(self.count + 1, retell=self.reworded.told)
        self.watch = Watch(cross_sites(bundle), Words(bundle, (*triggers, *method.classes)))
        self.shift: Tensor | None = None

    def wrap(self, inner: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """`predict` that moves latents, answers for every branch, and blends."""

        def predict(x: Tensor, t: Tensor, cond: Condition) -> Tensor:
            self.shift = None
            step = cond.step
            if step is not None and step.x is not None and step.index < self.method.guide * step.total:
                x = self._guided(inner, x, t, cond)
            with self.watch.seeing() as seen:
                many = self._all(inner, x, t, cond)
            kept = self._masks(seen, (x.shape[-2], x.shape[-1]))
            return masked(many.unflatten(0, (self.count + 1, len(x))), kept[:, images(cond, kept.shape[1])])

        return predict

    def moved(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        """`advance` from where the latents were moved to."""

        def advance(x: Tensor, *args: Any, **kwargs: Any) -> Any:
            shift, self.shift = self.shift, None
            return inner(x if shift is None else x - shift, *args, **kwargs)

        return advance

    def _all(self, inner: Callable[..., Tensor], x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        copies = self.count + 1
        return inner(x.repeat(copies, 1, 1, 1), t.repeat(copies), self.branches.spread(cond))

    def _maps(self, seen: Seen, branch: int) -> Tensor:
        """Attention [B, n, h, w] to each concept in a branch: to its trigger, or to the class that stands for it."""
        maps = seen.maps(partial(self.branches.rows, branch))
        own = [j if j + 1 == branch or not self.method.classes else self.count + j for j in range(self.count)]
        return maps[:, own]

    def _masks(self, seen: Seen, size: tuple[int, int]) -> Tensor:
        """M [n + 1, B, 1, h, w] of the module's equation."""
        own = torch.stack([self._maps(seen, branch)[:, branch - 1] for branch in range(1, self.count + 1)])
        kept = above(own, self.method.threshold)
        if self.method.regions:
            kept = (box_masks(self.method.regions, size) > 0.5).to(own)[:, None].expand_as(own)
        return torch.cat([(kept.sum(0, keepdim=True) == 0).to(kept), kept])[:, :, None]

    def _guided(self, inner: Callable[..., Tensor], x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        """The rows of a call after their latents were moved against the gradient of the loss."""
        rows = cond.where("cond")
        if not self.method.step or not rows or cond.step is None or cond.step.x is None:
            return x
        with torch.enable_grad():
            z = cond.step.x.detach().clone().requires_grad_(True)
            # what the scheduler made of z for the network: the same factor in every row
            scale = (x[rows] * z.detach()).flatten(1).sum(1) / z.detach().square().flatten(1).sum(1)
            with self.watch.seeing() as seen:
                self._all(inner, z * scale[:, None, None, None], t[rows], cond.rows(rows))
            maps = torch.stack([self._maps(seen, branch) for branch in range(self.count + 1)], 1)
            (slope,) = torch.autograd.grad(sum(self._loss(image) for image in maps), z)  # type: ignore[arg-type]
        self.shift = shift = self.method.step * slope
        where = images(cond, len(z))
        return x - (scale[:, None, None, None] * shift)[where]

    def _loss(self, maps: Tensor) -> Tensor:
        """L of one image from its maps [n + 1, n, h, w] of every branch and concept."""
        concepts = torch.arange(self.count).repeat(self.count + 1)
        there = maps.detach().flatten(2).amax(-1).flatten() > 0  # a word that is not in the prompt has no map
        loss = contrast(maps.flatten(0, 1)[there], concepts[there], self.method.temperature)
        if self.method.regions:
            own = torch.stack([maps[branch, branch - 1] for branch in range(1, self.count + 1)])
            loss = loss + outside(own, box_masks(self.method.regions, (maps.shape[-2], maps.shape[-1])).to(maps))
        return loss
