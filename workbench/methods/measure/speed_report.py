"""Speed report: plain and accelerated with the same seeds, seconds beside what the operations promise.

Paper: none; the protocol that papers on acceleration share (same seeds, seconds, peak memory, distance to the plain
picture), with the reporting of Ma et al. 2023, "DeepCache", arXiv 2312.00858, and operations counted with the
attention core, which published MACs leave out.

Equations: theoretical = operations(plain) / operations(accelerated), counted in a run of each; measured = the median of
seconds(plain) / seconds(accelerated) over turns that follow one another, after a run of each that is not counted;
    PSNR = 10 log10(255^2 / mean (a - b)^2), mean over pictures;   distance = mean 1 - cos(E(a), E(b))
with a scorer's picture features E.

Differs: only edits of the topic `reduce` are left out of the plain side, so that an eraser or a LoRA is on both.
Seconds, their ratio and memory are in the table and not among the numbers, as no two runs take the same time. Equal
pictures are given a PSNR of 100 dB.

There are no official numbers. Licence: there is no reference code.
"""

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field

from workbench.blocks.cost import peak, settle
from workbench.blocks.ledger import Ledger
from workbench.core.bundle import Bundle, Images
from workbench.core.errors import AskError, MissingPart
from workbench.core.fields import Role
from workbench.core.method import AnySampler, Card, Edit, Lens, Sampler
from workbench.core.report import Film, Note, Panel, Report, Table
from workbench.core.scene import Scene, using

MOST_PSNR = 100.0
SHOWN = 8


@dataclass
class _Side:
    sampler: Sampler
    edits: tuple[Edit, ...]
    seconds: list[float] = field(default_factory=list[float])
    bytes: int = 0
    ledger: Ledger = field(default_factory=Ledger)

    def draw(self, scene: Scene, count: bool = False) -> Images:
        """Draw once, timed; the fitting of edits is not. The first time operations are counted instead."""
        with using(scene.bundle, *self.edits) as bundle, peak(bundle.device) as held:
            began = time.perf_counter()
            if count:
                with self.ledger:
                    return self.sampler.sample(bundle, scene.ask, scene.tap)
            images = self.sampler.sample(bundle, scene.ask, scene.tap)
            settle(bundle.device)
            self.seconds.append(time.perf_counter() - began)
        self.bytes = max(self.bytes, held[0])
        return images


class SpeedReport(Lens):
    """What the accelerating edits save, and what they cost in pictures."""

    card: ClassVar[Card] = Card("speed-report", "Speed report", "arXiv 2312.00858", ("any",), "seconds")
    quick: ClassVar[Mapping[str, Any]] = {"repeats": 1, "scorer": ""}

    repeats: int = Field(3, ge=1, le=50, description="Timed runs of each side, in turns.")
    plain: AnySampler | None = Field(None, description="How the plain side draws; none takes the scene's sampler.")
    scorer: Annotated[str, Role("model")] = Field(
        "emoji-scorer", description="The model whose picture features are compared; empty leaves them out."
    )

    def look(self, scene: Scene) -> Report:
        """Both sides' pictures, a table of measures, and a verdict."""
        if self.plain is not None:
            self.plain.check(scene.bundle)
        rest = tuple(edit for edit in scene.edits if edit.topic() != "reduce")
        sides = _Side(self.plain or scene.sampler, rest), _Side(scene.sampler, scene.edits)
        pictures = [side.draw(scene, count=True) for side in sides]
        for turn in range(self.repeats):
            for side in sides if turn % 2 else sides[::-1]:  # neither always goes first
                side.draw(scene)
        noise = psnr(*pictures)
        numbers = {"theoretical": sides[0].ledger.total / max(sides[1].ledger.total, 1), "psnr": float(noise.mean())}
        numbers |= {
            f"gflop_{name}": side.ledger.total / 1e9 for name, side in zip(("plain", "fast"), sides, strict=True)
        }
        panels: list[Panel] = [*_films(scene, *pictures), self._table(sides, numbers), *_verdict(sides, numbers)]
        if self.scorer:
            try:
                numbers["distance"] = distance(scene.bundle, self.scorer, *pictures)
            except MissingPart as error:
                panels.append(Note(str(error), "No distance in a scorer's eyes"))
        return Report(tuple(panels), numbers)

    def _table(self, sides: tuple[_Side, _Side], numbers: Mapping[str, float]) -> Table:
        plain, fast = sides
        rows: list[tuple[str | float, ...]] = [
            ("seconds", _median(plain), _median(fast), _ratio(sides)),
            ("operations (GFLOP)", numbers["gflop_plain"], numbers["gflop_fast"], numbers["theoretical"]),
        ]
        for kind in ("attention", "matrices", "convolutions"):
            before, after = (side.ledger.parts[kind] / 1e9 for side in sides)
            if before or after:
                rows.append((f"of that {kind}", before, after, before / after if after else 0.0))
        rows.append(("peak memory (MiB)", plain.bytes / 2**20, fast.bytes / 2**20, plain.bytes / max(fast.bytes, 1)))
        title = f"Medians of {self.repeats} in turns on {torch.get_num_threads()} threads"
        return Table(("measure", "plain", "accelerated", "plain / accelerated"),
                     tuple((row[0], *(round(float(v), 4) for v in row[1:])) for row in rows), title)  # fmt: skip


def psnr(one: Images, other: Images) -> torch.Tensor:
    """Peak signal-to-noise of each pair of pictures in dB [B]; 100 for equal ones. Raises `AskError` for two sizes."""
    if one.shape != other.shape:
        raise AskError(f"Pictures of {tuple(one.shape)} and {tuple(other.shape)} cannot be compared. Draw one size.")
    error = (one.double() - other.double()).square().flatten(1).mean(1)
    return (10 * torch.log10(255**2 / error.clamp_min(1e-12))).clamp_max(MOST_PSNR).cpu()


@torch.no_grad()
def distance(bundle: Bundle, scorer: str, one: Images, other: Images) -> float:
    """Mean 1 - cosine of a scorer's features of each pair of pictures."""
    judge = bundle.open(scorer)
    features = [
        torch.cat([judge.encode(row) for row in (side.to(judge.device).to(judge.dtype) / 127.5 - 1).split(1)])
        for side in (one, other)
    ]
    return float((1 - F.cosine_similarity(features[0].float(), features[1].float(), dim=-1)).mean())


def _films(scene: Scene, plain: Images, fast: Images) -> list[Film]:
    pairs = zip(scene.ask.prompts, scene.ask.seeds, plain, fast, strict=True)
    return [
        Film(np.stack([image.permute(1, 2, 0).cpu().numpy() for image in pair]), ("plain", "accelerated"),
             f"{prompt} (seed {seed})")
        for prompt, seed, *pair in list(pairs)[:SHOWN]
    ]  # fmt: skip


def _median(side: _Side) -> float:
    return statistics.median(side.seconds)


def _ratio(sides: tuple[_Side, _Side]) -> float:
    return statistics.median(a / b for a, b in zip(sides[0].seconds, sides[1].seconds, strict=True))


def _verdict(sides: tuple[_Side, _Side], numbers: Mapping[str, float]) -> list[Note]:
    """What may mislead: nothing accelerates, or it does not."""
    if sides[0].edits == sides[1].edits and sides[0].sampler == sides[1].sampler:
        return [Note("No edit of the topic reduce is in force, so both sides are the same.", "Nothing accelerates")]
    if _ratio(sides) < 1:
        return [
            Note(
                f"Accelerated took {1 / _ratio(sides):.2f} times as long as plain, though its operations are "
                f"{numbers['theoretical']:.2f} times fewer: choosing and moving tokens costs more than they save at "
                "this size. Draw larger, merge at fewer places (shared), or take todo or a cache.",
                "Slower than plain here",
            )
        ]
    return []
