"""The emoji world: 738 objects in seven styles on eight backgrounds, with captions, masks and layers that are exact.

Everything drawn follows from a seed alone, so a metric can always be given its truth again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workbench.blocks.drawing import Pixels, Sheet, bounds, compose, place, resize
from workbench.core.places import ASSETS

STYLES = ("flat", "noto", "blob", "twemoji", "ink", "3d", "emojione")
BACKGROUNDS = {
    "white": (255, 255, 255),
    "black": (0, 0, 0),
    "red": (214, 48, 49),
    "blue": (45, 100, 220),
    "green": (60, 165, 75),
    "yellow": (250, 212, 60),
    "purple": (130, 70, 175),
    "pink": (250, 160, 190),
}
BASE = 128


@dataclass(frozen=True)
class Thing:
    """One object of the world."""

    name: str
    label: str
    synonyms: tuple[str, ...]
    group: str
    code: str


@dataclass(frozen=True)
class Layer:
    """One object as drawn: its tight box (x0, y0, x1, y1), visible coverage [H, W] in 0..1, and RGBA [H, W, 4]."""

    object: str
    style: str
    box: tuple[int, int, int, int]
    alpha: NDArray[np.float32]
    picture: Pixels


@dataclass(frozen=True)
class Drawing:
    """A scene: picture uint8 [H, W, 3], its caption, and what it is made of, left to right."""

    picture: Pixels
    caption: str
    layers: tuple[Layer, ...]
    background: str
    style: str


@dataclass(frozen=True)
class Jitter:
    """How freely scenes are laid out, in fractions of the canvas."""

    single: tuple[float, float] = (0.72, 0.92)
    pair: tuple[float, float] = (0.42, 0.5)
    shift: float = 0.04
    loose: float = 0.12
    small: tuple[float, float] = (0.35, 0.7)


@dataclass(frozen=True)
class Plan:
    """What to draw, before it is drawn: labels left to right, style, background, frames (left, top, side)."""

    objects: tuple[str, ...]
    style: str
    background: str
    frames: tuple[tuple[float, float, float], ...]


def article(word: str, draw: np.random.Generator) -> str:
    """Put "a" or "an" before a word; before a vowel either, since people write both."""
    return f"{'an' if word[0].lower() in 'aeiou' and draw.random() < 0.6 else 'a'} {word}"


@dataclass(frozen=True)
class World:
    """The drawings under one folder (assets/world); `World.load()` reads the shipped ones."""

    folder: Path
    objects: tuple[Thing, ...]
    split: dict[str, Any]
    licences: dict[str, str]
    styles: tuple[str, ...] = STYLES
    backgrounds: dict[str, tuple[int, int, int]] = field(default_factory=lambda: dict(BACKGROUNDS))

    @classmethod
    def load(cls, folder: str | Path | None = None) -> World:
        """Read the names and the split; drawings are rasterised when asked for."""
        root = Path(folder) if folder else ASSETS / "world"
        rows: list[dict[str, Any]] = json.loads((root / "objects.json").read_text("utf-8"))
        things = tuple(Thing(r["name"], r["label"], tuple(r["synonyms"]), r["group"], r["code"]) for r in rows)
        split = json.loads((root / "split.json").read_text("utf-8"))
        return cls(root, things, split, json.loads((root / "licences.json").read_text("utf-8")))

    @cached_property
    def _by_label(self) -> dict[str, Thing]:
        return {thing.label: thing for thing in self.objects}

    @cached_property
    def _sheets(self) -> dict[str, Sheet]:
        return {style: Sheet(style, self.folder) for style in self.styles}

    @cached_property
    def _hidden(self) -> frozenset[tuple[str, str]]:
        pairs: list[list[str]] = self.split["held_out_pairs"]
        return frozenset((label, style) for label, style in pairs)

    @property
    def concepts(self) -> tuple[str, ...]:
        """The labels of all objects."""
        return tuple(thing.label for thing in self.objects)

    @property
    def tier(self) -> tuple[str, ...]:
        """The labels the shipped CPU-trained model has seen."""
        return (*self.split["cpu"], *self.split["cpu_extra"])

    def thing(self, label: str) -> Thing:
        """Find an object by label or icon name; raises KeyError with the asked word."""
        if label in self._by_label:
            return self._by_label[label]
        return next((t for t in self.objects if t.name == label), None) or self._by_label[label]

    def synonyms(self, label: str) -> tuple[str, ...]:
        """Return other words for an object."""
        return self.thing(label).synonyms

    def seen(self, label: str, style: str) -> bool:
        """Say whether base training may draw this object in this style."""
        held = label in self.split["held_out_objects"] or style in self.split["held_out_styles"]
        return not held and (label, style) not in self._hidden

    def sprite(self, object: str, style: str, size: int) -> Pixels:
        """Return one drawing, uint8 RGBA [size, size, 4], straight alpha, read-only."""
        return self._sheets[style].sprite(self.thing(object).name, size)

    def plan(
        self,
        draw: np.random.Generator,
        objects: Sequence[str] | None = None,
        styles: Sequence[str] | None = None,
        *,
        backgrounds: Sequence[str] | None = None,
        two: float = 0.3,
        held_out: bool = False,
        jitter: Jitter = Jitter(),
    ) -> Plan:
        """Choose a scene. Without names: from what training may see, or from everything with `held_out`.

        Names given are honoured as they stand; a style in which an object is held out is avoided where another is left.
        """
        kept = [t.label for t in self.objects if held_out or t.label not in self.split["held_out_objects"]]
        pool = [self.thing(name).label for name in objects] if objects else kept
        count = 2 if draw.random() < two and len(pool) > 1 else 1
        chosen: list[str] = [pool[int(i)] for i in draw.choice(len(pool), count, replace=False)]
        ways = list(styles or [s for s in self.styles if held_out or s not in self.split["held_out_styles"]])
        open_ways = [s for s in ways if held_out or not any((label, s) in self._hidden for label in chosen)]
        style = (open_ways or ways)[draw.integers(len(open_ways or ways))]
        grounds = list(backgrounds or self.backgrounds)
        # white is the commonest ground, so that a prompt that names none usually gets it
        weight = np.array([3.0 if word == "white" else 1.0 for word in grounds])
        ground = grounds[draw.choice(len(grounds), p=weight / weight.sum())]
        return Plan(tuple(chosen), style, ground, tuple(_frames(draw, count, jitter)))

    def draw(self, plan: Plan, size: int = 128) -> tuple[Pixels, list[Pixels], list[NDArray[np.float32]]]:
        """Draw a plan: picture RGB [size, size, 3], layers RGBA, visible coverages [size, size]."""
        layers: list[Pixels] = []
        for label, (left, top, side) in zip(plan.objects, plan.frames, strict=True):
            sprite = self.sprite(label, plan.style, max(BASE, size))
            if plan.style == "ink" and plan.background == "black":
                sprite = sprite.copy()
                sprite[..., :3] = 255 - sprite[..., :3]  # black ink on black would be nothing
            layers.append(
                place(resize(sprite, max(round(side * size), 1)), size, round(left * size), round(top * size))
            )
        picture, covers = compose(layers, self.backgrounds[plan.background])
        return picture, layers, covers

    def caption(self, draw: np.random.Generator, objects: Sequence[str], style: str, background: str) -> str:
        """Say a scene in one of the ways people might: parts left out at random, a synonym now and then."""
        return self.say(draw, objects, style, background)[0]

    def say(
        self, draw: np.random.Generator, objects: Sequence[str], style: str, background: str
    ) -> tuple[str, bool, bool]:
        """Return a caption, and whether it names the style and the background."""
        words: list[str] = []
        for label in objects:
            other = self.synonyms(label)
            words.append(other[draw.integers(len(other))] if other and draw.random() < 0.3 else label)
        named, grounded = draw.random() < 0.8, draw.random() < 0.75
        said = " and ".join(article(word, draw) for word in words)
        if named:
            said = f"{article(style, draw)} emoji of {said}"
        elif draw.random() < 0.3:
            said = f"an emoji of {said}"
        elif len(words) == 1 and draw.random() < 0.3:
            said = words[0]
        return (f"{said} on a {background} background" if grounded else said), named, grounded

    def scenes(
        self,
        seed: int,
        count: int = 1,
        *,
        objects: Sequence[str] | None = None,
        styles: Sequence[str] | None = None,
        backgrounds: Sequence[str] | None = None,
        two: float = 0.3,
        size: int = 128,
        held_out: bool = False,
        jitter: Jitter = Jitter(),
    ) -> tuple[Drawing, ...]:
        """Draw scenes that follow from the seed alone; the first k of a longer row are the row of k."""
        made: list[Drawing] = []
        for index in range(count):
            draw = np.random.default_rng((seed, index))
            plan = self.plan(draw, objects, styles, backgrounds=backgrounds, two=two, held_out=held_out, jitter=jitter)
            caption = self.caption(draw, plan.objects, plan.style, plan.background)
            picture, pictures, covers = self.draw(plan, size)
            layers = tuple(
                Layer(label, plan.style, bounds(cover), cover, layer)
                for label, cover, layer in zip(plan.objects, covers, pictures, strict=True)
            )
            made.append(Drawing(picture, caption, layers, plan.background, plan.style))
        return tuple(made)


def _frames(draw: np.random.Generator, count: int, jitter: Jitter) -> list[tuple[float, float, float]]:
    """Lay out one object about the centre (or, now and then, small and anywhere), or two side by side."""
    if count == 2:
        frames: list[tuple[float, float, float]] = []
        for half in (0.25, 0.75):
            side = draw.uniform(*jitter.pair)
            x, y = half + draw.uniform(-0.01, 0.01), 0.5 + draw.uniform(-1, 1) * jitter.shift
            frames.append((x - side / 2, y - side / 2, side))
        return frames
    if draw.random() < jitter.loose:
        side = draw.uniform(*jitter.small)
        return [(draw.uniform(0, 1 - side), draw.uniform(0, 1 - side), side)]
    side = draw.uniform(*jitter.single)
    x, y = 0.5 + draw.uniform(-1, 1) * jitter.shift, 0.5 + draw.uniform(-1, 1) * jitter.shift
    return [(x - side / 2, y - side / 2, side)]
