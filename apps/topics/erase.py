"""Erase: take a concept away with several methods at once, see it, measure it, attack it, and take the model along.

Knows the topic, the kinds and the roles of settings, never a method's name.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import gradio as gr

from apps.desk import Desk
from apps.pages.generate import Generate
from apps.panels import trouble
from apps.show import over, running
from apps.work import QUIET, Choice, Made, Work, chosen, count
from workbench.core.catalog import find
from workbench.core.errors import AskError, WorkbenchError
from workbench.core.method import Edit, Lens
from workbench.core.plan import Plan
from workbench.core.tape import Tap
from workbench.runs.erasing import (
    FORMS,
    Wish,
    at_strength,
    attacks,
    circle,
    eraser,
    erasers,
    judged,
    packed,
    prompts,
    reporter,
    words,
)
from workbench.view.forms import read_all

TITLE = "Erase"
PAGE = "erase"
MOST_PICTURES = 400
#: What the wish says, so that no method's form asks again.
FROM_WISH = ("concepts", "anchor", "preserve")
_START = ("Take a concept away", "Name a target, choose one or several methods, and press Erase and draw.")


def page(desk: Desk, demo: gr.Blocks, generate: Generate) -> None:
    """The page's components and handlers."""
    Erase(desk, demo, generate).connect()


class Erase(Work):
    """The page: a wish on the left; pictures, report and what to do next on the right."""

    def __init__(self, desk: Desk, demo: gr.Blocks, generate: Generate) -> None:
        super().__init__(desk, generate, PAGE, _START)
        self.demo = demo
        self.methods = [(f"{cls.card.title} ({cls.card.name}), {cls.card.cost}", cls.card.name) for cls in erasers()]
        with gr.Row(elem_classes=["wb-main"]):
            with gr.Column(scale=5, min_width=320):
                self._wish()
                self._choice()
            with gr.Column(scale=7, min_width=320):
                self.results()
                self._next()
                self.reports()

    def _wish(self) -> None:
        tags: dict[str, Any] = {"multiselect": True, "allow_custom_value": True}
        self.targets = gr.Dropdown([], value=[], label="Targets", elem_id="erase-targets",
                                   info="What should be gone; several are taken away at once", **tags)  # fmt: skip
        self.anchor = gr.Textbox(
            "", label="Anchor", elem_id="erase-anchor", info="What to draw instead; empty is nothing"
        )
        self.preserve = gr.Dropdown([], value=[], label="Preserve", elem_id="erase-preserve",
                                    info="What must stay; neighbours are the likeliest to suffer", **tags)  # fmt: skip
        self.synonyms = gr.Dropdown([], value=[], label="Synonyms", elem_id="erase-synonyms",
                                    info="Other words that should not bring it back", **tags)  # fmt: skip
        self.suggest = gr.Button("Suggest neighbours and synonyms", size="sm", elem_id="erase-suggest")

    def _choice(self) -> None:
        self.ways = Choice(erasers(), "Methods", PAGE, info="Each works alone, on the same seeds")
        self.buttons("Erase and draw")
        self.ways.place("Settings of the methods", FROM_WISH)

    def _next(self) -> None:
        first = self.methods[0][1] if self.methods else None
        with gr.Tabs(elem_id="erase-next"):
            with gr.Tab("Report"):
                with gr.Row():
                    self.pictures = gr.Number(16, precision=0, minimum=1, maximum=MOST_PICTURES, min_width=140,
                                              label="Pictures a cell", elem_id="erase-pictures")  # fmt: skip
                    self.sweep = gr.Checkbox(False, label="Also at a quarter, half and three quarters of the strength",
                                             elem_id="erase-sweep", min_width=200)  # fmt: skip
                self.measure = gr.Button("Measure all methods", elem_id="erase-measure")
            with gr.Tab("Strength"):
                self.one = gr.Dropdown(self.methods, value=first, label="Method", elem_id="erase-one")
                self.strength = gr.Slider(0, 2, 0.5, step=0.05, label="Strength", elem_id="erase-strength",
                                          info="Blends what was fitted; nothing is fitted anew")  # fmt: skip
                self.blend = gr.Button("Draw at this strength", elem_id="erase-blend")
            with gr.Tab("Attack it"):
                found = [(f"{cls.card.title}, {cls.card.cost}", cls.card.name) for cls in attacks()]
                self.attack = gr.Dropdown(
                    found, value=found[0][1] if found else None, label="Attack", elem_id="erase-attack"
                )
                self.trials = gr.Number(8, precision=0, minimum=1, maximum=MOST_PICTURES, label="Trials")
                self.attacked = gr.Dropdown(self.methods, value=first, label="On the edit of")
                self.break_in = gr.Button("Attack this edit", elem_id="erase-break")
            with gr.Tab("Export"):
                self.form = gr.Radio(list(FORMS.items()), value=FORMS["Delta"], label="Form", elem_id="erase-form")
                self.exported = gr.Dropdown(self.methods, value=first, label="Edit of")
                self.export = gr.Button("Export", elem_id="erase-export")

    # -- what the components say ---------------------------------------------------------------------------------

    @property
    def inputs(self) -> list[Any]:
        """The wish and the methods, then the Generate page's recipe."""
        own = [self.targets, self.anchor, self.preserve, self.synonyms, *self.ways.inputs]
        return [*own, *self.generate.inputs]

    def connect(self) -> None:
        """Attach the handlers."""
        self.on(self.go, self.draw, self.inputs)
        self.on(self.measure, self.weigh, [self.pictures, self.sweep, *self.inputs])
        self.on(self.blend, self.mix, [self.one, self.strength, *self.inputs])
        self.on(self.break_in, self.force, [self.attack, self.trials, self.attacked, *self.inputs])
        self.on(self.export, self.take, [self.exported, self.form, *self.inputs])
        self.suggest.click(self.near, self.inputs, [self.stage, self.preserve, self.synonyms],
                           concurrency_limit=32, trigger_mode="once", **QUIET)  # fmt: skip
        self.stops()
        self.demo.load(self.known, [self.generate.model], [self.targets, self.preserve], queue=False, **QUIET)

    def known(self, model: str) -> tuple[Any, Any]:
        """Words to choose from, without loading a model."""
        found = words()
        return gr.Dropdown(choices=found), gr.Dropdown(choices=found)

    def _read(self, values: Sequence[Any]) -> "Request":
        targets, anchor, preserve, synonyms, chosen, raws, *recipe = values
        wish = Wish(tuple(_clean(targets)), str(anchor or "").strip(), tuple(_clean(preserve)))
        if not wish.targets:
            raise AskError("There is no target yet. Name what should be gone, for example: cat face.")
        found = {**self.generate.gather(*recipe), "stack": [], "count": 1}
        found["prompt"] = prompts(wish, (), ())[0]
        return Request(wish, _clean(synonyms), list(chosen or ()), raws or {}, self.generate.plan(found))

    # -- jobs ----------------------------------------------------------------------------------------------------

    def draw(self, request: gr.Request, *values: Any) -> Iterator[tuple[Any, ...]]:
        """The grid: a row without any edit and one a method, the same seed everywhere, as it fills."""
        asked = self._read(values)
        ways = asked.ways()
        if not ways:
            raise AskError("No method is chosen. Choose one or several under Methods.")
        yield from self._drawn(request, asked, ways)

    def mix(self, request: gr.Request, name: str, strength: float, *values: Any) -> Iterator[tuple[Any, ...]]:
        """One method at another strength, beside no edit: what was fitted is scaled."""
        asked = self._read(values)
        edit = at_strength(asked.edit(name), float(strength))
        yield from self._drawn(request, asked, [(f"{name} at {strength:g}", edit)])

    def _drawn(self, request: gr.Request, asked: "Request", ways: Sequence[tuple[str, Edit]]) -> Any:
        lines = prompts(asked.wish, asked.synonyms, asked.wish.preserve)
        plans = [asked.plan.but(ask=asked.plan.ask.but(prompts=(line,))) for line in lines]
        rows = [("unedited", plans), *((name, [plan.but(edits=(edit,)) for plan in plans]) for name, edit in ways)]
        done = f"{len(rows) * len(lines)} pictures, a row each way, all of the same seed"
        yield from self.paint(request, rows, lines, done)

    def weigh(self, request: gr.Request, pictures: Any, sweep: bool, *values: Any) -> Iterator[tuple[Any, ...]]:
        """The report on all chosen methods; what was drawn before is used again."""
        asked = self._read(values)
        edits = [edit for _, edit in asked.ways()]
        if not edits:
            raise AskError("No method is chosen. Choose one or several under Methods.")
        many = count(pictures, "The number of pictures", MOST_PICTURES)
        more: dict[str, Any] = {"pictures": many} | ({"strengths": (0.25, 0.5, 0.75)} if sweep else {})
        lens = judged(reporter().card.name, asked.wish, edits if len(edits) > 1 else (), **more)
        yield from self._looked(request, asked, lens, edits if len(edits) == 1 else [])

    def force(self, request: gr.Request, name: str, trials: Any, of: str, *values: Any) -> Iterator[tuple[Any, ...]]:
        """An attack on one method's edit; its prompts can be downloaded."""
        asked = self._read(values)
        lens = judged(name, asked.wish, trials=count(trials, "The number of trials", MOST_PICTURES))
        yield from self._looked(request, asked, lens, [asked.edit(of)])

    def _looked(self, request: gr.Request, asked: "Request", lens: Lens, edits: Sequence[Edit]) -> Any:
        done = f"{lens.card.title} of {', '.join(asked.wish.targets)}"
        yield from self.examine(request, asked.plan.but(edits=tuple(edits)), lens, done)

    def take(self, request: gr.Request, name: str, form: Any, *values: Any) -> Iterator[tuple[Any, ...]]:
        """The edited model as a file."""
        asked = self._read(values)
        edit = asked.edit(name)
        folder = self.desk.fresh(self.desk.owner(request))

        def work(tap: Tap) -> Made:
            folder.mkdir(parents=True)
            return None, packed(self.desk.run_plan(asked.plan), [edit], folder, form)

        yield from self.do(request, "export", f"{name} as {form}", work, None)

    def near(self, request: gr.Request, *values: Any) -> Iterator[tuple[Any, ...]]:
        """Neighbours and synonyms of the targets, by the model's own text encoder."""
        try:
            asked = self._read(values)

            def work(tap: Tap) -> Any:
                return circle(self.desk.run_plan(asked.plan), asked.wish.targets)

            ticket = self.desk.submit(self.desk.owner(request), f"{PAGE}-near", work, title="neighbours")
        except WorkbenchError as error:
            yield trouble(str(error)), gr.skip(), gr.skip()
            return
        for _ in self.desk.follow(ticket):
            yield running(ticket), gr.skip(), gr.skip()
        if ticket.job.state != "done":
            yield over(ticket, ""), gr.skip(), gr.skip()
            return
        found = ticket.job.result
        keep = list(dict.fromkeys((*asked.wish.preserve, *found.neighbours)))
        done = f"{len(found.neighbours)} neighbours, {len(found.synonyms)} synonyms"
        yield over(ticket, done), gr.Dropdown(value=keep), gr.Dropdown(value=list(found.synonyms))


class Request:
    """What the page asks for, read from its components."""

    def __init__(self, wish: Wish, synonyms: list[str], chosen: list[str], raws: dict[str, Any], plan: Plan) -> None:
        self.wish, self.synonyms, self.chosen, self.raws, self.plan = wish, synonyms, chosen, raws, plan

    def edit(self, name: str | None) -> Edit:
        """A method with the wish and its settings. Raises `AskError`."""
        if not name:
            raise AskError("No method is chosen. Choose one under Methods.")
        cls = find(name)
        own = {field: raw for field, raw in self.raws.get(name, {}).items() if field not in FROM_WISH}
        needed = {"concepts": list(self.wish.targets)} if "concepts" in cls.model_fields else {}
        settings = {key: value for key, value in read_all(cls, {**needed, **own}).items() if key in own}
        return eraser(name, self.wish, settings)

    def ways(self) -> list[tuple[str, Edit]]:
        """The chosen methods, each alone."""
        return [(name, self.edit(name)) for name in chosen(self.chosen)]


def _clean(values: Any) -> list[str]:
    return [text for value in values or () if (text := str(value).strip())]
