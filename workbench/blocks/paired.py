"""The same prompts and seeds drawn with and without edits, seen once and kept: what every before-and-after stands on.

A cell is a question (does the target still come? do its neighbours?) with some subjects; each subject has rows, whose
prompt and seed follow from the subject and the row's number alone. Rows are drawn in small pieces, and what was seen in
a piece is kept in the bundle's store under everything it depends on. So a stopped look goes on where it was, two
methods share their baseline, and more pictures cost only the further ones.
"""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from workbench.blocks.judging import Concept, Eye, Seen, concept, other_words, seen_of, world_of
from workbench.blocks.neighbours import suggest
from workbench.blocks.wording import parse
from workbench.blocks.world import World
from workbench.core.ask import Ask
from workbench.core.bundle import Bundle
from workbench.core.errors import AskError
from workbench.core.method import Edit, Sampler
from workbench.core.scene import Scene, using
from workbench.core.tape import Tap, ignore

PIECE = 8
EMOJI = (
    "{a style} emoji of {a thing} on a {ground} background",
    "{a thing}",
    "{a style} emoji of {a thing}",
    "an emoji of {a thing}",
    "{a thing} on a {ground} background",
)
PLAIN = ("{a thing}", "a photo of {a thing}", "a picture of {a thing}", "{a thing} on a white background", "{thing}")


@dataclass(frozen=True)
class Subject:
    """What a prompt names, `word`, and what the judge is to see for it."""

    word: str
    about: Concept


@dataclass(frozen=True)
class Cell:
    """A question: its name, its subjects, and how many pictures to draw, shared evenly (one each at least)."""

    name: str
    subjects: tuple[Subject, ...]
    pictures: int

    @property
    def each(self) -> int:
        """Pictures a subject."""
        return max(1, round(self.pictures / max(len(self.subjects), 1)))


def with_article(word: str) -> str:
    """A word with "a" or "an" before it.

    >>> with_article("owl"), with_article("cat face")
    ('an owl', 'a cat face')
    """
    return f"{'an' if word[:1].lower() in tuple('aeiou') else 'a'} {word}"


def prompts(world: World | None, subject: Subject, count: int, things: Sequence[str] = ()) -> list[str]:
    """The prompts of a subject's first `count` rows; the first k of more are the k of fewer.

    Templates, styles and backgrounds take turns at different paces. A style is asked for on `things` in turn; an object
    never in a style in which the world holds it back.
    """
    made: list[str] = []
    if world is None:
        ways = [way.format(**{"a thing": with_article(subject.word), "thing": subject.word}) for way in PLAIN]
        return [ways[row % len(ways)] for row in range(count)]
    styles = [s for s in world.styles if s not in world.split["held_out_styles"]]
    grounds = list(world.backgrounds)
    for row in range(count):
        thing, style = subject.word, styles[(row // 5 + row % 5) % len(styles)]
        if subject.about.style:
            thing, style = things[row % len(things)], subject.about.style
        else:
            open_ = [s for s in styles if all(world.seen(label, s) for label in subject.about.labels)]
            style = style if style in open_ or not open_ else open_[row % len(open_)]
        way = EMOJI[(0, 2)[row % 2] if subject.about.style else row % len(EMOJI)]
        ground = grounds[(row // 5 + 2 * (row % 5)) % len(grounds)]
        made.append(way.format(**{"a style": with_article(style), "a thing": with_article(thing), "ground": ground}))
    return made


@dataclass(frozen=True, eq=False)
class Piece:
    """Some rows of a subject of a cell, and the request that draws them."""

    cell: str
    subject: Subject
    start: int
    ask: Ask


def pieces(scene: Scene, world: World | None, cells: Sequence[Cell]) -> list[Piece]:
    """The cells' rows in small pieces; seeds count up from the scene's first."""
    things = [s.word for cell in cells for s in cell.subjects if not s.about.style and cell.name == "others"]
    things = things or list((world or world_of(scene.bundle)).tier[:8])
    made: list[Piece] = []
    for cell in cells:
        for subject in cell.subjects:
            lines = prompts(world, subject, cell.each, things)
            for start in range(0, cell.each, PIECE):
                rows = lines[start : start + PIECE]
                seeds = range(scene.ask.seeds[0] + start, scene.ask.seeds[0] + start + len(rows))
                ask = Ask(prompts=rows, seeds=list(seeds), negatives=scene.ask.negatives[0], size=scene.ask.size)
                made.append(Piece(cell.name, subject, start, ask))
    return made


@dataclass(frozen=True, eq=False)
class Drawn:
    """What was seen in a piece, and how many seconds drawing took per picture when it was drawn."""

    piece: Piece
    seen: Seen
    seconds: float


def _nobody(found: Drawn) -> None:
    """Tell nobody."""


@dataclass(frozen=True, eq=False)
class Gallery:
    """Draws pieces with a model, a sampler and an eye, or takes what was seen of them before.

    The first `kept` pictures of each piece are kept with it.
    """

    bundle: Bundle
    sampler: Sampler
    eye: Eye
    tap: Tap = ignore
    kept: int = 4

    def drawn(
        self, edits: Sequence[Edit], wanted: Sequence[Piece], told: Callable[[Drawn], None] | None = None
    ) -> list[Drawn]:
        """Every piece in order; the edits are entered once, and only when something is missing."""
        keys = [self._key(edits, piece) for piece in wanted]  # before the edits are in force and change what is asked
        kept = {i: found for i, piece in enumerate(wanted) if (found := self._kept(keys[i], piece)) is not None}
        tell = told or _nobody
        for found in kept.values():
            tell(found)
        missing = [i for i in range(len(wanted)) if i not in kept]
        if missing:
            self.sampler.check(self.bundle)
            with using(self.bundle, *edits, tap=self.tap) as edited:
                for i in missing:
                    kept[i] = self._draw(edited, keys[i], wanted[i])
                    tell(kept[i])
        return [kept[i] for i in range(len(wanted))]

    def _draw(self, edited: Bundle, key: str, piece: Piece) -> Drawn:
        began = time.perf_counter()
        images = self.sampler.sample(edited, piece.ask, self.tap)
        seconds = (time.perf_counter() - began) / len(piece.ask)
        seen = self.eye.look(images, self.kept)
        if self.bundle.store is not None:
            self.bundle.store.keep_tensors(key, seen.tensors(), {"seconds": repr(seconds)})
        return Drawn(piece, seen, seconds)

    def _kept(self, key: str, piece: Piece) -> Drawn | None:
        kept = None if self.bundle.store is None else self.bundle.store.tensors(key)
        return None if kept is None else Drawn(piece, seen_of(kept[0]), float(kept[1]["seconds"]))

    def _key(self, edits: Sequence[Edit], piece: Piece) -> str:
        bundle, ask = self.bundle, piece.ask
        about = [bundle.digest, str(bundle.dtype), list(bundle.seams.edits), [e.key for e in edits], self.sampler.key,
                 self.eye.key, self.kept, ask.prompts, ask.negatives, ask.seeds, ask.size]  # fmt: skip
        return "seen/" + hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32]


def targets(scene: Scene, given: Sequence[str], world: World, edits: Sequence[Edit] = ()) -> tuple[Concept, ...]:
    """The concepts under test: those given, else the edits' own `concepts`, else what the scene's prompt names.

    Raises `AskError` when there are none, or for a word that the judge has no name for.
    """
    own = [word for edit in (*scene.edits, *edits) for word in getattr(edit, "concepts", ())]
    words = list(dict.fromkeys(given or own))
    if not words:
        said = parse(world, scene.ask.prompts[0])
        words = [sorted(names)[0] for names in said.objects[:1]] or ([said.style] if said.style else [])
    if not words:
        raise AskError(
            f"It is not clear which concept is meant: none is given, no edit names one, and the prompt "
            f"{scene.ask.prompts[0][:60]!r} names no object of the world. Set concepts."
        )
    return tuple(concept(world, word) for word in words)


def cells(
    scene: Scene, world: World, about: Sequence[Concept], others: Sequence[str], pictures: int, near: int = 4
) -> list[Cell]:
    """The five questions of an erasure: target, synonyms, neighbours, others, styles; empty ones are left out.

    Neighbours are found by the text encoder among what the model knows; others are those given, or eight spread over
    the same; styles are the seen ones. None of them is a target or shares a label with one.
    """
    known = list(others) or _spread(world, scene.bundle)
    hit = frozenset[str]().union(*(c.labels for c in about))
    gone = {c.style for c in about}
    words = [c.word for c in about if not c.style]
    close = suggest(scene.bundle, words, 2 * near) if words and near else ()
    close = [word for word in close if not concept(world, word).labels & hit][:near]
    rest = [w for w in known if not concept(world, w).labels & hit and w not in close]
    styles = [s for s in world.styles if s not in gone and s not in world.split["held_out_styles"]]
    said = [Subject(w, c) for c in about for w in other_words(world, c)]
    found = {
        "target": [Subject(c.word, c) for c in about],
        "synonyms": said,
        "neighbours": [Subject(w, concept(world, w)) for w in close],
        "others": [Subject(w, concept(world, w)) for w in rest],
        "styles": [Subject(s, concept(world, s)) for s in styles] if scene.bundle.world is not None else [],
    }
    return [Cell(name, tuple(subjects), pictures) for name, subjects in found.items() if subjects]


def known(eye: Eye, found: Sequence[Cell]) -> list[Cell]:
    """The cells with those subjects alone that the judge can answer with."""
    kept = [replace(cell, subjects=tuple(s for s in cell.subjects if eye.knows(s.about))) for cell in found]
    return [cell for cell in kept if cell.subjects]


def _spread(world: World, bundle: Bundle, count: int = 8) -> list[str]:
    """Objects to stand for everything else: the first of the split's order, or evenly spread ones."""
    order = list(world.split.get("erase", {}).get("objects", ()))
    return order[:count] or [world.tier[i * len(world.tier) // count] for i in range(count)]
