"""What became of an adapter's file: which places it changes and how much, and what of it found no place."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from workbench.core.errors import CheckpointMismatch
from workbench.core.report import Note, Panel, Table

Fate = Literal["matched", "renamed", "unused", "wrong shape"]
FATES: tuple[Fate, ...] = ("matched", "renamed", "unused", "wrong shape")
#: Share of a file's places that must be found; the rest may be of a part that the model does not have.
LEAST = 0.9


@dataclass(frozen=True)
class Line:
    """One place that a file names: what became of it, the parameter it changes, its form, rank and Frobenius norm."""

    name: str
    fate: Fate
    key: str = ""
    kind: str = ""
    rank: int = 0
    energy: float = 0.0
    why: str = ""


@dataclass(frozen=True)
class LoadReport:
    """The lines of a file, and notes on the whole.

    A place is `renamed` when another program's name for it was translated; dots for underscores are no other name.
    """

    adapter: str = ""
    model: str = ""
    lines: tuple[Line, ...] = ()
    notes: tuple[str, ...] = ()

    def count(self, fate: Fate) -> int:
        """How many places have a fate."""
        return sum(line.fate == fate for line in self.lines)

    @property
    def found(self) -> float:
        """The share of the file's places that are changed, 0..1."""
        return (self.count("matched") + self.count("renamed")) / max(len(self.lines), 1)

    @property
    def formats(self) -> tuple[str, ...]:
        """The forms in which the changes are written."""
        return tuple(dict.fromkeys(line.kind for line in self.lines if line.kind))

    @property
    def energies(self) -> Mapping[str, float]:
        """The Frobenius norm of the change by block of the model."""
        squares: dict[str, float] = {}
        for line in self.lines:
            if line.energy:
                squares[block(line.key)] = squares.get(block(line.key), 0.0) + line.energy**2
        return {name: value**0.5 for name, value in squares.items()}

    @property
    def refusal(self) -> str:
        """Why the adapter must not be used, in one line; "" when it may."""
        wrong = [line for line in self.lines if line.fate == "wrong shape"]
        lost = [line for line in self.lines if line.fate == "unused"]
        if not wrong and self.found >= LEAST:
            return ""
        parts = [f"{self.count(fate)} {fate}" for fate in FATES if self.count(fate)]
        first = (wrong or lost)[0]
        return (
            f"{self.adapter} is no adapter for {self.model}: of {len(self.lines)} places {', '.join(parts)} (first: "
            f"{first.name[:100]}, {first.why}). It belongs to another architecture, or is "
            "damaged: load the model it was made for, or download it again."
        )

    def panels(self) -> tuple[Panel, ...]:
        """The report to look at: counts, energy per block, and the places that found no use."""
        counts = tuple(self.count(fate) for fate in FATES)
        rank = max((line.rank for line in self.lines), default=0)
        row = (self.adapter, ", ".join(self.formats) or "none", rank, *counts, f"{self.found:.0%}")
        found: list[Panel] = [Note(note, "Warning") for note in self.notes]
        if self.refusal:
            found.append(Note(_escaped(self.refusal), "Refused"))
        found.append(Table(("adapter", "format", "highest rank", *FATES, "found"), (row,), "What was found"))
        blocks = tuple((name, float(f"{value:.4g}")) for name, value in self.energies.items())
        if blocks:
            found.append(Table(("block", "norm of the change"), blocks, "How much is changed where"))
        trouble = [line for line in self.lines if line.fate in ("unused", "wrong shape")]
        if trouble:
            rows = tuple((line.name[:120], line.fate, line.why) for line in trouble[:20])
            more = f", the first 20 of {len(trouble)}" if len(trouble) > 20 else ""
            found.append(Table(("name in the file", "fate", "why"), rows, f"Places without use{more}"))
        return tuple(found)


class AdapterRefused(CheckpointMismatch):
    """An adapter of another architecture, with its `report`."""

    def __init__(self, report: LoadReport) -> None:
        super().__init__(report.refusal)
        self.report = report


def block(key: str) -> str:
    """The block of a parameter: its part, and the beginning of its path with the number where there is one.

    >>> block("unet:up_blocks.1.attentions.0.proj_in.weight"), block("unet:mid_block.resnets.0.conv1.weight")
    ('unet up_blocks.1', 'unet mid_block')
    """
    part, _, path = key.partition(":")
    words = path.removeprefix("text_model.").split(".")[:-1]
    if words[:2] == ["encoder", "layers"]:
        return f"{part} layer {words[2]}"
    take = 2 if len(words) > 1 and words[1].isdigit() else 1
    return " ".join([part, ".".join(words[:take])]) if words else part


def _escaped(text: str) -> str:
    return "".join(f"\\{char}" if char in "\\`*_{}[]<>#|" else char for char in text)
