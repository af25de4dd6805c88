"""What a face for adapters needs: what files say, fitting one under one's eyes, merging several to take along."""

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import torch
from jaxtyping import UInt8

from workbench.blocks.adapter_files import read, shipped
from workbench.blocks.adapter_formats import rank_of, slot
from workbench.blocks.adapters import RANDOM
from workbench.core.ask import Ask
from workbench.core.bundle import Bundle
from workbench.core.catalog import find
from workbench.core.method import Edit, Sampler
from workbench.core.scene import using
from workbench.core.tape import Step, Tap, ignore
from workbench.runs.erasing import packed

#: Pictures drawn in the course of a fit, and steps of drawing one.
SAMPLES, SAMPLE_STEPS = 6, 8
MOST_PLACES = 16  # blocks that a table can set apart
_BLOCK = re.compile(r"(?:^|[._])(down_blocks|up_blocks|mid_block|(?:single_)?transformer_blocks)(?:[._](\d+))?(?=[._])")
_TEXT = re.compile(r"^(?:base_model\.model\.)?(?:lora_te|text_encoder|text_model)(_?2)?")


def adapters() -> list[str]:
    """Names of the shipped adapters."""
    return list(shipped())


@dataclass(frozen=True)
class About:
    """What an adapter's file says before a model is there: in a line, its trigger, and the blocks that it changes."""

    line: str
    trigger: str = ""
    places: tuple[str, ...] = ()


def about(source: str) -> About:
    """What a file, a folder or a shipped adapter says of itself.

    Raises `MissingPart` for one that is not there and `CheckpointMismatch` for a damaged one.
    """
    if source.startswith(RANDOM):
        return About("drawn at random for the model at hand")
    raw = read(source)
    groups: dict[str, dict[str, torch.Tensor]] = {}
    for name, value in raw.tensors.items():
        known = slot(name)
        if known is not None:
            groups.setdefault(known[0], {})[known[1]] = value
    rank = max(map(rank_of, groups.values()), default=0)
    what = str(raw.training.get("object") or raw.training.get("style") or "")
    size = sum(value.numel() for value in raw.tensors.values())
    parts = [what and f"draws {what}", f"{len(groups)} places" + (f" of rank up to {rank}" if rank else ""),
             f"{size:,} numbers"]  # fmt: skip
    return About(", ".join(filter(None, parts)), str(raw.training.get("trigger", "")), blocks(list(groups)))


def blocks(stems: Sequence[str]) -> tuple[str, ...]:
    """The blocks and text towers of modules named as files name them; none where they are too many to set apart.

    >>> blocks(["lora_unet_up_blocks_1_attentions_0_proj_in", "base_model.model.mid_block.attentions.0.proj_in"])
    ('unet:mid_block', 'unet:up_blocks.1')
    """
    found: set[str] = set()
    for stem in stems:
        text, hit = _TEXT.match(stem), _BLOCK.search(stem)
        if text:
            found.add("text2" if text[1] else "text")
        elif hit:
            part = "transformer" if "transformer" in hit[1] else "unet"
            found.add(f"{part}:{hit[1]}" + (f".{hit[2]}" if hit[2] and hit[1] != "mid_block" else ""))
    order = ("text", "text2", "unet:down", "unet:mid", "unet:up")

    def place(name: str) -> tuple[int, str, int]:
        head, _, number = name.rpartition(".")
        known = (at for at, start in enumerate(order) if name == start or name.startswith(f"{start}_"))
        return next(known, len(order)), head, int(number) if number.isdigit() else 0

    return tuple(sorted(found, key=place)) if len(found) <= MOST_PLACES else ()


@dataclass(eq=False)
class Watched:
    """A tap that keeps what a fit tells: the loss of each step, and now and then pictures by what is learned so far.

    It stands before another tap, which may raise `Stopped`. The pictures are of one prompt and seed, drawn between two
    steps with the weights as they are then; the fit goes on to the same bits.
    """

    bundle: Bundle
    prompt: str
    tap: Tap = ignore
    samples: int = SAMPLES
    losses: list[float] = field(default_factory=list[float])
    pictures: list[tuple[int, UInt8[np.ndarray, "H W 3"]]] = field(
        default_factory=list[tuple[int, UInt8[np.ndarray, "H W 3"]]]
    )

    def __call__(self, step: Step) -> None:
        """See a step."""
        self.tap(step)
        if "loss" not in step.numbers:
            return
        self.losses.append(step.numbers["loss"])
        if (step.index + 1) * self.samples >= (len(self.pictures) + 1) * step.total:
            self.pictures.append((len(self.losses), self._drawn()))

    def _drawn(self) -> UInt8[np.ndarray, "H W 3"]:
        cls = find(self.bundle.sampler)
        sampler = cls(**({"steps": SAMPLE_STEPS} if "steps" in cls.model_fields else {}))
        with torch.no_grad():
            made = cast(Sampler, sampler).sample(self.bundle, Ask(prompts=[self.prompt], seeds=[0]), ignore)
        return made[0].permute(1, 2, 0).cpu().numpy()

    def curve(self, most: int = 100) -> list[float]:
        """The losses, averaged over neighbours so that at most so many numbers remain."""
        losses = list(self.losses)
        width = -(-len(losses) // most) or 1
        return [
            sum(part) / len(part) for start in range(0, len(losses), width) if (part := losses[start : start + width])
        ]


def learned(bundle: Bundle, edit: Edit, folder: Path, tap: Tap) -> Path:
    """Fit an edit, showing every step, and write what was learned as a LoRA file; stays in the store as well."""
    with using(bundle, edit, tap=tap):
        pass  # entering fits, and the store keeps it for the export
    return merged(bundle, edit, folder)


def merged(bundle: Bundle, edit: Edit, folder: Path) -> Path:
    """What an edit changes, as a LoRA file in a folder. Raises `AskError` for one that acts while drawing."""
    return packed(bundle, [edit], folder, "lora")


def kept_as(path: Path, folder: Path, name: str) -> Path:
    """A file copied into a folder under a plain name that is not taken."""
    plain = "".join(c if c.isalnum() or c in "-_" else "-" for c in name)[:40].strip("-") or "adapter"
    folder.mkdir(parents=True, exist_ok=True)
    target, count = folder / f"{plain}{path.suffix}", 1
    while target.exists():
        count += 1
        target = folder / f"{plain}-{count}{path.suffix}"
    return Path(shutil.copyfile(path, target))
