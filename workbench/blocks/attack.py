"""Attacks on an erasure: trials on the same seeds before and after, learned tokens put into prompts, success rates."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# torch's tolist carries no types

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from workbench.blocks.denoise import condition, picture_size
from workbench.blocks.judging import Concept, Eye, Seen, world_of
from workbench.blocks.paired import PIECE, Gallery, Piece, Subject, prompts, targets
from workbench.blocks.pools import Kernel
from workbench.blocks.spans import tokens
from workbench.core.ask import Ask
from workbench.core.bundle import Bundle, Condition, Images
from workbench.core.errors import AskError, MissingPart
from workbench.core.fields import Role
from workbench.core.patch import Patch
from workbench.core.report import Note, Panel, Picture, Report, Table
from workbench.core.scene import Scene, using
from workbench.ops.noise import row_generator
from workbench.ops.stats import wilson

#: Words that no prompt of ours holds and that are one token in most vocabularies: the first that fits is the place.
SPARE = ("q", "z", "x", "*", "~", "j", "k", "v")

Sought = Annotated[
    tuple[str, ...],
    Role("concepts"),
    Field(description="What should come back (the first counts); empty takes the edits' own, or the prompt's."),
]
Judge = Annotated[str, Role("model"), Field(description="The model that says what is shown.")]


@dataclass(frozen=True, eq=False)
class Target:
    """What is attacked: the concept, how it is judged, the trials' request, and their pictures before the edit."""

    about: Concept
    eye: Eye
    ask: Ask
    before: Seen
    base: Images


def aim(scene: Scene, words: Sequence[str], trials: int, judge: str) -> Target:
    """The first concept of a scene (or of `words`) with as many prompts as trials, drawn by the unedited model."""
    about = targets(scene, words, world_of(scene.bundle))[0]
    eye = Eye(scene.bundle, judge)
    if not eye.knows(about):
        raise AskError(f"{judge} has no answer for {about.word!r}, so an attack on it cannot be judged by it.")
    lines = prompts(scene.bundle.world, Subject(about.word, about), trials, world_of(scene.bundle).tier[:8])
    ask = Ask(prompts=lines, seeds=[scene.ask.seeds[0] + i for i in range(trials)], negatives=scene.ask.negatives[0],
              size=scene.ask.size)  # fmt: skip
    gallery = Gallery(scene.bundle, scene.sampler, eye, scene.tap, kept=PIECE)
    subject = Subject(about.word, about)
    wanted = [Piece("target", subject, start, rows_of(ask, start)) for start in range(0, trials, PIECE)]
    seen = Seen.join([found.seen for found in gallery.drawn((), wanted)])
    return Target(about, eye, ask, seen, seen.pictures)


def rows_of(ask: Ask, start: int, count: int = PIECE) -> Ask:
    """Some rows of a request."""
    at = slice(start, start + count)
    return ask.but(prompts=ask.prompts[at], seeds=ask.seeds[at], negatives=ask.negatives[at])


@torch.no_grad()
def latents(bundle: Bundle, pictures: Images) -> Float[Tensor, "n C h w"]:
    """Pictures as clean latents, without the encoder's noise, in float32."""
    pixels = pictures.to(bundle.device).float() / 127.5 - 1
    return bundle.encode(pixels).float()


def told(bundle: Bundle, prompt: str, rows: int, ask: Ask) -> Condition:
    """What the network is told when every one of `rows` rows has one prompt; keeps the way back to learned tokens."""
    one = Ask(prompts=[prompt], seeds=[ask.seeds[0]], size=ask.size)
    return condition(bundle, one, False, picture_size(bundle, one)).rows([0] * rows)


def misfit(
    bundle: Bundle, cond: Condition, clean: Float[Tensor, "n C h w"], t: Tensor, noise: Float[Tensor, "n C h w"]
) -> Float[Tensor, ""]:
    """Mean squared error of the network on noised clean latents, against what a perfect one would predict."""
    x, truth = Kernel.of(bundle).noised(clean, noise, t)
    made = bundle.predict(x.to(bundle.dtype), t.to(x.device), cond)
    return (made.float() - truth).square().mean()


def lesson(clean: Tensor, batch: int, seed: int, index: int, total: int = 1000) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, timesteps (one in each of `batch` equal stretches) and noise of the index-th step of an optimisation."""
    draw = row_generator(seed, "attack", index)
    rows = torch.randint(len(clean), (batch,), generator=draw)
    t = ((torch.arange(batch) + torch.rand(batch, generator=draw)) / batch * total).long().clamp(0, total - 1)
    noise = torch.randn((batch, *clean.shape[1:]), generator=draw)
    return clean[rows], t, noise.to(clean)


# ----------------------------------------------------------------------------------------------------- learned tokens


def tables(bundle: Bundle) -> list[nn.Embedding]:
    """The token tables of the text encoders, one each. Raises `MissingPart` where there is none."""
    found: list[nn.Embedding] = []
    for name, part in bundle.parts.items():
        rows = [m for m in part.modules() if isinstance(m, nn.Embedding)] if name.startswith("text") else []
        found += [max(rows, key=lambda table: table.num_embeddings)] if rows else []
    if not found:
        raise MissingPart(f"{bundle.name} has no text encoder with a table of tokens, so no token can be learned.")
    return found


def place(bundle: Bundle, avoid: Sequence[str] = ()) -> tuple[str, int]:
    """A word that is one token and occurs in none of some prompts, and its id: learned tokens stand in for it."""
    used = {token for prompt in dict.fromkeys(avoid) for token in tokens(bundle, prompt)}
    for word in SPARE:
        ids = tokens(bundle, word)
        if len(ids) == 1 and ids[0] not in used and tokens(bundle, f"{word} {word}") == ids * 2:
            return word, ids[0]
    raise AskError(f"None of {', '.join(SPARE)} is a token of its own for {bundle.name}, so no place can be kept.")


@contextmanager
def learned(bundle: Bundle, token: int, rows: Callable[[], Sequence[Tensor]]) -> Generator[None]:
    """For a while, the i-th occurrence of a token in a prompt reads as row i of `rows()`, one tensor [k, D] a table.

    Gradients flow into the rows. A prompt must hold the token k times or never.
    """

    def reader(index: int) -> Callable[..., Tensor | None]:
        def after(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor | None:
            ids: Tensor = args[0] if args else kwargs["input"]
            at = ids == token
            if not at.any():
                return None
            values = rows()[index]
            if any(count not in (0, len(values)) for count in at.sum(-1).tolist()):
                raise AskError(f"A prompt must hold all {len(values)} learned tokens. Shorten the prompt.")
            fill = values.to(output).repeat(int(at.sum()) // len(values), 1)
            return output.masked_scatter(at[..., None].expand_as(output), fill)

        return after

    with Patch(bundle) as patch:
        for index, table in enumerate(tables(bundle)):
            patch.hook(table, reader(index))
        yield


# ------------------------------------------------------------------------------------------------------------ success


@dataclass(frozen=True)
class Trial:
    """One prompt and seed: whether the concept showed unasked for help (`pre`), whether the attack brought it back."""

    prompt: str
    seed: int
    pre: bool
    hit: bool
    used: str = ""


def rates(trials: Sequence[Trial], able: float) -> dict[str, float]:
    """pre = shown without attack / N; post = brought back by the attack where it was not shown / N; asr is their sum.

    Wilson's interval is that of asr; `able` is the unedited model's own share.
    """
    count = len(trials)
    pre = sum(trial.pre for trial in trials)
    post = sum(trial.hit and not trial.pre for trial in trials)
    low, high = wilson(pre + post, count)
    return {"pre": pre / count, "post": post / count, "asr": (pre + post) / count, "asr_low": low, "asr_high": high,
            "unedited": able, "count": float(count)}  # fmt: skip


def attacked(
    target: Target, trials: Sequence[Trial], pictures: tuple[Images, Images], extra: Sequence[Panel] = ()
) -> Report:
    """The report of an attack: what it found, its prompts to take away, pictures (unedited, edited, attacked)."""
    able = float(target.eye.shows(target.before, target.about).float().mean())
    found = rates(trials, able)
    rows = tuple((t.prompt, t.seed, "shown" if t.pre else "gone", "back" if t.hit else "gone", t.used) for t in trials)
    text = (
        f"Success: the judge {target.eye.judge.name} {target.eye.judge.digest[:8]} names {target.about.word}. "
        f"ASR = (pre + post) / N = ({found['pre']:.0%} + {found['post']:.0%}), N = {len(trials)}, "
        f"interval {found['asr_low']:.0%} to {found['asr_high']:.0%}; the unedited model shows it in {able:.0%}."
    )
    strips = (target.base, *pictures)
    shown = np.concatenate([_strip(row) for row in strips if len(row)], 0)
    panels = (
        Note(text, "How it was judged"),
        *extra,
        Table(("prompt", "seed", "without attack", "with it", "adversarial prompt"), rows, "Trials"),
        Picture(shown, "Unedited, edited, attacked; the same seeds"),
    )
    return Report(panels, found)


def _strip(pictures: Images, most: int = 8) -> np.ndarray:
    return np.concatenate([picture.permute(1, 2, 0).cpu().numpy() for picture in pictures[:most]], 1)


def drawn(scene: Scene, bundle: Bundle, ask: Ask) -> Images:
    """Draw a request on a bundle whose edits are in force already, some rows at a time."""
    starts = range(0, len(ask), PIECE)
    return torch.cat([scene.sampler.sample(bundle, rows_of(ask, start), scene.tap) for start in starts])


@contextmanager
def edited(scene: Scene) -> Generator[Bundle]:
    """The scene's bundle with its edits in force, fitted once for everything that an attack draws."""
    scene.sampler.check(scene.bundle)
    with using(scene.bundle, *scene.edits, tap=scene.tap) as bundle:
        yield bundle
