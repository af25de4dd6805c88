"""Accelerate: the plain model beside quicker ways on the same seeds; seconds, likeness, and what was left out.

Knows the topics, the kinds and the roles of settings, never a method's name.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import gradio as gr

from apps.desk import Desk
from apps.pages.generate import Generate
from apps.work import MOST_CHOSEN, Choice, Work, a_lens, built, count, only_edits
from workbench.core.errors import AskError
from workbench.core.fields import controls
from workbench.core.method import Method, Sampler
from workbench.core.plan import Plan
from workbench.runs.pacing import paced
from workbench.runs.topics import methods

TITLE = "Accelerate"
PAGE = "accelerate"
TOPICS = ("reduce", "fewstep")
MOST_SEEDS, PLAIN, ALL = 8, "plain", "all edits together"
_START = ("The same pictures, sooner", "Choose some ways and press Draw and time. The first row is the model as it is.")


def page(desk: Desk, demo: gr.Blocks, generate: Generate) -> None:
    """The page's components and handlers."""
    Accelerate(desk, demo, generate).connect()


class Accelerate(Work):
    """Ways on the left; pictures, times and a look inside on the right."""

    def __init__(self, desk: Desk, demo: gr.Blocks, generate: Generate) -> None:
        super().__init__(desk, generate, PAGE, _START)
        self.demo = demo
        with gr.Row(elem_classes=["wb-main"]):
            with gr.Column(scale=5, min_width=320):
                gr.Markdown("Model, size and the plain sampler are the Generate page's.", elem_classes=["quiet"])
                self.prompt = gr.Textbox(label="Prompt", placeholder="empty: the Generate page's prompt",
                                         elem_id=f"{PAGE}-prompt")  # fmt: skip
                edits = sorted(methods(TOPICS, "edit"), key=lambda cls: TOPICS.index(cls.topic()))
                found = [*edits, *methods(TOPICS, "sampler")]
                self.ways = Choice(found, "Ways", PAGE, info="Each is timed alone, in turns with the plain model")
                with gr.Row():
                    self.seeds = gr.Slider(1, MOST_SEEDS, 3, step=1, label="Seeds", elem_id=f"{PAGE}-seeds",
                                           info="The first warms up and is not timed")  # fmt: skip
                    self.together = gr.Checkbox(False, label="Also all edits together", elem_id=f"{PAGE}-together",
                                                min_width=160)  # fmt: skip
                self.buttons("Draw and time")
                self.ways.place("Settings of the ways")
                with gr.Accordion("Look inside", open=False, elem_id=f"{PAGE}-look-box"):
                    self.lens = Choice(lenses(), "Lens", f"{PAGE}-lens", several=False,
                                       info="Looks with all chosen edits in force")  # fmt: skip
                    self.lens.place("Settings of the lens")
                    self.seek = gr.Button("Look", elem_id=f"{PAGE}-look")
            with gr.Column(scale=7, min_width=320, elem_classes=["wb-result"]):
                self.results()
                self.reports()

    def connect(self) -> None:
        """Attach the handlers."""
        asked = [self.prompt, *self.ways.inputs]
        self.on(self.go, self.race, [self.seeds, self.together, *asked, *self.generate.inputs])
        self.on(self.seek, self.inspect, [*self.lens.inputs, *asked, *self.generate.inputs])
        self.stops()

    def race(
        self, request: gr.Request, seeds: Any, together: bool, prompt: str, names: Any, raws: Any, *recipe: Any
    ) -> Iterator[tuple[Any, ...]]:
        """A row for the plain model and one a way, a column a seed; then what was measured."""
        plan = self.plan(prompt, recipe)
        ways = ways_of(plan, built(names, raws), bool(together))
        if len(ways) < 2:
            raise AskError(f"No way is chosen. Choose 1 to {MOST_CHOSEN} under Ways.")
        first, many = plan.ask.seeds[0], count(seeds, "The number of seeds", MOST_SEEDS)
        columns = [f"seed {first + at}" for at in range(many)]
        rows = [(name, [way.but(ask=way.ask.but(seeds=(first + at,))) for at in range(many)]) for name, way in ways]
        yield from self.paint(request, rows, columns, f"{len(rows)} ways on {many} seeds, in turns", measured=paced)

    def inspect(
        self, request: gr.Request, lens: Any, own: Any, prompt: str, names: Any, raws: Any, *recipe: Any
    ) -> Iterator[tuple[Any, ...]]:
        """A lens of the topic, with the chosen edits in force."""
        look = a_lens(built(lens, own))
        plan = self.plan(prompt, recipe)
        plan = plan.but(edits=(*plan.edits, *only_edits(built(names, raws))))
        yield from self.examine(request, plan, look, f"{look.card.title} · kept in the gallery")

    def plan(self, prompt: str, recipe: Any) -> Plan:
        """The Generate page's plan for one picture."""
        found: Mapping[str, Any] = self.generate.gather(*recipe)
        own = {"prompt": prompt.strip()} if prompt and prompt.strip() else {}
        return self.generate.plan({**found, "count": 1, **own})


def lenses() -> list[type[Method]]:
    """All lenses, those first that compare samplers, as reports on speed and on few steps do."""
    found = methods(("inspect", "measure", *TOPICS), "lens")
    return sorted(found, key=lambda cls: not any(control.of_kind == "sampler" for control in controls(cls)))


def ways_of(plan: Plan, found: list[Method], together: bool = False) -> list[tuple[str, Plan]]:
    """The plain plan and one a method: an edit comes after the plan's own, a sampler takes its sampler's place."""
    ways = [(PLAIN, plan)]
    for method in found:
        change = {"sampler": method} if isinstance(method, Sampler) else {"edits": (*plan.edits, *only_edits([method]))}
        ways.append((method.card.name, plan.but(**change)))
    edits = only_edits(found)
    if together and len(edits) > 1:
        ways.append((ALL, plan.but(edits=(*plan.edits, *edits))))
    return ways
