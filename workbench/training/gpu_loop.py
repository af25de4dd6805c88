"""What the recipes of the GPU tier share: the whole world on a device, one training loop, and pieces that travel.

A call has a `limit` in minutes. It goes on from a folder of models in the shipped formats (fp16 averaged weights, with
fresh moments and a warm-up) and leaves such a folder again, also as pieces small enough to be handed from one machine
to another: `models.tar.00-of-03` and so on, a plain tar archive cut into parts.
"""

from __future__ import annotations

import inspect
import io
import json
import math
import shutil
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPTokenizer

from workbench.blocks.world import World
from workbench.core.errors import AskError, CheckpointMismatch, MissingPart
from workbench.training import scorer
from workbench.training.feed import Choose, Feed, Scenes
from workbench.training.loop import MODELS, Clock, Log, every, scratch
from workbench.training.stage import Stage

PARTS = ("emoji-unet", "emoji-scorer", "emoji-judge")
PIECE = 15 * 2**20
CHECK = 8


def whole(world: World, count: int = 0) -> World:
    """Return the world whose tier is every object of training; with `count`, only so many objects, evenly spread."""
    kept = world.objects[:: max(len(world.objects) // count, 1)][:count] if count else world.objects
    labels = {thing.label for thing in kept}
    held = [label for label in world.split["held_out_objects"] if label in labels]
    pairs = [pair for pair in world.split["held_out_pairs"] if pair[0] in labels]
    tier = [thing.label for thing in kept if thing.label not in held]
    split = {**world.split, "held_out_objects": held, "held_out_pairs": pairs, "cpu": tier, "cpu_extra": []}
    return replace(world, objects=kept, split=split)


@dataclass(frozen=True)
class Rig:
    """Settings that every recipe of the tier takes.

    device; given: models or pieces to go on from (nothing: what the last call left); out: where pieces go; limit:
    minutes of this call; objects: how many, 0 for all; workers: processes that feed; compiled; most: steps
    of a part in this call (0: no limit), for trials; seed.
    """

    device: str = "cuda"
    given: str = ""
    out: str = ""
    limit: float = 9.0
    objects: int = 0
    workers: int = 14
    compiled: bool = True
    most: int = 0
    seed: int = 0


@dataclass
class Kit:
    """A rig set up: the world, its sprites on the device, and the folder of models being made."""

    rig: Rig
    begun: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.device = torch.device(self.rig.device)
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise AskError(f"device={self.rig.device} was asked for, but no GPU is there. Try device=cpu.")
        if self.device.type == "cuda":
            torch.set_float32_matmul_precision("high")
            torch.backends.cudnn.benchmark = True  # shapes never change
        torch.manual_seed(self.rig.seed)
        self.generator = torch.Generator(self.device).manual_seed(self.rig.seed)
        self.world = whole(World.load(), self.rig.objects)
        self.folder = scratch() / "gpu"
        if self.rig.given:
            take(Path(self.rig.given), self.folder)
        self.folder.mkdir(exist_ok=True)

    @property
    def left(self) -> float:
        """Seconds left of this call."""
        return 60 * self.rig.limit - (time.monotonic() - self.begun)

    @cached_property
    def stage(self) -> Stage:
        """The sprites on the device."""
        return Stage(self.world, self.device, self.rig.workers)

    @cached_property
    def words(self) -> Any:
        """The tokenizer of the models being made; at first the shipped one."""
        own = self.folder / "emoji-scorer"
        return CLIPTokenizer.from_pretrained(own if (own / "tokenizer.json").exists() else scorer.FOLDER)

    def feed(self, choose: Choose, count: int, *, said: bool = False, full: bool = False, start: int = 0) -> Feed:
        """Feed scenes of this world to the device, captioned when `said`."""
        _ = self.stage  # rasterised before the feed's processes and threads begin
        words = self.words if said or full else None
        scenes = Scenes(self.world, choose, count, words=words, full=full, seed=self.rig.seed)
        return Feed(scenes, self.device, self.rig.workers, start)

    def quick(self, work: Any) -> Any:
        """Compile a module or function where the rig says so."""
        return torch.compile(work) if self.rig.compiled else work

    def cast(self) -> Any:
        """Return the context of mixed precision."""
        return torch.autocast(self.device.type, torch.bfloat16)

    def rand(self, *shape: int) -> Tensor:
        """Draw from 0..1 on the device."""
        return torch.rand(*shape, generator=self.generator, device=self.device)

    def randn(self, *shape: int) -> Tensor:
        """Draw normal noise on the device."""
        return torch.randn(*shape, generator=self.generator, device=self.device)


@dataclass(frozen=True)
class Course:
    """How a part learns: minutes in all, rate, tail of its fall, memory of the average; seconds kept for afterwards.

    On the `last` call the minutes are what is left of it, so that the rate has fallen to nothing when it ends.
    """

    minutes: float
    lr: float
    tail: float = 0.5
    warm: int = 200
    decay: float = 0.999
    reserve: float = 20.0
    last: bool = False


class Average:
    """An exponential moving average of a model's weights, on its device; its memory grows up to `most`."""

    def __init__(self, model: nn.Module, most: float) -> None:
        self.live: list[Tensor] = list(model.parameters())
        self.mean, self.most, self.count = [p.detach().clone() for p in self.live], most, 0

    @torch.no_grad()
    def update(self) -> None:
        """Move towards the model."""
        self.count += 1
        torch._foreach_lerp_(self.mean, self.live, 1 - min(self.most, self.count / (9 + self.count)))

    @torch.no_grad()
    def settle(self) -> None:
        """Put the averaged weights into the model."""
        torch._foreach_copy_(self.live, self.mean)


def past(folder: Path, recipe: str, name: str = "training.json") -> dict[str, Any]:
    """Read what this recipe noted beside the weights when it last stopped: final numbers and curve; else nothing."""
    if not (folder / name).exists():
        return {}
    notes = json.loads((folder / name).read_text("utf-8"))
    return {**notes["final"], "curve": notes["curve"]} if notes["recipe"] == recipe else {}


def restore(model: nn.Module, path: Path) -> None:
    """Load shipped fp16 weights into a model that trains in fp32."""
    model.load_state_dict({key: value.float() for key, value in load_file(path).items()})


def learn(
    kit: Kit,
    course: Course,
    model: nn.Module,
    miss: Callable[[], Tensor],
    *,
    batch: int,
    before: dict[str, Any],
    facts: dict[str, Any],
    feed: Feed,
) -> tuple[Log, dict[str, Any]]:
    """Lower `miss()` until the course, the call or its steps are over; the model is left with its averaged weights.

    The clock starts after the first step, so that compiling is not counted as training. Returns the log and what was
    spent in all. Raises `CheckpointMismatch` when the error is no longer a number.
    """
    wanted = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(wanted, lr=course.lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    average = Average(model, course.decay)
    kit.generator.manual_seed(kit.rig.seed + before.get("step", 0))
    facts = {**facts, **vars(course), "batch": batch, "objects": len(kit.world.tier), "accelerator": hardware(kit)}
    log, due, value, local = Log(facts, before.get("curve", [])), every(10), 0.0, 0
    clock = Clock(course.minutes, before.get("seconds", 0.0))
    while True:
        error = miss()
        optimiser.zero_grad(set_to_none=True)
        error.backward()
        torch.nn.utils.clip_grad_norm_(wanted, 1.0)
        for group in optimiser.param_groups:
            group["lr"] = course.lr * clock.rate(local, course.warm, course.tail)
        optimiser.step()
        average.update()
        local += 1
        if local % CHECK == 1 or local == kit.rig.most:
            value = error.item()  # waits for the device, so it is not asked at every step
            if not math.isfinite(value):
                raise CheckpointMismatch(
                    f"{facts['recipe']} diverged at step {local}; try a smaller lr than {course.lr}."
                )
        if local == 1:
            clock.started = time.monotonic()
            clock.minutes = (clock.spent + kit.left - course.reserve) / 60 if course.last else course.minutes
        spent = {"step": before.get("step", 0) + local, "samples": before.get("samples", 0) + local * batch}
        over = clock.part >= 1 or kit.left < course.reserve or local == kit.rig.most
        if over or due():
            log.add(**spent, seconds=clock.seconds, loss=value, waited=feed.waited)
        if over:
            average.settle()
            return log, {**spent, "seconds": round(clock.seconds, 1), "complete": clock.part >= 0.98}


def hardware(kit: Kit) -> str:
    """Name what the training ran on."""
    return torch.cuda.get_device_name(kit.device) if kit.device.type == "cuda" else "cpu"


def recipe(fit: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Make a recipe's `train` of `fit(kit, ...)`: it takes the settings of both `fit` and `Rig`, by name."""
    own = list(inspect.signature(fit).parameters.values())[1:]
    shared = [inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default) for f in fields(Rig)]

    def train(**settings: Any) -> dict[str, Any]:
        rig = Rig(**{p.name: settings.pop(p.name) for p in shared if p.name in settings})
        kit = Kit(rig)
        final = fit(kit, **settings)
        if rig.out:
            final["pieces"] = pack(kit.folder, Path(rig.out))
        return final

    train.__doc__ = fit.__doc__
    train.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined]
    return train


def pack(folder: Path, out: Path, most: int = PIECE) -> list[str]:
    """Write a folder of models as pieces of at most `most` bytes, replacing earlier ones; return their names."""
    whole_file = io.BytesIO()
    with tarfile.open(fileobj=whole_file, mode="w") as packed:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            member = tarfile.TarInfo(path.relative_to(folder).as_posix())
            member.size = path.stat().st_size
            packed.addfile(member, io.BytesIO(path.read_bytes()))
    data = whole_file.getvalue()
    count = -(-len(data) // most)
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("models.tar.*-of-*"):
        old.unlink()
    names = [f"models.tar.{index:02d}-of-{count:02d}" for index in range(count)]
    for index, name in enumerate(names):
        (out / name).write_bytes(data[index * most : (index + 1) * most])
    return names


def unpack(pieces: Path, out: Path) -> list[str]:
    """Put pieces together again, bit for bit; return the files written. Raises `MissingPart` when one is not there."""
    found = sorted(pieces.glob("models.tar.*-of-*"))
    count = int(found[0].name.rpartition("-")[2]) if found else 0
    if not found or len(found) != count:
        raise MissingPart(
            f"{pieces} holds {len(found)} of {count or 'the'} pieces models.tar.NN-of-MM; all of one call are needed. "
            "Copy them into one folder and name it."
        )
    with tarfile.open(fileobj=io.BytesIO(b"".join(p.read_bytes() for p in found)), mode="r:") as packed:
        packed.extractall(out, filter="data")
        return packed.getnames()


def take(given: Path, folder: Path) -> None:
    """Start a folder of models anew from a folder of pieces or of models."""
    shutil.rmtree(folder, ignore_errors=True)
    if list(given.glob("models.tar.*")):
        unpack(given, folder)
        return
    held = [part for part in PARTS if (given / part).is_dir()]
    if not held:
        raise MissingPart(f"given={given} holds neither pieces nor any of {', '.join(PARTS)}. Name a folder that does.")
    for part in held:
        shutil.copytree(given / part, folder / part)
    for notes in [path for part in held for path in (folder / part).rglob("training*.json")]:
        # another tier's weights have other shapes; pieces may lie beside them, a denoiser not having begun
        if notes.exists() and not json.loads(notes.read_text("utf-8"))["recipe"].startswith("gpu-"):
            shutil.rmtree(notes.parent)


def install(given: str, out: str = "") -> dict[str, Any]:
    """Put the pieces in `given` into `out` (assets/models); name what lies there beside them and is now out of date."""
    target = Path(out) if out else MODELS
    written = unpack(Path(given), target)
    shared = scorer.share(target / "emoji-scorer", target / scorer.TOWER.relative_to(MODELS))
    current = {*written, *(path.relative_to(target).as_posix() for path in shared)}
    roots = [target / part for part in PARTS]
    there = [p.relative_to(target).as_posix() for root in roots for p in sorted(root.rglob("*")) if p.is_file()]
    return {"written": len(written), "stale": [name for name in there if name not in current]}
