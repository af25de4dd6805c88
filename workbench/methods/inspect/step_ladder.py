"""Step ladder: the same seeds in one, two, four and more steps, of the base and of its student.

Paper: none; the comparison that papers on few steps print (Luo et al. 2023, "Latent Consistency Models", arXiv
2310.04378, Figure 2): what a step less costs, and what the student gives back.

Equations: for each sampler and number of steps, judge = share of pictures in which the judge's likeliest answers are
what the prompt names; distance = rms(picture - the base's picture in most steps) in grey levels, over images.

Differs: nothing to differ from. Numbers of steps that a sampler does not take are left out. Without a judge, or where
no prompt names an object of the emoji world, the judge's columns are missing. Seconds are a table and no number, since
no two runs take the same time.

There are no official numbers. Licence: there is no reference code.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import Field

from workbench.blocks.alongside import distance, judged, sheet
from workbench.core.bundle import Images
from workbench.core.errors import AskError
from workbench.core.method import AnySampler, Card, Lens, Sampler
from workbench.core.report import Picture, Report, Table
from workbench.core.scene import Scene

WHO = ("base", "student")


@dataclass(frozen=True, eq=False)
class Rung:
    """One sampler at one number of steps: its pictures, seconds a picture, and what the judge says of them."""

    name: str
    steps: int
    images: Images
    seconds: float
    judged: Mapping[str, float]


class StepLadder(Lens):
    """Draw a ladder of steps with the base and with the student."""

    card: ClassVar[Card] = Card("step-ladder", "Step ladder", "none (a paired look)", ("unet",), "seconds")
    quick: ClassVar[Mapping[str, Any]] = {"steps": [1, 2], "student": {"method": "lcm", "student": "random:1"}}

    steps: tuple[int, ...] = Field((1, 2, 4, 8, 20), min_length=1, max_length=12, description="Numbers of steps.")
    base: AnySampler = Field({"method": "diffuse"}, description="How the base draws.")  # type: ignore[assignment]
    student: AnySampler = Field({"method": "lcm"}, description="How the student draws.")  # type: ignore[assignment]

    def look(self, scene: Scene) -> Report:
        """A sheet an image, base above student, and a line a rung."""
        rungs = [*self._climb(scene, "base", self.base), *self._climb(scene, "student", self.student)]
        if not rungs:
            raise AskError(f"step-ladder: neither sampler takes any of {list(self.steps)} steps. Try [1, 2, 4].")
        last = max((rung for rung in rungs if rung.name == "base"), key=lambda rung: rung.steps, default=rungs[-1])
        rows: list[tuple[str | int | float, ...]] = []
        numbers: dict[str, float] = {}
        named = sorted({name for rung in rungs for name in rung.judged})
        for rung in rungs:
            far = distance(rung.images, last.images)
            numbers |= {f"{rung.name}_{rung.steps}_distance": far}
            numbers |= {f"{rung.name}_{rung.steps}_{name}": value for name, value in rung.judged.items()}
            told = (round(rung.judged.get(name, 0.0), 3) for name in named)
            rows.append((rung.name, rung.steps, round(rung.seconds, 3), round(far, 2), *told))
        columns = ("who", "steps", "seconds a picture", "distance (grey levels)", *(f"judge: {n}" for n in named))
        sheets = tuple(
            Picture(sheet([[r.images[row] for r in rungs if r.name == name] for name in WHO]), self._title(text, rungs))
            for row, text in enumerate(scene.ask.prompts)
        )
        return Report((*sheets, Table(columns, tuple(rows), "What each step gives")), numbers)

    def _climb(self, scene: Scene, name: str, sampler: Sampler) -> Iterator[Rung]:
        if "steps" not in type(sampler).model_fields:
            raise AskError(f"step-ladder: {sampler.card.name} has no number of steps. Choose another {name}: lcm, say.")
        for count in sorted(set(self.steps)):
            try:
                chosen = sampler.but(steps=count)
            except AskError:  # not so few, or not so many
                continue
            began = time.perf_counter()
            images = scene.run(sampler=chosen)
            spent = (time.perf_counter() - began) / len(images)
            yield Rung(name, count, images, spent, judged(scene, images))

    def _title(self, prompt: str, rungs: list[Rung]) -> str:
        counts = {name: [str(r.steps) for r in rungs if r.name == name] for name in WHO}
        told = "; ".join(f"{name} in {', '.join(steps)}" for name, steps in counts.items() if steps)
        return f"{prompt} ({told} steps)"
