"""What became of several adapters in one picture: who was to be seen, who was seen in either half, and what else moved.

A player is an adapter with the word that calls it and what the judge should then see. Prompts call one subject in a
style, or two subjects side by side; each picture is marked by what the judge says of it.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# what a judge's module answers carries no types

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.blocks.adapters import read_adapter
from workbench.blocks.judging import Concept, Eye, Seen, concept, world_of
from workbench.blocks.paired import PIECE, Cell, Drawn, Piece, Subject, with_article
from workbench.blocks.world import World
from workbench.core.ask import Ask
from workbench.core.bundle import Bundle, Images
from workbench.core.errors import AskError, MissingPart
from workbench.core.method import Edit
from workbench.core.report import Note, Panel, Picture, Table
from workbench.ops.stats import Interval, bootstrap, paired_difference, resampled, wilson

#: Cells of the judge's grid, of the 32 in a half, that have to speak for an object; one of the world covers about 12.
LEAST = 3.0
SHOWN = 8  # pictures of a way


@dataclass(frozen=True)
class Player:
    """An adapter, the word that calls it, and what the judge should see for it."""

    source: str
    word: str
    about: Concept


def cast(
    bundle: Bundle, sources: Sequence[str], subjects: Sequence[str] = (), triggers: Sequence[str] = ()
) -> tuple[Player, ...]:
    """The players of some adapters: what they stand for and what calls them as given, else as their files note.

    Raises `AskError` where neither says so.
    """
    for name, given in (("subjects", subjects), ("triggers", triggers)):
        if given and len(given) != len(sources):
            raise AskError(f"There are {len(sources)} adapters and {len(given)} {name}. Give one each, or none.")
    found: list[Player] = []
    for index, source in enumerate(sources):
        adapter = read_adapter(bundle, source)
        noted = adapter.training.get("object") or adapter.training.get("style") or ""
        subject = subjects[index] if subjects else str(noted)
        word = triggers[index] if triggers else adapter.trigger or subject
        if not subject:
            raise AskError(
                f"{source} does not say what it draws, so it cannot be judged. Set subjects, one an adapter."
            )
        found.append(Player(source, word, concept(world_of(bundle), subject)))
    return tuple(found)


def sources_of(edits: Sequence[Edit]) -> tuple[str, ...]:
    """The adapters that some edits use, each once, in order."""
    return tuple(dict.fromkeys(source for edit in edits for source in getattr(edit, "adapters", ())))


def silent(players: Sequence[Player], prompts: Sequence[str]) -> list[str]:
    """The words that call a player and are in none of some prompts."""
    said = " ".join(prompts).lower()
    return [player.word for player in players if player.word.lower() not in said]


# ------------------------------------------------------------------------------------------------------------- asking


def question(players: Sequence[Player]) -> str:
    """What can be asked of these players: `both` a subject and a style, `pair` two subjects, or `one`.

    Raises `AskError` for a cast that no question here is about.
    """
    styles = [player for player in players if player.about.style]
    subjects = len(players) - len(styles)
    if len(styles) > 1 or not 1 <= subjects + len(styles) <= 3 or subjects > 2:
        raise AskError(
            f"There are {subjects} subjects and {len(styles)} styles; one or two subjects, with a style or without, "
            "can be judged in a picture. Leave some adapters out."
        )
    if subjects == 2:
        return "pair"
    return "both" if styles and subjects else "one"


def requests(world: World, players: Sequence[Player], pictures: int, seed: int) -> list[Piece]:
    """The prompts of a question in small pieces; the first k rows of more are the k of fewer."""
    kind = question(players)
    subjects = [player for player in players if not player.about.style]
    manner = next((player.word for player in players if player.about.style), "")
    styles = [style for style in world.styles if style not in world.split["held_out_styles"]]
    grounds = list(world.backgrounds)
    lines: list[str] = []
    for row in range(pictures):
        style = styles[(row // 2) % len(styles)]
        thing = " and ".join(with_article(p.word) for p in subjects) or with_article(world.tier[row % len(world.tier)])
        ground = f" on a {grounds[(row // 2) % len(grounds)]} background" if row % 2 else ""
        if manner:  # a trigger that the text tower never read would cost the object, stood it in the style's place
            lines.append(f"an emoji of {thing}{ground}, {manner}")
        else:
            lines.append(f"{with_article(style)} emoji of {thing}{ground}" if row % 2 else f"{thing}{ground}")
    about = Subject(" and ".join(player.word for player in players), (subjects or list(players))[0].about)
    return [
        Piece(kind, about, start, Ask(prompts=lines[start : start + PIECE],
                                      seeds=[seed + row for row in range(start, min(start + PIECE, pictures))]))
        for start in range(0, pictures, PIECE)
    ]  # fmt: skip


def prior(world: World, others: Sequence[str], pictures: int) -> Cell:
    """Prompts that call no adapter: other objects, those given or four spread over what the model knows."""
    words = list(others) or [world.tier[i * len(world.tier) // 4] for i in range(4)]
    return Cell("prior", tuple(Subject(word, concept(world, word)) for word in words), pictures)


# ------------------------------------------------------------------------------------------------------------- judging


class Halves(Eye):
    """A judge that looks at the left and at the right half by the cells of its grid.

    What it says of the halves is in `Seen.features` [n, 2 objects]: for either half how many of its cells, by their
    beliefs, show each object.
    """

    def __init__(self, bundle: Bundle, judge: str = "emoji-judge") -> None:
        super().__init__(bundle, judge)
        self.key += "+halves"

    def look(self, images: Images, kept: int = 4) -> Seen:
        """What is seen in uint8 [B, 3, H, W] pictures as a whole and in their halves."""
        seen = super().look(images, kept)
        pixels = images.float() / 127.5 - 1
        rows = [self._halves(row) for row in pixels.split(1)]
        return Seen(**{**seen.tensors(), "features": torch.cat(rows)})

    @torch.no_grad()
    def _halves(self, pixels: Float[Tensor, "1 3 H W"]) -> Float[Tensor, "1 n"]:
        model = next(iter(self.judge.parts.values()))
        verdict = model(pixels.to(self.judge.device, self.judge.dtype))
        if not hasattr(verdict, "cells"):
            raise MissingPart(f"{self.judge.name} judges whole pictures alone, so it cannot tell two subjects apart.")
        beliefs = verdict.cells.float().softmax(1)[:, :-1].cpu()
        middle = beliefs.shape[-1] // 2
        return torch.cat([beliefs[..., :middle].sum((2, 3)), beliefs[..., middle:].sum((2, 3))], 1)


def paired_marks(
    halves: Float[Tensor, "n m"], names: Sequence[str], one: Concept, other: Concept
) -> dict[str, Bool[Tensor, " n"]]:
    """What two subjects came to, picture by picture, from the judge's beliefs in either half.

    A half shows the object with most cells, where those are `LEAST` or more. `pair`: one half shows the one and one
    the other. `missing`: one of them is shown by no half. `duplicate`: both halves show the same one of them. `leak`:
    a half has `LEAST` cells or more of both.
    """
    left, right = halves.chunk(2, 1)
    shown: list[list[Tensor]] = []
    mixed = torch.zeros(len(halves), dtype=torch.bool)
    for side in (left, right):
        top = side.max(1)
        sure = top.values >= LEAST
        which = [torch.tensor([name in about.labels for name in names[: side.shape[1]]]) for about in (one, other)]
        shown.append([sure & mask[top.indices] for mask in which])
        mixed |= (side[:, which[0]].sum(1) >= LEAST) & (side[:, which[1]].sum(1) >= LEAST)
    (left_one, left_other), (right_one, right_other) = shown
    return {
        "pair": (left_one & right_other) | (left_other & right_one),
        "missing": ~(left_one | right_one) | ~(left_other | right_other),
        "duplicate": (left_one & right_one) | (left_other & right_other),
        "leak": mixed,
    }


def marks(eye: Eye, players: Sequence[Player], drawn: Sequence[Drawn]) -> dict[str, Bool[Tensor, " n"]]:
    """What the judge says of every picture: `subject`, `style`, `both`; of two subjects what `paired_marks` says."""
    seen = Seen.join([part.seen for part in drawn])
    subjects = [player.about for player in players if not player.about.style]
    style = next((player.about for player in players if player.about.style), None)
    found: dict[str, Tensor] = {}
    if len(subjects) == 2:
        found |= paired_marks(seen.features, eye.names, *subjects)
    elif subjects:
        found["subject"] = eye.shows(seen, subjects[0])
    if style is not None:
        found["style"] = eye.shows(seen, style)
    if "subject" in found and "style" in found:
        found["both"] = found["subject"] & found["style"]
    return found


@dataclass(frozen=True, eq=False)
class Composed:
    """What a way of composing came to: marks of every picture; of prompts that call nobody whether they came out right
    before and after and how far they moved; seconds a picture; a few pictures."""

    name: str
    marks: Mapping[str, Bool[Tensor, " n"]]
    before: Bool[Tensor, " p"]
    after: Bool[Tensor, " p"]
    drift: Float[Tensor, " p"]
    seconds: float
    pictures: Sequence[Images] = field(default_factory=tuple)

    @property
    def leading(self) -> str:
        """The mark that says whether all adapters are there."""
        return next(mark for mark in ("pair", "both", "subject", "style") if mark in self.marks)


def composed(
    name: str, eyes: tuple[Eye, Eye], players: Sequence[Player], asked: Sequence[Drawn],
    calm: tuple[Sequence[Drawn], Sequence[Drawn]]) -> Composed:  # fmt: skip
    """The outcome of a way, from what was seen of the question, and of prompts that call nobody before and after."""
    one, two = (torch.cat([part.seen.features for part in row] or [torch.zeros(0, 1)]).double() for row in calm)
    drift = 1 - torch.nn.functional.cosine_similarity(one, two, dim=1)
    seconds = sum(part.seconds for part in asked) / max(len(asked), 1)
    shown = [part.seen.pictures for part in asked]
    before, after = (right(eyes[1], row) for row in calm)
    return Composed(name, marks(eyes[0], players, asked), before, after, drift, seconds, shown)


def right(eye: Eye, drawn: Sequence[Drawn]) -> Bool[Tensor, " n"]:
    """Whether each picture shows the object that was asked for."""
    none = torch.zeros(0, dtype=torch.bool)
    return torch.cat([none, *(eye.shows(part.seen, part.piece.subject.about) for part in drawn)])


def difference(before: Bool[Tensor, " n"], after: Bool[Tensor, " n"]) -> tuple[float, float, float]:
    """Share after minus share before of the same rows, with Newcombe's interval."""
    counts = [int((one & two).sum()) for one in (before, ~before) for two in (after, ~after)]
    return paired_difference(counts[0], counts[1], counts[2], counts[3])


# ---------------------------------------------------------------------------------------------------------- reporting


def numbers(found: Composed, first: Composed | None = None) -> dict[str, float]:
    """Every share of a way with its interval, and what it gained over another in the leading one."""
    made: dict[str, float] = {}
    prior = (("prior", found.after),) if len(found.after) else ()
    for mark, values in (*found.marks.items(), *prior):
        share, (low, high) = shares(values)
        made |= {mark: share, f"{mark}_low": low, f"{mark}_high": high}
    if "both" in found.marks:
        made["product"] = made["subject"] * made["style"]
    if len(found.after):
        loss, low, high = difference(found.before, found.after)
        made |= {"prior_loss": 0.0 - loss, "prior_loss_low": 0.0 - high, "prior_loss_high": 0.0 - low}
        low, high = bootstrap(found.drift)
        made |= {"drift": float(found.drift.mean()), "drift_low": low, "drift_high": high}
    if first is not None:
        gain, low, high = difference(first.marks[first.leading], found.marks[found.leading])
        made |= {"gain": gain, "gain_low": low, "gain_high": high}
        if "both" in found.marks:
            gain, low, high = product_gain(first.marks, found.marks)
            made |= {"product_gain": gain, "product_gain_low": low, "product_gain_high": high}
    return made


def product_gain(
    before: Mapping[str, Bool[Tensor, " n"]], after: Mapping[str, Bool[Tensor, " n"]]
) -> tuple[float, float, float]:
    """How much share of subject x share of style grew on the same rows, with a 95 % bootstrap interval over rows."""

    def gains(rows: Int[Tensor, "d n"]) -> Float[Tensor, " d"]:
        one, two = (
            side["subject"].double()[rows].mean(1) * side["style"].double()[rows].mean(1) for side in (before, after)
        )
        return two - one

    return resampled(gains, len(before["subject"]))


def shares(values: Bool[Tensor, " n"]) -> tuple[float, Interval]:
    """The share of true values, and Wilson's interval."""
    hits = int(values.sum())
    return hits / max(len(values), 1), wilson(hits, len(values))


def panels(
    players: Sequence[Player], found: Sequence[Composed], ceiling: tuple[int, int], unsaid: Sequence[str]
) -> tuple[Panel, ...]:
    """Warnings, a row a way, who plays, and a few pictures of the same prompts a way."""
    made: list[Panel] = [Note(text, "Warning") for text in _warnings(found, ceiling, unsaid)]
    made.append(_table(found))
    rows = tuple((p.source, p.word, p.about.style or p.about.word) for p in players)
    made.append(Table(("adapter", "word in the prompt", "the judge should see"), rows, "Who plays"))
    hits, total = ceiling
    low, high = wilson(hits, total)
    made.append(Note(
        f"Of {total} true drawings of these the judge names {hits / max(total, 1):.0%} rightly ({low:.0%} to {high:.0%}"
        "): no share above can mean more than that.", "Ceiling"))  # fmt: skip
    for one in (each for each in found if each.pictures):
        strip = torch.cat(list(one.pictures))[:SHOWN]
        if len(strip):
            made.append(Picture(np.ascontiguousarray(strip.permute(2, 0, 3, 1).flatten(1, 2).numpy()), one.name))
    return tuple(made)


def _table(found: Sequence[Composed]) -> Table:
    marked = list(found[0].marks)
    rows: list[tuple[str | int | float, ...]] = []
    for one in found:
        cells = [_told(one.marks[mark]) for mark in marked]
        values = numbers(one, found[0])
        gain = (
            ""
            if one is found[0]
            else f"{values['gain']:+.0%} ({values['gain_low']:+.0%} to {values['gain_high']:+.0%})"
        )
        loss = f"{values['prior_loss']:+.0%} ({values['prior_loss_low']:+.0%} to {values['prior_loss_high']:+.0%})"
        drift = f"{values['drift']:.3f} ({values['drift_low']:.3f} to {values['drift_high']:.3f})"
        rows.append((one.name, *cells, gain, _told(one.after), loss, drift, round(one.seconds, 3)))
    head = ("way", *marked, f"gain in {found[0].leading}", "prior", "prior lost", "drift", "seconds a picture")
    return Table(head, tuple(rows), f"Ways on the same {len(found[0].marks[marked[0]])} prompts and seeds")


def _told(values: Bool[Tensor, " n"]) -> str:
    share, (low, high) = shares(values)
    return f"{share:.0%} ({low:.0%} to {high:.0%})"


def _warnings(found: Sequence[Composed], ceiling: tuple[int, int], unsaid: Sequence[str]) -> list[str]:
    lines: list[str] = []
    if unsaid:
        words = ", ".join("`" + word.replace("`", "'") + "`" for word in unsaid)
        lines.append(f"The scene's own prompts do not say {words}, so the adapters they call will hardly show there.")
    if ceiling[0] < 0.8 * ceiling[1]:
        lines.append(f"The judge names {ceiling[0]} of {ceiling[1]} true drawings rightly: shares here say little.")
    if len(found[0].after) and shares(found[0].before)[0] < 0.5:
        lines.append(
            f"Without adapters {shares(found[0].before)[0]:.0%} of plain prompts come out right, so what is lost of "
            "them says little."
        )
    return lines
