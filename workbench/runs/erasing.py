"""What a face for erasing needs: which methods erase, report and attack, what lies near a concept, an export to send.

Methods are told by topic, kind and the roles of their settings, never by name.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from workbench.blocks.judging import concept, other_words, world_of
from workbench.blocks.neighbours import suggest
from workbench.blocks.paired import with_article
from workbench.blocks.pictures import open_picture
from workbench.blocks.world import World
from workbench.core.bundle import Bundle
from workbench.core.catalog import catalog, find
from workbench.core.errors import AskError, MissingPart
from workbench.core.fields import Control, controls
from workbench.core.method import Edit, Lens, Method
from workbench.core.report import Note, Report
from workbench.runs.export import Format, export_model

TOPIC, REPORTS = "erase", "measure"
#: Forms in which an edit can be taken along, by what a person calls them.
FORMS: dict[str, Format] = {"Whole model (zip)": "diffusers", "Delta": "delta", "LoRA": "lora"}


def _with(cls: type[Method], role: str) -> Control | None:
    return next((control for control in controls(cls) if control.role == role), None)


def _compares(cls: type[Method]) -> Control | None:
    """The setting that takes further edits, which a report has and an attack has not."""
    return next((c for c in controls(cls) if c.of_kind == "edit" and c.kind == "list"), None)


def erasers() -> tuple[type[Edit], ...]:
    """The edits that take concepts away: quick changes of weights, then what acts while drawing, then trained ones."""
    found = [cls for cls in catalog(topic=TOPIC, kind="edit") if issubclass(cls, Edit) and _with(cls, "concepts")]
    return tuple(sorted(found, key=lambda cls: (cls.card.cost == "minutes", not cls.fits())))


def reporter() -> type[Lens]:
    """The lens that compares several edits on a concept. Raises `MissingPart` where none is installed."""
    for cls in catalog(topic=REPORTS, kind="lens"):
        if issubclass(cls, Lens) and _with(cls, "concepts") and _compares(cls):
            return cls
    raise MissingPart("No lens that reports on an erasure is installed.")


def attacks() -> tuple[type[Lens], ...]:
    """The lenses that try to bring a concept back through one edit."""
    lenses = (cls for cls in catalog(topic=REPORTS, kind="lens") if issubclass(cls, Lens))
    return tuple(cls for cls in lenses if _with(cls, "concepts") and not _compares(cls))


@dataclass(frozen=True)
class Wish:
    """What is to go, what stands in for it, and what must stay."""

    targets: tuple[str, ...]
    anchor: str = ""
    preserve: tuple[str, ...] = ()


def eraser(name: str, wish: Wish, settings: Mapping[str, Any] | None = None) -> Edit:
    """An edit of a name with a wish put where its settings have those roles. Raises `AskError`."""
    cls = find(name)
    values = dict(settings or {})
    for role, value in (("concepts", wish.targets), ("anchor", wish.anchor), ("preserve", wish.preserve)):
        control = _with(cls, role)
        if control is not None and (value or role == "concepts"):
            values[control.name] = value
    made = cls(**values)
    if not isinstance(made, Edit):
        raise AskError(f"{name} is {made.kind} and erases nothing.")
    return made


def judged(name: str, wish: Wish, edits: Sequence[Edit] = (), **settings: Any) -> Lens:
    """A lens of a name on the same concepts; `edits` go to the setting that compares them, where there are any."""
    cls = find(name)
    target, several = _with(cls, "concepts"), _compares(cls)
    values: dict[str, Any] = {**settings}
    values |= {target.name: wish.targets} if target is not None else {}
    values |= {several.name: tuple(edits)} if several is not None and edits else {}
    made = cls(**values)
    if not isinstance(made, Lens):
        raise AskError(f"{name} is {made.kind} and looks at nothing.")
    return made


def at_strength(edit: Edit, strength: float) -> Edit:
    """The same edit at another strength: what was fitted serves again. Raises `AskError` where it has none."""
    control = _with(type(edit), "strength")
    if control is None:
        raise AskError(f"{edit.card.name} has no strength, so there is nothing to blend.")
    return edit.but(**{control.name: strength})


@dataclass(frozen=True)
class Circle:
    """Words around the targets: other words for them, and their nearest neighbours."""

    synonyms: tuple[str, ...]
    neighbours: tuple[str, ...]


def circle(bundle: Bundle, targets: Sequence[str], count: int = 8) -> Circle:
    """What to look at besides the targets; raises `AskError` for none."""
    if not targets:
        raise AskError("There is no target yet. Name what should be gone, for example: cat face.")
    world = world_of(bundle)
    known = [word for target in targets if (word := _known(world, target))]
    said = [word for about in known for word in other_words(world, about)]
    return Circle(tuple(dict.fromkeys(said)), suggest(bundle, targets, count))


def _known(world: Any, word: str) -> Any:
    try:
        return concept(world, word)
    except AskError:
        return None


def words() -> list[str]:
    """Objects and styles that the shipped model knows, to choose from."""
    world = World.load()
    return [*world.tier, *(style for style in world.styles if style not in world.split["held_out_styles"])]


def prompts(wish: Wish, synonyms: Sequence[str], neighbours: Sequence[str], most: int = 6) -> list[str]:
    """A short row of prompts for a before-and-after grid: targets, a synonym of them, and what should stay."""
    words = [*wish.targets[:2], *synonyms[:1]]
    stay = [word for word in dict.fromkeys((*wish.preserve, *neighbours)) if word not in words]
    return [with_article(word) for word in (*words, *stay[: most - len(words)])]


def picture(path: Path, side: int = 160) -> UInt8[np.ndarray, "_H _W 3"]:
    """A picture of a run, made small enough for a table of many: at most `side` pixels wide and high."""
    small = Image.fromarray(open_picture(path))
    small.thumbnail((side, side))
    return np.asarray(small)


def warnings(report: Report) -> list[str]:
    """What a report wants to be heard first."""
    return [panel.text.replace("**", "") for panel in report.panels if isinstance(panel, Note)
            and panel.title == "Warning"]  # fmt: skip


def packed(bundle: Bundle, edits: Sequence[Edit], folder: Path, form: Format) -> Path:
    """The edited model in one file to send: a zip of a whole model, or the file itself. Raises `AskError`."""
    done = export_model(bundle, edits, folder / form, form)
    files = [path for path in done.folder.iterdir() if path.suffix == ".safetensors"]
    if form != "diffusers" and len(files) == 1:
        return files[0]
    return Path(shutil.make_archive(str(folder / f"{bundle.name}-edited"), "zip", done.folder))
