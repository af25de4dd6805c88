"""Decode: a picture told scale by scale, with what each scale took; pruning, a look inside, and a part drawn anew.

Knows the topics, the kinds and the roles of settings, never a method's name.
"""

import html
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from apps.desk import Desk, Ticket
from apps.origin import BRUSH
from apps.pages.generate import Generate
from apps.work import QUIET, Choice, Made, Work, a_lens, built, only_edits
from workbench.core.catalog import find
from workbench.core.errors import AskError
from workbench.core.method import Lens, Method, Sampler
from workbench.core.plan import Plan
from workbench.core.report import Curve, Note, Panel, Report, Table
from workbench.core.tape import Step, Tap
from workbench.runs.pacing import memory
from workbench.runs.shelf import keep_canvas
from workbench.runs.topics import BY_SCALE, methods, models_of, role, scales_of, still
from workbench.view.figures import data_uri

TITLE = "Decode"
PAGE = "decode"
TOPICS, ANEW = ("decode",), ("retouch",)
#: The role of a setting that shares the scales out between two networks, and how many there may be at most.
SPLIT, MOST_SCALES = "split", 64
_START = ("A picture, scale by scale", "Write a prompt and press Decode: each scale appears when it is told.")
_STYLE = """<style>.wb-scales{display:flex;flex-wrap:wrap;gap:10px}.wb-scales figure{margin:0;width:112px}
.wb-scales img{width:100%;border-radius:6px;margin:0;image-rendering:pixelated}
.wb-scales figcaption{font-size:.75rem;color:var(--body-text-color-subdued)}</style>"""
_NONE = ("No model decodes by scale here", "Name a VAR folder under Model, or start the app with --models DIR.")


def page(desk: Desk, demo: gr.Blocks, generate: Generate) -> None:
    """The page's components and handlers."""
    Decode(desk, demo, generate).connect()


class Decode(Work):
    """What to decode on the left; the scales, their times and a look inside on the right."""

    def __init__(self, desk: Desk, demo: gr.Blocks, generate: Generate) -> None:
        known = models_of(BY_SCALE, desk.models)
        super().__init__(desk, generate, PAGE, _START if known else _NONE)
        with gr.Row(elem_classes=["wb-main"]):
            with gr.Column(scale=5, min_width=320):
                self.prompt = gr.Textbox(label="Prompt or class", placeholder="a flat emoji of a cat, or class:207",
                                         elem_id=f"{PAGE}-prompt")  # fmt: skip
                with gr.Row():
                    self.model = gr.Dropdown(known, value=next(iter(known), None), label="Model", min_width=180,
                                             allow_custom_value=True, elem_id=f"{PAGE}-model")  # fmt: skip
                    self.seed = gr.Number(0, label="Seed", precision=0, minimum=0, min_width=90, elem_id=f"{PAGE}-seed")
                self.how = Choice(methods(TOPICS, "sampler", BY_SCALE), "Decoder", PAGE, several=False)
                self.split = gr.Slider(**shared_out(self.how.names.value, next(iter(known), "")), step=1,
                                       label="Scales of the drafter", elem_id=f"{PAGE}-split",
                                       info="The refiner draws the finer ones")  # fmt: skip
                self.measure = gr.Checkbox(True, label="Measure every scale", elem_id=f"{PAGE}-measure",
                                           info="Draws some more times, and the model alone beside it")  # fmt: skip
                self.buttons("Decode")
                self.how.place("Settings of the decoder", without=(SPLIT,), demo=demo)
                self.edits = Choice(methods(TOPICS, "edit"), "Pruning and guidance", f"{PAGE}-edits", start=0,
                                    info="Edits of the topic, in force for Decode and Look")  # fmt: skip
                self.edits.place("Settings of the edits")
                with gr.Accordion("Look inside", open=False, elem_id=f"{PAGE}-look-box"):
                    self.lens = Choice(lenses(), "Lens", f"{PAGE}-lens", several=False)
                    self.lens.place("Settings of the lens")
                    self.seek = gr.Button("Look", elem_id=f"{PAGE}-look")
                self._anew()
            with gr.Column(scale=7, min_width=320, elem_classes=["wb-result"]):
                self.results()
                self.picture = gr.Image(
                    label="Picture", type="filepath", format="png", interactive=False, visible=False, height=320,
                    elem_id=f"{PAGE}-picture", buttons=["download", "fullscreen"])  # fmt: skip
                self.reports()

    def _anew(self) -> None:
        with gr.Accordion("Draw a part anew", open=False, elem_id=f"{PAGE}-anew-box"):
            gr.Markdown("Drop a picture or take the one that was decoded, paint over what should change, and write "
                        "what it should become.", elem_classes=["quiet"])  # fmt: skip
            self.take = gr.Button("Take the decoded picture", size="sm", elem_id=f"{PAGE}-take")
            self.canvas = gr.ImageEditor(
                label="Picture and mask", type="filepath", sources=["upload", "clipboard"], elem_id=f"{PAGE}-canvas",
                brush=gr.Brush(default_size=12, colors=[BRUSH], color_mode="fixed"), eraser=gr.Eraser(default_size=12),
                layers=False, canvas_size=(256, 256), height=360, format="png", transforms=())  # fmt: skip
            self.anew = Choice(methods(ANEW, "sampler", BY_SCALE), "How", f"{PAGE}-anew", several=False)
            self.anew.place("Settings")
            self.redo = gr.Button("Draw the part anew", elem_id=f"{PAGE}-redo")

    @property
    def view(self) -> list[Any]:
        """What a running job sets."""
        return [*super().view, self.picture]

    def connect(self) -> None:
        """Attach the handlers."""
        asked = [self.prompt, self.model, self.seed, *self.edits.inputs]
        self.on(self.go, self.tell, [self.measure, self.split, *self.how.inputs, *asked])
        self.on(self.redo, self.retell, [self.measure, self.canvas, *self.anew.inputs, *asked])
        self.on(self.seek, self.inspect, [*self.lens.inputs, self.split, *self.how.inputs, *asked])
        gr.on(
            [self.how.names.change, self.model.change],
            lambda name, model, at: gr.Slider(**shared_out(name, model, self.desk.models, at)),
            [self.how.names, self.model, self.split], [self.split], queue=False, **QUIET)  # fmt: skip
        self.take.click(
            lambda path: {"background": path, "layers": [], "composite": path} if path else gr.skip(),
            [self.picture], [self.canvas], queue=False, **QUIET)  # fmt: skip
        self.stops()

    def tell(
        self, request: gr.Request, measure: Any, split: Any, names: Any, raws: Any, *asked: Any
    ) -> Iterator[tuple[Any, ...]]:
        """One picture, with every scale as it is told, and what each took."""
        sampler = a_sampler(built(names, raws, {SPLIT: split}))
        yield from self._told(request, self.plan(sampler, *asked), bool(measure))

    def retell(
        self, request: gr.Request, measure: Any, drawing: Any, names: Any, raws: Any, *asked: Any
    ) -> Iterator[tuple[Any, ...]]:
        """The painted part of a picture anew."""
        background = drawing.get("background") if isinstance(drawing, dict) else None
        if not background:
            raise AskError("There is no picture to change yet. Drop one, or take the decoded one.")
        plan = self.plan(a_sampler(built(names, raws)), *asked)
        folder = self.desk.fresh(self.desk.owner(request))
        image, mask = keep_canvas(background, drawing.get("layers") or (), folder)
        yield from self._told(request, plan.but(ask=plan.ask.but(image=image, mask=mask)), bool(measure))

    def inspect(
        self, request: gr.Request, lens: Any, own: Any, split: Any, names: Any, raws: Any, *asked: Any
    ) -> Iterator[tuple[Any, ...]]:
        """A lens on the same request."""
        look = a_lens(built(lens, own))
        sampler = a_sampler(built(names, raws, {SPLIT: split}))
        yield from self.examine(request, self.plan(sampler, *asked), look,
                             f"{look.card.title} · kept in the gallery")  # fmt: skip

    def plan(self, sampler: Sampler, prompt: str, model: Any, seed: Any, names: Any, raws: Any) -> Plan:
        """The request of the page. Raises `AskError`."""
        if not model:
            raise AskError("There is no model that decodes by scale. Name a VAR folder under Model.")
        recipe = {"prompt": prompt, "seed": seed or 0, "count": 1, "size": "", "negative": "", "sampler": "",
                  "model": str(model), "stack": []}  # fmt: skip
        return self.generate.plan(recipe).but(sampler=sampler, edits=only_edits(built(names, raws)))

    def _told(self, request: gr.Request, plan: Plan, measure: bool) -> Iterator[tuple[Any, ...]]:
        folder = self.desk.fresh(self.desk.owner(request))
        seen = Scales()
        asked = plan.but(lenses=measures() if measure else ())

        def work(tap: Tap) -> Made:
            made = self.carry_out(asked, folder, tap, watch=seen.watch)
            return together(made.reports().values()) or seen.report(), made.pictures[0]

        yield from self.do(request, "decode", f"{plan.ask.prompts[0]}, seed {plan.ask.seeds[0]}", work, seen.strip)

    def follow(self, ticket: Ticket, done: str, shown: Any = None) -> Iterator[tuple[Any, ...]]:
        """As of any page, and the finished picture at its own size."""
        before: Any = gr.Image(None, visible=False)
        for row in super().follow(ticket, done, shown):
            made = ticket.job.result if ticket.job.state == "done" else None
            path = str(made[1]) if made and made[1] is not None else ""
            yield *row, gr.Image(path, visible=True) if path.endswith(".png") else before
            before = gr.skip()


@dataclass(eq=False)
class Scales:
    """What each step of a decoding showed: its picture, and what it took. What is drawn after it is left out."""

    pictures: list[str] = field(default_factory=list[str])
    sides: list[float] = field(default_factory=list[float])
    seconds: list[float] = field(default_factory=list[float])
    bytes: list[float] = field(default_factory=list[float])
    began: float = field(default_factory=time.perf_counter)

    def watch(self, bundle: Any, step: Step) -> None:
        """Note a step; its picture is decoded outside of the time that is counted."""
        if len(self.sides) >= step.total:
            return
        self.seconds.append(time.perf_counter() - self.began)
        self.bytes.append(memory())
        self.sides.append(step.level)
        state = step.x0 if step.x0 is not None else step.x
        pixels = None if state is None else still(bundle, state)
        self.pictures.append("" if pixels is None else data_uri(pixels, 1))
        self.began = time.perf_counter()

    def strip(self) -> str:
        """The scales so far, side by side."""
        cells = "".join(
            f'<figure><img src="{uri}" alt="After scale {at + 1}"><figcaption>{at + 1} · side {side:g}<br>'
            f"{1000 * took:.0f} ms</figcaption></figure>"
            for at, (uri, side, took) in enumerate(zip(self.pictures, self.sides, self.seconds, strict=False))
        )
        return f'{_STYLE}<div class="wb-scales">{cells}</div>' if cells else ""

    def report(self) -> Report:
        """Time and memory a scale. The first one bears what comes before it, such as reading the prompt."""
        import numpy as np

        rows = tuple(
            (at + 1, side, 1000 * took, held / 2**20)
            for at, (side, took, held) in enumerate(zip(self.sides, self.seconds, self.bytes, strict=True))
        )
        panels: list[Panel] = [Table(("scale", "side", "milliseconds", "memory (MiB)"), rows, "What each scale took")]
        if len(rows) > 1:
            at = np.arange(1.0, len(rows) + 1)
            panels.append(Curve(at, 1000 * np.array([self.seconds]), ("time",), "Time", ("scale", "ms")))
        panels.append(Note(f"{sum(self.seconds):.2f} s in all without what showing the scales took. The first scale "
                           "bears reading the prompt. Memory is the process's highest so far."))  # fmt: skip
        return Report(tuple(panels))


def shared_out(decoder: Any, model: Any, models: Any = None, at: Any = None) -> dict[str, Any]:
    """The slider of who draws what: shown for a decoder that shares the scales out, up to the model's last but one."""
    control = role(find(str(decoder)), SPLIT) if decoder else None
    most = max(2, scales_of(str(model or ""), models) - 1) if model else MOST_SCALES
    start = int(at or (control.default if control is not None else 1))
    return {"minimum": 1, "maximum": most, "value": min(start, most), "visible": control is not None}


def measures() -> tuple[Lens, ...]:
    """What is measured of every decoding: the lenses of the topic, as they come."""
    return tuple(a_lens([cls()]) for cls in methods(TOPICS, "lens", BY_SCALE))


def together(reports: Iterable[Report]) -> Report | None:
    """Reports as one, None where there is none."""
    found = list(reports)
    numbers = {name: value for report in found for name, value in report.numbers.items()}
    return Report(tuple(panel for report in found for panel in report.panels), numbers) if found else None


def lenses() -> list[type[Method]]:
    """Lenses made for models that decode by scale, before those for any model."""
    made = [cls for cls in methods(("inspect", *TOPICS), "lens", BY_SCALE) if BY_SCALE in cls.card.families]
    return sorted(made, key=lambda cls: len(cls.card.families))


def a_sampler(found: Sequence[Method]) -> Sampler:
    """The one sampler that was chosen. Raises `AskError` where there is none."""
    sampler = next((method for method in found if isinstance(method, Sampler)), None)
    if sampler is None:
        raise AskError(f"No decoder is chosen. Methods of {html.escape(', '.join(TOPICS))}: workbench list.")
    return sampler
