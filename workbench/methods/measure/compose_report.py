"""Compose report: are all adapters in the picture, each as itself, and is the rest of the model still there.

Papers: Zhong et al. 2024, "Multi-LoRA Composition for Image Generation", arXiv 2402.16843, asks a language model to
compare pictures of several adapters; Meral et al. 2024, "CLoRA", arXiv 2403.19776, compares features of each subject;
Shah et al. 2023, "ZipLoRA", arXiv 2311.13600, scores subject and style apart. Here a judge that knows every object and
style of the emoji world answers for each picture.

Equations: a share is hits / pictures with Wilson's interval. One subject and a style: `subject`, `style`, `both` (on
one picture) and `product` = subject x style. Two subjects side by side, by the judge's 8x8 grid: `pair` (one in each
half), `missing`, `duplicate` (one of them twice), `leak` (cells of both in one half). On prompts that call no adapter,
before and after at the same seeds: `prior` accuracy, its loss with Newcombe's paired interval, and `drift` = mean 1 -
cosine of the scorer's features. Against the first way, `gain` is the difference of the leading share with the same
interval.

Differs: no similarity to reference pictures, which a picture may have without holding the subject, and no language
model; so numbers compare ways of composing here and nothing across papers. Objects that were never drawn together by
the unedited model make `pair` low for every way: the bench says where that is so.

Official numbers: none compare. Licence of the references: none was read for this file.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import Field

from workbench.blocks import composing, composition
from workbench.blocks.composition import Composed, Halves, Player, cast, composed, question, requests
from workbench.blocks.concepts import Names
from workbench.blocks.judging import Eye, self_test, world_of
from workbench.blocks.paired import Gallery, Piece, pieces
from workbench.core.errors import AskError
from workbench.core.fields import Role
from workbench.core.method import AnyEdit, Card, Edit, Lens
from workbench.core.report import Report
from workbench.core.scene import Scene


class ComposeReport(Lens):
    """Judge ways of composing adapters on the same prompts and seeds."""

    card: ClassVar[Card] = Card("compose-report", "Compose report", "arXiv 2402.16843", ("unet",), "minutes")
    quick: ClassVar[Mapping[str, Any]] = {
        "against": [{"method": "lora-switch", "adapters": composing.TWO}], "subjects": ["cat face", "ink"],
        "triggers": ["cat", "red"], "others": ["red apple"], "pictures": 2}  # fmt: skip

    subjects: Names = Field(
        (), description="What the judge should see for each adapter, objects or a style; empty asks the files."
    )
    triggers: composing.Triggers = ()
    against: tuple[AnyEdit, ...] = Field((), description="Further ways to compare, each alone, on the same rows.")
    others: Annotated[tuple[str, ...], Role("preserve")] = Field(
        (), description="Objects that should stay as they were; empty takes four that the model knows."
    )
    pictures: int = Field(32, ge=1, le=4096, description="Pictures a question; 400 bring an interval within 5 points.")
    judge: Annotated[str, Role("model")] = Field("emoji-judge", description="The model that names what it sees.")
    scorer: Annotated[str, Role("model")] = Field("emoji-scorer", description="The model whose features are compared.")

    def look(self, scene: Scene) -> Report:
        """Draw what is missing, judge, and lay the ways side by side; a stopped look goes on where it was."""
        ways = self.ways(scene)
        world = world_of(scene.bundle)
        sources = composition.sources_of([edit for _, edits in ways for edit in edits])
        if not sources:
            raise AskError('compose-report judges adapters, and none is in use. Add one: --with "lora adapters=FILE".')
        players = cast(scene.bundle, sources, self.subjects, self.triggers)
        asked = requests(world, players, self.pictures, scene.ask.seeds[0])
        calm = pieces(scene, scene.bundle.world, [composition.prior(world, self.others, self.pictures)])
        eyes = self.eyes(scene, players)
        before = Gallery(scene.bundle, scene.sampler, eyes[1], scene.tap).drawn((), calm)
        found: list[Composed] = []
        for name, edits in ways:
            rows = self.drawn(scene, eyes, edits, (asked, calm))
            found.append(composed(name, eyes, players, rows[0], (before, rows[1])))
        ceiling = self_test(eyes[1], world, [player.about for player in players], scene.bundle.store)
        return Report(
            composition.panels(players, found, ceiling, composition.silent(players, scene.ask.prompts)),
            composition.numbers(found[0]),
        )

    def eyes(self, scene: Scene, players: Sequence[Player]) -> tuple[Eye, Eye]:
        """Who looks at the question, by halves where two subjects are in it, and at prompts that call nobody."""
        first = Halves(scene.bundle, self.judge) if question(players) == "pair" else Eye(scene.bundle, self.judge)
        return first, Eye(scene.bundle, self.judge, self.scorer)

    def drawn(
        self, scene: Scene, eyes: tuple[Eye, Eye], edits: Sequence[Edit], wanted: tuple[list[Piece], list[Piece]]
    ) -> Any:
        """What either eye saw of its pieces with edits in force."""
        galleries = [Gallery(scene.bundle, scene.sampler, eye, scene.tap) for eye in eyes]
        return [gallery.drawn(edits, rows) for gallery, rows in zip(galleries, wanted, strict=True)]

    def ways(self, scene: Scene) -> list[tuple[str, tuple[Edit, ...]]]:
        """What is compared: the scene's edits together, and each of `against` alone."""
        first = [("edited", tuple(scene.edits))] if composition.sources_of(scene.edits) else []
        names = [edit.card.name for edit in self.against]
        more = [f"{n} {names[: i + 1].count(n)}" if names.count(n) > 1 else n for i, n in enumerate(names)]
        return first + [(name, (edit,)) for name, edit in zip(more, self.against, strict=True)]
