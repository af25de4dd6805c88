"""What a judge and a scorer see in pictures, as numbers that can be kept, and whether it is a concept under test."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# torch's tolist and split carry no types

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from workbench.blocks.world import World
from workbench.core.bundle import Bundle, Images, Store
from workbench.core.errors import AskError, MissingPart
from workbench.ops.noise import row_generator

NONE = "none"


@functools.cache
def _shipped() -> World:
    return World.load()


def world_of(bundle: Bundle) -> World:
    """The bundle's world, or for a model that has none the shipped one, whose names the judge speaks."""
    return bundle.world if isinstance(bundle.world, World) else _shipped()


@dataclass(frozen=True)
class Concept:
    """A word under test: the objects that would be right for it, or the style that it names."""

    word: str
    labels: frozenset[str] = frozenset()
    style: str = ""


def concept(world: World, word: str) -> Concept:
    """What a word means in the world: a style, or every object of that name or synonym.

    Raises `AskError` for a word the judge has no name for.
    """
    plain = word.strip().lower()
    style = plain.removesuffix(" style").removesuffix(" emoji")
    if style in world.styles:
        return Concept(word.strip(), style=style)
    labels = frozenset(t.label for t in world.objects if plain in (t.label.lower(), *(s.lower() for s in t.synonyms)))
    if not labels:
        raise AskError(
            f"The judge has no name for {word[:60]!r}. It knows {len(world.concepts)} objects with their synonyms "
            f"(for example {', '.join(world.tier[:3])}) and the styles {', '.join(world.styles)}."
        )
    return Concept(word.strip(), labels)


def other_words(world: World, about: Concept) -> tuple[str, ...]:
    """Further words for a concept, synonyms and labels, that mean nothing else among the objects of the tier."""
    if about.style:
        return ()
    tier = frozenset(world.tier) | about.labels
    own = about.word.lower()
    mine = dict.fromkeys(w for t in world.objects if t.label in about.labels for w in (t.label, *t.synonyms))
    return tuple(w for w in mine if w.lower() != own and concept(world, w).labels & tier <= about.labels)


@dataclass(frozen=True, eq=False)
class Seen:
    """What was seen in n pictures: logits with a last column for "none", features, spread and roughness of pixels.

    `spread` is the standard deviation of a picture's pixels and `rough` the mean step between neighbouring ones, both
    in 0..1; `pictures` holds the first few.
    """

    objects: Float[Tensor, "n _o"]
    styles: Float[Tensor, "n _s"]
    features: Float[Tensor, "n _e"]
    spread: Float[Tensor, " n"]
    rough: Float[Tensor, " n"]
    pictures: UInt8[Tensor, "_k 3 _h _w"]

    def __len__(self) -> int:
        return len(self.objects)

    def tensors(self) -> dict[str, Tensor]:
        """Everything by name, to be kept."""
        return dict(vars(self))

    @classmethod
    def join(cls, parts: Sequence["Seen"]) -> "Seen":
        """Several as one."""
        return cls(**{name: torch.cat([getattr(part, name) for part in parts]) for name in vars(parts[0])})


class Eye:
    """A judge, and a scorer where one is named, that look at pictures row by row."""

    def __init__(self, bundle: Bundle, judge: str = "emoji-judge", scorer: str = "") -> None:
        self.judge = bundle.open(judge)
        self.scorer = bundle.open(scorer) if scorer else None
        self.names: list[str] = [*self.judge.about.get("objects", ()), NONE]
        self.ways: list[str] = [*self.judge.about.get("styles", ()), NONE]
        self.key = "+".join([self.judge.digest, "" if self.scorer is None else self.scorer.digest])

    @torch.no_grad()
    def look(self, images: Images, kept: int = 4) -> Seen:
        """What is seen in uint8 [B, 3, H, W] pictures; the first `kept` of them are kept."""
        pixels = images.float() / 127.5 - 1
        objects, styles = halves(_rows(self.judge, pixels), self.judge)
        if objects.shape[1] < len(self.names):  # a judge that knows no "none": it is never the answer
            objects, styles = (F.pad(half, (0, 1), value=-1e9) for half in (objects, styles))
        features = torch.zeros(len(images), 1) if self.scorer is None else _rows(self.scorer, pixels).float().cpu()
        unit = images.cpu().float() / 255
        rough = (unit.diff(dim=-1).abs().mean((1, 2, 3)) + unit.diff(dim=-2).abs().mean((1, 2, 3))) / 2
        spread = unit.flatten(1).std(1, correction=0)
        return Seen(objects, styles, features, spread, rough, images[:kept].cpu())

    def shows(self, seen: Seen, about: Concept) -> Bool[Tensor, " n"]:
        """Whether the likeliest answer is the concept: one of its objects, or its style."""
        if about.style:
            return seen.styles.argmax(1) == self.ways.index(about.style)
        right = torch.tensor([name in about.labels for name in self.names])
        return right[seen.objects.argmax(1)]

    def belief(self, seen: Seen, about: Concept) -> Float[Tensor, " n"]:
        """The judge's probability of the concept, 0..1."""
        if about.style:
            return seen.styles.softmax(1)[:, self.ways.index(about.style)]
        right = torch.tensor([name in about.labels for name in self.names])
        return seen.objects.softmax(1)[:, right].sum(1)

    def answers(self, seen: Seen, about: Concept) -> dict[str, int]:
        """How often each name was the likeliest, most frequent first, for pictures of such a concept."""
        logits, names = (seen.styles, self.ways) if about.style else (seen.objects, self.names)
        counts: dict[str, int] = {}
        for index in logits.argmax(1).tolist():
            counts[names[index]] = counts.get(names[index], 0) + 1
        return dict(sorted(counts.items(), key=lambda entry: -entry[1]))

    def knows(self, about: Concept) -> bool:
        """Whether the judge can answer with the concept at all."""
        return about.style in self.ways if about.style else bool(about.labels & set(self.names))


def halves(logits: Tensor, judge: Bundle) -> tuple[Tensor, Tensor]:
    """Object logits and style logits [B, n], each with a last column for "none" where the judge has it."""
    objects, styles = len(judge.about.get("objects", ())), len(judge.about.get("styles", ()))
    spare = logits.shape[1] - objects - styles
    if not objects or spare not in (0, 2):
        raise MissingPart(
            f"{judge.name} answers {logits.shape[1]} numbers for {objects} objects and {styles} styles, so they cannot "
            "be told apart. Is it an emoji judge?"
        )
    first = objects + spare // 2
    return logits[:, :first].float().cpu(), logits[:, first:].float().cpu()


def self_test(
    eye: Eye, world: World, concepts: Sequence[Concept], store: Store | None = None, most: int = 64
) -> tuple[int, int]:
    """How many true drawings of the concepts the judge names rightly, and of how many: the ceiling of its shares.

    Four drawings a concept, `most` at most; kept in the store, since the answer is the same for every edit.
    """
    unique = list(dict.fromkeys(concepts))
    mark = json.dumps([eye.judge.digest, most, [[c.word, sorted(c.labels), c.style] for c in unique]])
    key = "selftest/" + hashlib.sha256(mark.encode()).hexdigest()[:32]
    kept = None if store is None else store.json(key)
    if kept is not None:
        return int(kept[0]), int(kept[1])
    count = min(most, 4 * len(unique))
    hits = sum(_names_rightly(eye, world, unique[row % len(unique)], row) for row in range(count))
    if store is not None:
        store.keep_json(key, [hits, count])
    return hits, count


def _names_rightly(eye: Eye, world: World, about: Concept, row: int) -> bool:
    seed = int(torch.randint(1 << 31, (1,), generator=row_generator(row, "self test")))
    styles = [about.style] if about.style else None
    drawing = world.scenes(seed, 1, objects=sorted(about.labels) or None, styles=styles, two=0.0)[0]
    pixels = torch.from_numpy(drawing.picture.copy()).permute(2, 0, 1)[None]
    return bool(eye.shows(eye.look(pixels, 0), about))


def _rows(model: Bundle, pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B _n"]:
    """A model's answer row by row, so that none depends on its batch mates."""
    return torch.cat([model.encode(row) for row in pixels.to(model.device, model.dtype).split(1)])


def seen_of(tensors: Mapping[str, Tensor]) -> Seen:
    """What `Seen.tensors` kept."""
    return Seen(**{name: tensors[name] for name in Seen.__dataclass_fields__})
