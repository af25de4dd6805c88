"""Generate: a prompt, a sampler with its form, a picture to start from, the stack of edits, and the pictures."""

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from apps import recipe as recipes
from apps.desk import Desk, Ticket
from apps.origin import BRUSH, Painted, behind, canvas, on_canvas
from apps.pages.detail import Detail, plan_of
from apps.panels import empty, trouble
from apps.picker import Picker
from apps.show import busy, cancel_button, clock, over, ready, running
from apps.stack import Stack
from workbench.core.errors import AskError, WorkbenchError
from workbench.runs.shelf import keep_canvas, plan_inside

PAGE = "generate"
DEFAULT = "default"
EXAMPLES = (
    "a cat",
    "a flat emoji of a red apple on a blue background",
    "a 3d emoji of a rocket",
    "an ink emoji of a tree",
)
NOTHING_YET = ("No pictures yet", "Write a prompt and press Generate, or Ctrl+Enter.")
NO_MODEL = (
    "There is no default model here yet: assets/models/emoji-unet is missing. "
    "Name another under Model: a diffusers folder, a .safetensors file or a hub id."
)


class Generate:
    """The page's components; other pages read its recipe and send pictures to it."""

    def __init__(self, desk: Desk, demo: gr.Blocks, ready: bool) -> None:
        self.desk, self.demo = desk, demo
        suggest = desk.words() if ready else []
        with gr.Row(elem_classes=["wb-main"]):
            with gr.Column(scale=5, min_width=340):
                self._request()
                with gr.Accordion("Stack of edits", open=True, elem_id="stack"):
                    self.stack = Stack()
                    self.stack.place(demo, suggest)
                with gr.Accordion("Sampler", open=True):
                    self.picker = Picker("sampler", "Sampler", "sampler", "diffuse")
                    self.picker.place(demo, suggest)
                self._start_picture()
                self._keeping()
            with gr.Column(scale=7, min_width=340, elem_classes=["wb-result"]):
                start = empty(*NOTHING_YET) if ready else trouble(NO_MODEL)
                self.stage = gr.HTML(start, elem_id="stage")
                self.pictures = gr.Gallery(
                    label="Pictures",
                    show_label=False,
                    visible=False,
                    columns=2,
                    object_fit="contain",
                    fit_columns=False,
                    elem_id="pictures",
                    buttons=["download", "fullscreen"],
                    format="png",
                )
                self.paths = gr.State([])
                self.detail = Detail(desk, "result")

    def _request(self) -> None:
        self.prompt = gr.Textbox(label="Prompt", placeholder=EXAMPLES[1], lines=2, max_lines=6, elem_id="prompt")
        with gr.Row(elem_classes=["wb-chips"]):
            for text in EXAMPLES[:1] + EXAMPLES[2:]:
                gr.Button(text, size="sm", variant="secondary", scale=0).click(
                    None, None, self.prompt, js=f"() => {text!r}", api_visibility="private"
                )
        with gr.Row(elem_id="go-row"):
            self.go = gr.Button("Generate", variant="primary", elem_id="go", scale=3)
            self.cancel = cancel_button("cancel")
        self.negative = gr.Textbox(
            label="Negative prompt",
            lines=1,
            max_lines=4,
            elem_id="negative",
            placeholder="what should not be in the picture",
        )
        with gr.Row(elem_classes=["wb-seeds"]):
            self.seed = gr.Number(0, label="Seed", precision=0, minimum=0, min_width=110, elem_id="seed")
            self.count = gr.Slider(1, recipes.MOST_COUNT, 1, step=1, label="Pictures", min_width=150, elem_id="count")
            self.size = gr.Textbox("", label="Size", placeholder="own, or 512x512", min_width=110, elem_id="size")
        with gr.Row(elem_classes=["wb-chips"]):
            self.roll = gr.Checkbox(True, label="New seed each time", container=False, elem_id="roll", min_width=150)
            dice = gr.Button("Roll the dice", size="sm", scale=0, elem_id="dice")
            self.reuse = gr.Button("Reuse last seed", size="sm", scale=0, elem_id="reuse")
        dice.click(
            None,
            None,
            [self.seed, self.roll],
            js="() => [Math.floor(Math.random() * 4294967296), false]",
            api_visibility="private",
        )
        names = [name for name in self.desk.names() if name != "emoji-unet"]
        self.model = gr.Dropdown(
            [("Default: emoji-unet", DEFAULT), *names],
            value=DEFAULT,
            label="Model",
            allow_custom_value=True,
            elem_id="model",
            info="A name, a folder, a .safetensors file or a hub id (fetched when you generate)",
        )

    def _start_picture(self) -> None:
        with gr.Accordion("Start from a picture", open=False, elem_id="start") as self.folded:
            gr.Markdown(
                "Drop a picture to redraw it; paint over what should change to redraw only that. How much "
                "changes is the sampler's strength.",
                elem_classes=["quiet"],
            )
            self.canvas = gr.ImageEditor(
                label="Start picture and mask",
                type="filepath",
                sources=["upload", "clipboard"],
                elem_id="canvas",
                brush=gr.Brush(default_size=24, colors=[BRUSH], color_mode="fixed"),
                eraser=gr.Eraser(default_size=24),
                layers=False,
                canvas_size=(512, 512),
                height=420,
                format="png",
                transforms=("crop",),
            )
            self.painted = gr.State(None)
            self.pad = gr.Slider(
                0,
                256,
                0,
                step=8,
                label="Add a border (px)",
                elem_id="pad",
                info="Outpaint: the border is drawn anew on every side",
            )

    def _keeping(self) -> None:
        with gr.Accordion("Presets and link", open=False, elem_id="presets"):
            with gr.Row():
                self.preset = gr.Dropdown(
                    [],
                    label="Preset",
                    elem_id="preset",
                    allow_custom_value=True,
                    scale=3,
                    info="Choose one to load it, or write a name to save under",
                )
                with gr.Column(scale=1, min_width=90):
                    self.save = gr.Button("Save", size="sm", elem_id="preset-save")
                    self.drop = gr.Button("Delete", size="sm", elem_id="preset-drop")
            self.link = gr.Button("Copy a link with these settings", size="sm", elem_id="link")
            self.link_text = gr.Textbox(
                label="Link", visible=False, interactive=False, elem_id="link-text", buttons=["copy"]
            )

    # -- the recipe, to and from the components ------------------------------------------------------------------

    @property
    def inputs(self) -> list[Any]:
        """The components that hold the recipe, in the order `gather` takes them."""
        return [
            self.prompt,
            self.negative,
            self.seed,
            self.count,
            self.size,
            self.model,
            self.picker.name,
            self.picker.raws,
            self.stack.items,
        ]

    @property
    def outputs(self) -> list[Any]:
        """The components that `spread` sets."""
        return [*self.inputs, self.picker.version, self.stack.version]

    @property
    def origin(self) -> list[Any]:
        """The components that hold a picture to start from."""
        return [self.canvas, self.painted, self.folded]

    def restored(self, tabs: gr.Tabs) -> list[Any]:
        """The components that `restore` sets."""
        return [*self.outputs, self.roll, *self.origin, self.pad, self.stage, tabs]

    @staticmethod
    def gather(*values: Any) -> recipes.Recipe:
        """The recipe from the components' values."""
        names = ("prompt", "negative", "seed", "count", "size", "model", "sampler", "raws", "stack")
        found = dict(zip(names, values, strict=True))
        return {**found, "model": "" if found["model"] in (None, DEFAULT) else found["model"]}

    @staticmethod
    def spread(found: recipes.Recipe) -> list[Any]:
        """The components' values from a recipe."""
        now = time.time()
        name = found["sampler"]
        return [
            found["prompt"],
            found["negative"],
            found["seed"],
            found["count"],
            found["size"],
            found["model"] or DEFAULT,
            name or gr.skip(),
            found["raws"],
            found["stack"],
            now,
            now,
        ]

    def plan(
        self,
        found: recipes.Recipe,
        drawing: Any = None,
        pad: Any = 0,
        folder: Path | None = None,
        painted: Painted | None = None,
    ) -> Any:
        """The plan of a recipe, with what is on the canvas written into a folder. Raises `AskError`."""
        image = mask = None
        background = drawing.get("background") if isinstance(drawing, dict) else None
        if background and folder is not None:
            pixels = recipes.whole(pad or 0, "The border", 0, 256)
            picture, layers = behind(painted, background, drawing.get("layers") or ())
            image, mask = keep_canvas(picture, layers, folder, pixels)
        self.desk.allow(found["model"])
        return recipes.plan(found, image, mask)

    # -- events --------------------------------------------------------------------------------------------------

    def connect(self, tabs: gr.Tabs) -> None:
        """Attach the handlers, once all pages are there."""
        view = [self.stage, self.pictures, self.paths, self.go, self.cancel, self.seed]
        run = gr.on(
            [self.go.click, self.prompt.submit],
            self.generate,
            [*self.inputs, self.roll, self.canvas, self.pad, self.painted],
            view,
            show_progress="hidden",
            concurrency_limit=32,
            trigger_mode="once",
            api_name="generate",
        )
        again = self.desk.reopen(self.demo, PAGE, view, self._show)
        shown = [*self.detail.outputs, *self.detail.steps]
        for drawn in (run, again):
            drawn.then(
                self.detail.first,
                [self.paths],
                shown,
                show_progress="hidden",
                queue=False,
                api_visibility="private",
            )
        for button, by in ((self.detail.previous, -1), (self.detail.next, 1)):
            button.click(
                self.walk(by),
                [self.paths, self.detail.picked],
                [self.pictures, *shown],
                show_progress="hidden",
                queue=False,
                api_visibility="private",
            )
        self.cancel.click(self.stop, None, None, queue=False, show_progress="hidden", api_visibility="private")
        self.pictures.select(
            self.detail.chosen,
            [self.paths],
            shown,
            queue=False,
            show_progress="hidden",
            api_visibility="private",
        )
        self.reuse.click(
            self.last_seed,
            [self.paths, self.seed],
            [self.seed, self.roll],
            queue=False,
            show_progress="hidden",
            api_visibility="private",
        )

    def generate(self, request: gr.Request, *values: Any) -> Iterator[tuple[Any, ...]]:
        """Draw: each step is one yield; the job goes on when the page is closed."""
        *settings, roll, drawing, pad, painted = values
        owner = self.desk.owner(request)
        found = self.gather(*settings)
        if roll:
            found["seed"] = random.SystemRandom().randrange(2**32)
        try:
            folder = self.desk.fresh(owner)
            plan = self.plan(found, drawing, pad, folder, painted)
            ticket = self.desk.submit(owner, PAGE, plan, (folder,), plan.ask.prompts[0])
        except WorkbenchError as error:
            yield trouble(str(error)), gr.skip(), gr.skip(), gr.skip(), gr.skip(), gr.skip()
            return
        yield from self._show(ticket, found["seed"])

    def _show(self, ticket: Ticket, seed: int | None = None) -> Iterator[tuple[Any, ...]]:
        waiting = running(ticket, self.desk.jobs.waiting(ticket.job))
        shown = gr.skip() if seed is None else seed
        yield waiting, gr.Gallery(visible=False), [], *busy(), shown
        count = 0
        for _ in self.desk.follow(ticket):
            paths = [str(path) for path in ticket.drawn]
            gallery = self._gallery(paths) if len(paths) != count else gr.skip()
            count = len(paths)
            now = running(ticket, self.desk.jobs.waiting(ticket.job))
            yield now, gallery, gr.skip(), *busy(), gr.skip()
        paths = [str(path) for path in ticket.drawn]
        words = f"{len(paths)} picture{'s' * (len(paths) != 1)}"
        if ticket.job.state == "done":
            words += f" in {clock(ticket.job.result.seconds)} · run {ticket.job.result.folder.name}"
        yield (
            over(ticket, words) if paths or ticket.job.state != "done" else empty(*NOTHING_YET),
            self._gallery(paths),
            paths,
            *ready(),
            gr.skip(),
        )

    @staticmethod
    def _gallery(paths: list[str]) -> Any:
        return gr.Gallery(
            paths,
            visible=bool(paths),
            columns=2 if len(paths) <= 4 else 4,
            selected_index=None,
        )

    def stop(self, request: gr.Request) -> None:
        """Cancel this browser's job: it ends before its next step."""
        self.desk.cancel(self.desk.owner(request), PAGE)

    def walk(self, by: int) -> Any:
        """A handler that goes along the pictures of the run."""

        def step(paths: list[str], picked: str | None) -> tuple[Any, ...]:
            path = self.detail.beside(paths, picked, by)
            marked = gr.Gallery(selected_index=paths.index(path)) if path in paths else gr.skip()
            return marked, *self.detail.along(paths, path)

        return step

    def last_seed(self, paths: list[str], seed: Any) -> tuple[Any, Any]:
        """The seed of the last pictures, and no new one next time."""
        try:
            return (plan_inside(paths[0]).ask.seeds[0] if paths else seed), False
        except AskError:
            return seed, False

    def restore(self, path: str | None, request: gr.Request) -> list[Any]:
        """Every setting of a picture or report of ours, on this page; or one line saying why not."""
        skip = [gr.skip()] * len(self.outputs)
        if not path:
            return [*skip, *[gr.skip()] * 7]
        try:
            source = plan_of(path)
            found = recipes.of_plan(source)
            shown, painted = on_canvas(self.desk, self.desk.owner(request), source)
        except WorkbenchError as error:
            return [*skip, *[gr.skip()] * 5, trouble(str(error)), gr.Tabs(selected=PAGE)]
        origin = (shown, painted, gr.Accordion(open=shown is not None))
        return [*self.spread(found), False, *origin, 0, gr.skip(), gr.Tabs(selected=PAGE)]

    def start_from(self, path: str | None) -> tuple[Any, ...]:
        """A picture on the canvas of this page."""
        if not path:
            return (gr.skip(),) * 4
        return canvas(path), None, gr.Accordion(open=True), gr.Tabs(selected=PAGE)
