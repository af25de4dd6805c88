"""Control transfer: an edit fitted on the base, on the base and on its student, with the same seeds.

Paper: Gandikota and Bau 2025, "Distilling Diversity and Control in Diffusion Models", arXiv 2503.10637, section on
control distillation: erasures, sliders and LoRAs of the base act on the distilled model without a new training.

Equations, over images i, with pictures p (plain) and q (edited) of base b and student s, and f a scorer's features:
    moved = rms(q_i - p_i) in grey levels, of each of the two
    transfer = mean_i cos(f(q_i^s) - f(p_i^s), f(q_i^b) - f(p_i^b)), 1 where the edit does the same to both
and the judge's share of right objects in each of the four.

Differs: the paper shows pictures and CLIP scores; here features are those of the in-house scorer. The edit is fitted
once, on the base, and the student's adapter is worn on the edited base.

Official numbers: none that compare. Licence of the reference: rohitgandikota/distillation, MIT (read, not copied).
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from workbench.blocks.alongside import distance, judged, sheet
from workbench.core.bundle import Images
from workbench.core.errors import MissingPart
from workbench.core.fields import Role
from workbench.core.method import AnySampler, Card, Lens
from workbench.core.report import Note, Panel, Picture, Report, Table
from workbench.core.scene import Scene, using

WAYS = ("base", "base, edited", "student", "student, edited")


class ControlTransfer(Lens):
    """See whether the edits in force act on the student as they do on the base."""

    card: ClassVar[Card] = Card("control-transfer", "Control transfer", "arXiv 2503.10637", ("unet",), "seconds")
    quick: ClassVar[Mapping[str, Any]] = {"student": {"method": "lcm", "student": "random:1", "steps": 2}}

    student: AnySampler = Field({"method": "lcm"}, description="How the student draws.")  # type: ignore[assignment]
    scorer: Annotated[str, Role("model")] = Field("emoji-scorer", description="The model whose features are compared.")

    def look(self, scene: Scene) -> Report:
        """A sheet of four an image, and how far base and student moved, and whether to the same side."""
        self.student.check(scene.bundle)
        made = self._drawn(scene)
        base, base_edited, student, student_edited = made
        numbers = {"base_moved": distance(base_edited, base), "student_moved": distance(student_edited, student)}
        rows: list[tuple[str | float, ...]] = []
        for name, images in zip(WAYS, made, strict=True):
            share = judged(scene, images)
            numbers |= {f"{name.replace(', ', '_')}_{what}": value for what, value in share.items()}
            rows.append((name, round(share["object"], 3) if share else "no judge"))
        features = self._features(scene, made)
        if features is not None and scene.edits:
            numbers["transfer"] = transfer(*features)
        panels: list[Panel] = [
            Picture(sheet([[images[row] for images in made]]), f"{text} ({'; '.join(WAYS)})")
            for row, text in enumerate(scene.ask.prompts)
        ]
        panels.append(Table(("way", "judge: named objects seen"), tuple(rows), "What the judge sees"))
        if not scene.edits:
            panels.insert(0, Note("There is no edit in force, so nothing is transferred. Add one to the stack."))
        return Report(tuple(panels), numbers)

    def _drawn(self, scene: Scene) -> tuple[Images, Images, Images, Images]:
        """The four ways, the edits fitted once."""
        samplers = (scene.sampler, self.student)
        plain = [scene.run(sampler=sampler, edits=()) for sampler in samplers]
        with using(scene.bundle, *scene.edits, tap=scene.tap) as bundle:
            edited = [sampler.sample(bundle, scene.ask, scene.tap) for sampler in samplers]
        return plain[0], edited[0], plain[1], edited[1]

    @torch.no_grad()
    def _features(self, scene: Scene, made: tuple[Images, ...]) -> list[Float[Tensor, "B e"]] | None:
        try:
            scorer = scene.bundle.open(self.scorer)
        except MissingPart:
            return None
        found: list[Tensor] = []
        for images in made:
            pixels = images.to(scorer.device).to(scorer.dtype) / 127.5 - 1
            found.append(torch.cat([scorer.encode(row) for row in pixels.split(1)]).double().cpu())
        return found


def transfer(
    base: Float[Tensor, "B e"], base_edited: Float[Tensor, "B e"], student: Float[Tensor, "B e"],
    student_edited: Float[Tensor, "B e"],
) -> float:  # fmt: skip
    """Mean cosine of what the edit did to the student and to the base; 0 where it did nothing to one of them."""
    return float(F.cosine_similarity(student_edited - student, base_edited - base, dim=1).mean())
