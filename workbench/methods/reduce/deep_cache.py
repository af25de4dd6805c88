"""DeepCache: most steps run the outermost layers of the UNet only and take the rest from an earlier step.

Paper: Ma, Fang and Wang 2023, "DeepCache: Accelerating Diffusion Models for Free", arXiv 2312.00858 (CVPR 2024).

Equations: let D_0 .. D_n be the skip connections from the outermost in, F the features that meet skip connection
`branch` on the way up. Step i is full when i mod `interval` = 0 and keeps F_i; the others compute the layers from
D_0 to D_branch only and put the kept F beside D_branch (uniform 1:N).

Differs: outputs are kept for the rows they belong to, so a run with changing rows (a guidance cut-off, an edit that
asks the network twice) reuses what is its own or computes in full; the cache starts empty with every run, and outside
of a run nothing is kept. Which step it is comes from the run, not from looking the timestep up. The non-uniform
schedule of the paper is left out.

Official numbers (README, A5000, SD 2.1 at 512 px, 50 steps): 2.33x with interval 3 and 3.2x with 5, branch 0. The
ideal speed-up is 1 / (1 / interval + (1 - 1 / interval) share) with the share of a cached step's work, 0.079 for
SD 1.5 at 512 px and branch 0.

Licence of the reference: horseee/DeepCache, Apache-2.0 (read, not copied), class `DeepCacheSDHelper`; equal to it in
the tests.
"""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from pydantic import Field
from torch import nn

from workbench.blocks.caching import Memory, Stage, stages
from workbench.core.bundle import Bundle, Condition
from workbench.core.delta import Delta
from workbench.core.errors import AskError, MissingPart
from workbench.core.method import Card, Edit
from workbench.core.patch import Patch


class DeepCache(Edit):
    """Keep the deep features of a UNet for some steps and renew the outer layers alone."""

    card: ClassVar[Card] = Card("deep-cache", "DeepCache", "arXiv 2312.00858", ("unet",))
    quick: ClassVar[Mapping[str, Any]] = {"interval": 2}
    neutral: ClassVar[Mapping[str, Any] | None] = {"interval": 1}

    interval: int = Field(3, ge=1, le=50, description="Every how many steps the whole network runs; 1 is every step.")
    branch: int = Field(0, ge=0, le=32, description="Skip connection, from the outermost, up to which layers run.")

    def full(self, cond: Condition) -> bool:
        """Whether the step is one of the full ones."""
        return cond.step is None or cond.step.index % self.interval == 0

    def patch(self, bundle: Bundle, delta: Delta, patch: Patch) -> None:
        """Remember the outputs of everything inside the branch."""
        found = stages(bundle)
        if not found:
            raise MissingPart(
                f"deep-cache keeps what lies behind the skip connections of a UNet; {bundle.name} has none. For "
                "transformers there is first-block-cache."
            )
        modules = list(self._inside(bundle, found))
        memory = Memory(self.card.name, self.full)
        memory.attach(patch)
        for index, module in enumerate(modules):
            memory.memoise(patch, module, str(index))

    def _inside(self, bundle: Bundle, found: tuple[Stage, ...]) -> Iterator[nn.Module]:
        """The modules that cached steps do not run: stages as wholes, layers in the stages that the branch divides."""
        down = [stage for stage in found if stage.site.side == "down"]
        up = [stage for stage in found if stage.site.side == "up"][::-1]
        places = [(depth, layer) for depth, stage in enumerate(down) for layer in range(len(stage.layers) + 1)]
        if self.branch >= len(places):
            raise AskError(f"deep-cache: branch is {self.branch}; {bundle.name} has branches 0 to {len(places) - 1}.")
        depth, layer = places[self.branch]
        yield from (stage.site.module for stage in found if stage.site.side == "mid")
        yield from (stage.site.module for stage in (*down[depth + 1 :], *up[depth + 1 :]))
        if layer == 0:
            yield down[depth].site.module
        else:
            yield from (module for group in down[depth].layers[layer:] for module in group)
            yield from down[depth].last
        inner = len(up[depth].layers) - 1 - layer  # the way up meets the innermost layer first
        yield from (module for group in up[depth].layers[:inner] for module in group)
