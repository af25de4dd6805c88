"""Erase report: is the concept gone, in other words too, and what else went with it.

Paper: the protocols of Lu et al. 2024, "MACE", arXiv 2403.06135 (efficacy, generality on synonyms, specificity), and
Zhang et al. 2024, "UnlearnCanvas", arXiv 2402.11846 (other objects and styles apart), on pictures of the same prompts
and seeds before and after (Gandikota et al. 2023, "ESD", arXiv 2303.07345).

Equations: a cell's accuracy is the share of its pictures in which the judge's likeliest answer is the subject, with
Wilson's interval; its loss is accuracy(before) - accuracy(after) on the same rows, with Newcombe's paired interval.
    target, synonyms: lower is better    neighbours, others, styles: the loss, lower is better
    frechet = |m1 - m2|^2 + tr(S1 + S2 - 2 (S1^1/2 S2 S1^1/2)^1/2)      (Heusel et al. 2017, arXiv 1706.08500)
    kid     = unbiased MMD^2 with k(x, y) = (x.y / d + 1)^3             (Binkowski et al. 2018, arXiv 1801.01401)
both between the scorer's features before and after, over the pictures that should not change; drift is their mean
1 - cosine, pair by pair.

Differs: one judge of the emoji world with a "none" answer in place of ResNet-50, CLIP and style classifiers, so a
picture of nothing counts as erased and is not forced onto a class; distances are to the unedited model's pictures, on
in-house features, and biased upwards for few pictures, so they compare edits, not papers. No single score is formed
(MACE's harmonic mean hides which side failed): a table, and each way as a point of removed against kept. Cost is a
table and no number, since no two runs take the same time.

Official numbers: none compare; the judge's accuracy on true drawings is printed as the ceiling of every share here.
Licence of the references: MACE, NTU (not read for this file); UnlearnCanvas, MIT (its README alone was read).
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import Field

from workbench.blocks.cost import Cost, fit_cost
from workbench.blocks.erasure import Outcome, Way, outcome, panels
from workbench.blocks.judging import Eye, self_test, world_of
from workbench.blocks.paired import Gallery, cells, known, pieces, targets
from workbench.core.errors import AskError
from workbench.core.fields import Role
from workbench.core.method import AnyEdit, Card, Edit, Lens
from workbench.core.report import Report
from workbench.core.scene import Scene


class EraseReport(Lens):
    """Judge an erasure on the same seeds before and after: efficacy, generality, specificity, quality, cost."""

    card: ClassVar[Card] = Card("erase-report", "Erase report", "arXiv 2403.06135", ("unet",), "minutes")
    quick: ClassVar[Mapping[str, Any]] = {"concepts": ["cat"], "others": ["red apple"], "pictures": 2, "near": 0}

    concepts: Annotated[tuple[str, ...], Role("concepts")] = Field(
        (), description="What should be gone; empty takes the edits' own concepts, or else what the prompt names."
    )
    others: Annotated[tuple[str, ...], Role("preserve")] = Field(
        (), description="Objects that should stay; empty takes eight of those the model knows."
    )
    pictures: int = Field(64, ge=1, le=4096, description="Pictures a cell; 400 bring the interval within 5 points.")
    near: int = Field(4, ge=0, le=32, description="How many nearest neighbours of the concepts to judge apart.")
    against: tuple[AnyEdit, ...] = Field((), description="Further edits to compare, each alone, on the same rows.")
    strengths: tuple[float, ...] = Field(
        (), max_length=16, description="Further strengths of each edit that has one, as points of the Pareto picture."
    )
    judge: Annotated[str, Role("model")] = Field("emoji-judge", description="The model that names what it sees.")
    scorer: Annotated[str, Role("model")] = Field("emoji-scorer", description="The model whose features are compared.")

    def look(self, scene: Scene) -> Report:
        """Draw what is missing, judge, and lay the ways side by side; a stopped look goes on where it was."""
        world = world_of(scene.bundle)
        about = targets(scene, self.concepts, world, self.against)
        eye = Eye(scene.bundle, self.judge, self.scorer)
        unknown = [c.word for c in about if not eye.knows(c)]
        if unknown:
            raise AskError(f"{self.judge} has no answer for {unknown[0]!r}, so its erasure cannot be judged by it.")
        asked = known(eye, cells(scene, world, about, self.others, self.pictures, self.near))
        wanted = pieces(scene, scene.bundle.world, asked)
        gallery = Gallery(scene.bundle, scene.sampler, eye, scene.tap)
        before = gallery.drawn((), wanted)
        outcomes: list[Outcome] = []
        costs: list[Cost] = []
        for way in self.ways(scene):
            costs.append(fit_cost(scene.bundle, way.edits, scene.tap))
            outcomes.append(outcome(way, eye, before, gallery.drawn(way.edits, wanted)))
        ceiling = self_test(eye, world, [s.about for cell in asked for s in cell.subjects], scene.bundle.store)
        found = panels(about, outcomes, costs, ceiling, (eye.judge, eye.scorer))
        return Report(found, outcomes[0].numbers())

    def ways(self, scene: Scene) -> list[Way]:
        """What is compared: the scene's edits together, each of `against` alone, and each at further strengths."""
        ways = [Way("edited" if scene.edits else "unedited", scene.edits)] if scene.edits or not self.against else []
        ways += [Way(name, (edit,)) for name, edit in zip(_names(self.against), self.against, strict=True)]
        more: list[Way] = []
        for way in ways:
            for strength in self.strengths:
                if len(way.edits) == 1 and "strength" in type(way.edits[0]).model_fields:
                    edit = way.edits[0].but(strength=strength)
                    more.append(Way(f"{way.name} at {strength:g}", (edit,), way.name))
        return ways + more


def _names(edits: Sequence[Edit]) -> list[str]:
    """The edits' names, numbered where one comes twice."""
    names = [edit.card.name for edit in edits]
    return [f"{n} {names[: i + 1].count(n)}" if names.count(n) > 1 else n for i, n in enumerate(names)]
