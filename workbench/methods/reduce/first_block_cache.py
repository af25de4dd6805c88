"""First-block cache: when the first block of a transformer says much the same as before, the rest is not run.

Paper: none of its own; ParaAttention (Cheng 2024) after TeaCache (Liu, Zhang, Wang, Wei, Qiu, Zhao, Zhang, Ye and Wan
2024, "Timestep Embedding Tells: It's Time to Cache for Video Diffusion Model", arXiv 2411.19108).

Equations, for the tokens x of a row, first block f and the blocks after it g: r = f(x) - x. With r' and d' kept from
the last step at which the row was computed,
    change = mean |r - r'| / mean |r'|;   change < threshold: output f(x) + d';   else: output g(f(x)), keep r and
    d = g(f(x)) - f(x).

Differs: each image decides for itself, with and without the prompt together (the greater change of its rows), where
the references decide once a batch; so an image does not depend on its mates. A batch skips the blocks when all of its
images do; otherwise all are run, and the images that did not need it keep their cached difference.

Official numbers: in ParaAttention's README, for FLUX; not compared here.

Licence of the references: chengzeyi/ParaAttention, its own (not read); diffusers, Apache-2.0 (read, not copied), class
`FBCHeadBlockHook`.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from workbench.blocks.caching import Memory
from workbench.blocks.merging import images
from workbench.core.bundle import Bundle
from workbench.core.delta import Delta
from workbench.core.errors import MissingPart
from workbench.core.method import Card, Edit
from workbench.core.patch import Patch


class FirstBlockCache(Edit):
    """Skip the blocks after the first while the first one's answer barely changes."""

    card: ClassVar[Card] = Card("first-block-cache", "First-block cache", "arXiv 2411.19108", ("dit", "mmdit"))
    quick: ClassVar[Mapping[str, Any]] = {"threshold": 0.5}
    neutral: ClassVar[Mapping[str, Any] | None] = {"threshold": 0.0}

    threshold: float = Field(0.08, ge=0, le=2, description="Relative change below which the rest is reused; 0 never.")

    def patch(self, bundle: Bundle, delta: Delta, patch: Patch) -> None:
        """Watch the first block, and bridge all others."""
        blocks = [site.module for site in bundle.sites("block")]
        if len(blocks) < 2 or bundle.sites("stage"):
            raise MissingPart(
                f"first-block-cache skips the blocks of a transformer after the first; {bundle.name} has no such row "
                "of blocks. For UNets there is deep-cache."
            )
        memory = Memory(self.card.name, lambda cond: False)
        memory.attach(patch)
        bridge = _Bridge(memory, self.threshold)
        patch.put(blocks[0], "forward", bridge.first(blocks[0].forward))
        for block in blocks[1:-1]:
            patch.put(block, "forward", bridge.middle(block.forward))
        patch.put(blocks[-1], "forward", bridge.last(blocks[-1].forward))


class _Bridge:
    """The decision of the call under way: which rows need the blocks after the first, and what the first one said."""

    def __init__(self, memory: Memory, threshold: float) -> None:
        self.memory, self.threshold = memory, threshold
        self.needed: Tensor | None = None  # [R]; None outside of a run
        self.skip = False
        self.start: Tensor | None = None

    def first(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        """Run the first block and decide."""

        def run(*args: Any, **kwargs: Any) -> Any:
            came = _picture(args, kwargs)
            output = forward(*args, **kwargs)
            self._decide(came, _shown(output))
            return output

        return run

    def middle(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        """Hand on what came in, when the rest is skipped."""
        pair = False  # whether the block answers with text and picture: seen at the first full call

        def run(*args: Any, **kwargs: Any) -> Any:
            nonlocal pair
            if self.skip:
                came = _picture(args, kwargs)
                return (_text(args, kwargs), came) if pair else came
            output = forward(*args, **kwargs)
            pair = isinstance(output, tuple)
            return output

        return run

    def last(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        """Add the kept difference for the rows that did not need the rest, keep it for those that did."""
        through = self.middle(forward)

        def run(*args: Any, **kwargs: Any) -> Any:
            output = through(*args, **kwargs)
            if self.needed is None or self.start is None:
                return output
            fresh, kept = _shown(output) - self.start, self.memory.recall("rest")
            if kept is not None:
                fresh = torch.where(self.needed[:, None, None], fresh, kept)
            self.memory.keep("rest", fresh)
            found = self.start + fresh
            if kept is None or bool(self.needed.all()):
                found = _shown(output)  # the very numbers, not their difference added again
            return (*output[:-1], found) if isinstance(output, tuple) else found

        return run

    def _decide(self, came: Tensor, gone: Tensor) -> None:
        self.needed, self.skip, self.start = None, False, None
        cond = self.memory.cond
        if cond is None:
            return
        change, kept = gone - came, self.memory.recall("first")
        self.needed, self.start = torch.ones(len(gone), dtype=torch.bool, device=gone.device), gone
        if kept is not None:
            moved = (change - kept).abs().float().mean((1, 2)) / kept.abs().float().mean((1, 2)).clamp_min(1e-12)
            names = images(cond)
            most = {name: max(float(moved[i]) for i, row in enumerate(names) if row == name) for name in set(names)}
            decided = [most[name] >= self.threshold for name in names]
            self.needed = torch.tensor(decided, device=gone.device)
            self.skip = not any(decided)
            change = torch.where(self.needed[:, None, None], change, kept)
        self.memory.keep("first", change)


def _picture(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    return args[0] if args else kwargs["hidden_states"]


def _text(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args[1] if len(args) > 1 else kwargs.get("encoder_hidden_states")


def _shown(output: Any) -> Tensor:
    """The picture's tokens in a block's answer; of text and picture they come last."""
    return output[-1] if isinstance(output, tuple) else output
