"""Lists of concepts: reading and checking them, and how prompts of a model speak of them."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BeforeValidator

from workbench.blocks import wording
from workbench.blocks.spans import Phrase, tokens, words
from workbench.blocks.world import World
from workbench.core.bundle import Bundle, Site
from workbench.core.errors import AskError, MissingPart

MOST = 500

#: How prompts speak of a concept; `auto` asks the model's world, and takes an object where it has none.
Manner = Literal["auto", "object", "style"]

EMOJI = {
    "object": ("{}", "a {}", "an emoji of a {}", "a flat emoji of a {}", "a noto emoji of a {}", "a 3d emoji of a {}",
               "a {} on a white background"),
    "style": ("a {} emoji", "a {} emoji of a face", "a {} emoji of a heart", "a {} emoji of an animal"),
    "background": ("a {} background", "an emoji on a {} background"),
}  # fmt: skip
PLAIN = {
    "object": ("{}", "a {}", "a photo of a {}", "an image of a {}", "a picture of a {}", "a painting of a {}"),
    "style": ("{}", "a painting by {}", "art in the style of {}", "an artwork by {}", "a picture in {} style"),
}


def _several(value: object) -> object:
    return (value,) if isinstance(value, str) else value


#: A list of words in settings; one plain string is a list of one.
Names = Annotated[tuple[str, ...], BeforeValidator(_several)]


@dataclass(frozen=True)
class ConceptSet:
    """Checked: targets, each once; what stands in for each of them; and what must stay."""

    targets: tuple[str, ...]
    anchor: str = ""
    preserve: tuple[str, ...] = ()


def read_concepts(
    bundle: Bundle, method: str, concepts: Sequence[str], anchor: str = "", preserve: Sequence[str] = ()
) -> ConceptSet:
    """The concepts a method is to work on, cleaned of repetitions and of spaces around them.

    Raises `AskError`, in one line that begins with the method's name, for an empty or unknown concept, one that is its
    own anchor or in the preserve list, none at all, or more than 500.
    """
    targets, kept = _once(concepts), _once(preserve)
    if not targets or "" in targets:
        raise AskError(
            f"{method}: {'a concept' if targets else 'concepts'} is empty. Name at least one, such as 'cat'."
        )
    if len(targets) > MOST:
        raise AskError(
            f"{method}: there are {len(targets):,} concepts; at most {MOST} fit one edit without spoiling the rest. "
            "Name fewer."
        )
    lower = {word.lower() for word in targets}
    anchor = anchor.strip()
    if anchor.lower() in lower:
        raise AskError(
            f"{method}: {anchor!r} is to be erased and its own anchor, so nothing would change. Name another."
        )
    both = [word for word in kept if word.lower() in lower]
    if both:
        raise AskError(f"{method}: {both[0]!r} is to be erased and to be preserved. Take it out of one of the lists.")
    for word in (*targets, *kept, *([anchor] if anchor else [])):
        _refuse_unknown(bundle, method, word)
    return ConceptSet(targets, anchor, tuple(word for word in kept if word))


def text_sites(bundle: Bundle, method: str) -> tuple[Site, ...]:
    """The cross-attention sites, through which words reach the picture. Raises `MissingPart` where there are none."""
    found = bundle.sites("cross-attention")
    if not found:
        raise MissingPart(
            f"{method} edits cross-attention; {bundle.name} is a {bundle.family} model without any. Take a model "
            "of the Stable Diffusion family."
        )
    return found


def manner(bundle: Bundle, concept: str) -> str:
    """What the model's world takes a concept for: `style`, `background` or `object`."""
    world = _world(bundle)
    word = concept.strip().lower().removesuffix(" style")
    if world is not None and word in world.styles:
        return "style"
    return "background" if world is not None and word in world.backgrounds else "object"


def templates(bundle: Bundle, concept: str, manner_: Manner = "auto") -> tuple[str, ...]:
    """Prompts with `{}` for the concept, as the model's captions speak of such a concept."""
    known = PLAIN if _world(bundle) is None else EMOJI
    return known[manner(bundle, concept) if manner_ == "auto" else manner_]


def phrases(bundle: Bundle, concept: str, anchor: str, manner_: Manner = "auto") -> tuple[list[Phrase], list[Phrase]]:
    """The concept in each of its templates, and the anchor in the same ones; an empty anchor leaves the prompt empty
    where the concept was all there was to say."""
    ways = templates(bundle, concept, manner_)
    return [Phrase.of(way, concept) for way in ways], [Phrase.of(way, anchor) for way in ways]


def synonyms(bundle: Bundle, concept: str) -> tuple[str, ...]:
    """Other words of the model's world for a concept; none where it knows no world or no such object."""
    world = _world(bundle)
    if world is None:
        return ()
    word = concept.strip().lower()
    thing = next((t for t in world.objects if word == t.label.lower() or word in t.synonyms), None)
    if thing is None:
        return ()
    return tuple(other for other in (thing.label, *thing.synonyms) if other.lower() != word)


def _once(row: Sequence[str]) -> tuple[str, ...]:
    seen: dict[str, str] = {}
    for word in row:
        seen.setdefault(word.strip().lower(), word.strip())
    return tuple(seen.values())


def _world(bundle: Bundle) -> World | None:
    return bundle.world if isinstance(bundle.world, World) else None


def _refuse_unknown(bundle: Bundle, method: str, concept: str) -> None:
    read = tokens(bundle, concept)
    most = bundle.shapes.text[0] - 2
    if not read or len(read) >= most:
        why = f"is longer than the {most} tokens of a prompt" if read else "has no token in it"
        raise AskError(f"{method}: {concept[:60]!r} {why} that {bundle.name} reads. Use other words.")
    world = _world(bundle)
    if world is None:
        return
    known = _spoken(world)
    strange = [word for word in words(concept) if word not in known]
    if strange and not any(wording.parse(world, concept).objects):
        close = difflib.get_close_matches(concept.lower(), [*world.concepts, *known], n=3, cutoff=0.6)
        hint = f"Close: {', '.join(close)}." if close else "Its objects: workbench about."
        raise AskError(f"{method}: {bundle.name} has never read {strange[0]!r} (in {concept[:60]!r}). {hint}")


def _spoken(world: World) -> frozenset[str]:
    """Every word that the world's captions may hold."""
    texts = [text for thing in world.objects for text in (thing.label, *thing.synonyms)]
    return frozenset(word for text in (*texts, *world.styles, *world.backgrounds) for word in words(text)) | {
        "style",
        "background",
        "emoji",
    }
