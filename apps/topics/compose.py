"""Compose: several adapters in one model, by several modes on the same seeds; what they share, and fitting one.

Knows the topic, the kinds and the roles of settings, never a method's name.
"""

import html
import math
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gradio as gr

from apps.controls import edited
from apps.desk import Desk
from apps.pages.generate import Generate
from apps.panels import empty, trouble
from apps.rendering import redrawn
from apps.work import QUIET, Choice, Made, Work, a_lens, built, chosen, count, only_edits, table
from workbench.core.errors import AskError, WorkbenchError
from workbench.core.method import Edit, Method
from workbench.core.plan import Plan
from workbench.core.tape import Tap
from workbench.runs.composing import About, Watched, about, adapters, kept_as, learned, merged
from workbench.runs.topics import methods, role
from workbench.view.figures import data_uri

TITLE = "Compose"
PAGE = "compose"
TOPIC = "compose"
LENSES = ("inspect", "measure", TOPIC)
NEITHER = "without"
MOST_ADAPTERS, MOST_SEEDS = 16, 4
#: What the page's table says, so that no mode's form asks again.
FROM_TABLE = ("adapter", "trigger", "region", "weights", "blocks", "schedules")
#: Settings of a mode that can tell blocks and steps of single adapters apart.
FINER = ("blocks", "schedules")
_START = (
    "Several adapters, one picture",
    "Add adapters, choose some modes, and press Draw: the same seeds everywhere.",
)
Entry = dict[str, Any]  # id, source, name, weight, trigger, region, blocks, schedule, about


def page(desk: Desk, demo: gr.Blocks, generate: Generate) -> None:
    """The page's components and handlers."""
    Compose(desk, demo, generate).connect()


class Compose(Work):
    """Adapters, modes and the fit on the left; pictures and reports on the right."""

    def __init__(self, desk: Desk, demo: gr.Blocks, generate: Generate) -> None:
        super().__init__(desk, generate, PAGE, _START)
        self.demo = demo
        self.fitted: dict[str, tuple[str, str, str]] = {}  # by browser: file, name, trigger
        found = methods((TOPIC,), "edit")
        # those first that need nothing but adapters: no words for them
        modes = sorted(methods((TOPIC,), "edit", wanted="adapter"), key=lambda cls: role(cls, "trigger") is not None)
        with gr.Row(elem_classes=["wb-main"]):
            with gr.Column(scale=5, min_width=320):
                self.prompt = gr.Textbox(
                    label="Prompt",
                    placeholder="a sks on a red background",
                    info="With every trigger word; empty: the Generate page's",
                    elem_id=f"{PAGE}-prompt",
                )
                self._table()
                self.modes = Choice(modes, "Modes", PAGE, info="Each draws alone, on the same seeds")
                self.seeds = gr.Slider(1, MOST_SEEDS, 2, step=1, label="Seeds", elem_id=f"{PAGE}-seeds")
                self.buttons("Draw")
                self.modes.place("Settings of the modes", FROM_TABLE)
                self._after(modes)
                self._fit([cls for cls in found if cls not in modes and cls.card.cost == "minutes"])
            with gr.Column(scale=7, min_width=320, elem_classes=["wb-result"]):
                self.results()
                self.reports()

    def _table(self) -> None:
        self.entries, self.changed = gr.State([]), gr.State(0)
        with gr.Group():
            self.add = gr.Dropdown(adapters(), value=None, label="Add an adapter", elem_id=f"{PAGE}-add",
                                   allow_custom_value=not self.desk.public,
                                   info="A shipped one, or a file or folder of this computer"
                                   if not self.desk.public else "A shipped one, or drop a file below")  # fmt: skip
            self.drop = gr.File(label="Drop adapter files", file_types=[".safetensors"], file_count="multiple",
                                height=110, elem_id=f"{PAGE}-drop")  # fmt: skip

        @redrawn([self.entries], [self.demo.load, self.changed.change])  # type: ignore[attr-defined]
        def rows(entries: Sequence[Entry]) -> None:
            if not entries:
                gr.HTML(empty("No adapters yet", "Add shipped ones by name, or drop files."))
            for entry in entries:
                with gr.Group(elem_classes=["wb-item"]):
                    self._entry(entry)

        self.diagnose = gr.Button("What fits, and how they meet", size="sm", elem_id=f"{PAGE}-report")

    def _entry(self, entry: Entry) -> None:
        which = entry["id"]
        with gr.Row(elem_classes=["wb-item-head"]):
            gr.HTML(f"<b>{html.escape(entry['name'])}</b>")
            with gr.Row(elem_classes=["wb-tools"]):
                remove = gr.Button("Remove", size="sm", scale=0, min_width=0, elem_classes=["wb-tool"])
        told = About(**entry["about"])
        if entry["problem"] or told.line:
            line = html.escape(told.line)
            gr.HTML(trouble(entry["problem"]) if entry["problem"] else f"<p class='wb-item-line quiet'>{line}</p>")
        with gr.Row():
            weight = gr.Slider(-2, 2, entry["weight"], step=0.05, label="Weight", min_width=140, interactive=True,
                               key=f"w-{which}")  # fmt: skip
            trigger = gr.Textbox(entry["trigger"], label="Trigger", placeholder=told.trigger or "the file's own",
                                 min_width=110, interactive=True, key=f"t-{which}",
                                 info="The word that calls it")  # fmt: skip
            region = gr.Textbox(entry["region"], label="Region", placeholder="auto", min_width=130, interactive=True,
                                key=f"r-{which}", info="left, top, right, bottom, 0 to 1")  # fmt: skip

        with gr.Accordion("By block and by step", open=False):
            factors, places = entry["blocks"], dict[str, gr.Slider]()
            for place in told.places:
                key = f"b-{which}-{place}"
                places[place] = gr.Slider(-2, 2, factors.get(place, 1.0), step=0.05, label=place, interactive=True,
                                          key=key)  # fmt: skip
            schedule = gr.Textbox(entry["schedule"], label="Schedule", placeholder="1", interactive=True,
                                  key=f"s-{which}",
                                  info="Factors from the first step to the last, such as 0, 1, 1")  # fmt: skip

        def keep(entries: list[Entry], value: Any, name: str) -> list[Entry]:
            return [changed(e, name, value) if e["id"] == which else e for e in entries]

        fields = ((weight, "weight"), (trigger, "trigger"), (region, "region"), (schedule, "schedule"))
        for made, name in (*fields, *((slider, place) for place, slider in places.items())):
            edited(made)(lambda entries, value, name=name: keep(entries, value, name), [self.entries, made],
                         [self.entries], queue=False, trigger_mode="always_last", **QUIET)  # fmt: skip
        remove.click(lambda entries: ([e for e in entries if e["id"] != which], time.time()), [self.entries],
                     [self.entries, self.changed], concurrency_limit=None, **QUIET)  # fmt: skip

    def _after(self, modes: Sequence[type[Method]]) -> None:
        with gr.Accordion("Look inside, report, save", open=False, elem_id=f"{PAGE}-more"):
            self.lens = Choice(
                lenses(), "Lens", f"{PAGE}-lens", several=False, info="Looks with the first mode in force"
            )
            self.lens.place("Settings of the lens")
            self.seek = gr.Button("Look", elem_id=f"{PAGE}-look")
            fitting = [(cls.card.title, cls.card.name) for cls in modes if issubclass(cls, Edit) and cls.fits()]
            self.merged = gr.Dropdown(fitting, value=fitting[0][1] if fitting else None, label="Merge by",
                                      elem_id=f"{PAGE}-merged")  # fmt: skip
            self.save = gr.Button("Save the merged LoRA", elem_id=f"{PAGE}-save")

    def _fit(self, fitters: Sequence[type[Method]]) -> None:
        with gr.Accordion("Fit a new adapter", open=False, elem_id=f"{PAGE}-fit"):
            self.pictures = gr.File(label="Drop pictures", file_types=["image"], file_count="multiple", height=130,
                                    elem_id=f"{PAGE}-pictures")  # fmt: skip
            self.captions = gr.Textbox(label="Captions", lines=2, max_lines=8, elem_id=f"{PAGE}-captions",
                                       info="One a line, {} for what is learned; one line serves all")  # fmt: skip
            self.fitter = Choice(fitters, "How", f"{PAGE}-fitter", several=False)
            self.fitter.place("Trigger, noun, terms and steps", ("picture", "captions"))
            self.learn = gr.Button("Fit", elem_id=f"{PAGE}-learn")

    def connect(self) -> None:
        """Attach the handlers."""
        own = [self.entries, self.changed]
        listed: dict[str, Any] = {"concurrency_limit": None, **QUIET}
        self.add.input(self.take, [self.entries, self.add], [*own, self.add], **listed)
        self.drop.upload(self.dropped, [self.entries, self.drop], [*own, self.drop], **listed)
        asked = [self.entries, self.prompt, *self.modes.inputs, *self.generate.inputs]
        self.on(self.go, self.draw_all, [self.seeds, *asked])
        self.on(self.diagnose, self.fits, asked)
        self.on(self.seek, self.inspect, [*self.lens.inputs, *asked])
        self.on(self.save, self.merge, [self.merged, *asked])
        fitted = self.on(self.learn, self.fit, [self.pictures, self.captions, *self.fitter.inputs, *asked])
        for done in (fitted, self.stops()):  # also when the page was loaded again while it learned
            done.then(self.newest, [self.entries, self.prompt], [*own, self.prompt], concurrency_limit=None, **QUIET)

    # -- the table ---------------------------------------------------------------------------------------------------

    def take(self, entries: list[Entry], source: str | None) -> tuple[Any, ...]:
        """The table with one more adapter."""
        return added(entries, source or "", str(source or "")), time.time(), None

    def dropped(self, entries: list[Entry], paths: Any, request: gr.Request) -> tuple[Any, ...]:
        """The table with files that were dropped, kept in this browser's own folder."""
        folder = self.desk.folder(self.desk.owner(request)) / "adapters"
        for path in map(Path, paths or ()):
            entries = added(entries, str(kept_as(path, folder, path.stem)), path.stem)
        return entries, time.time(), None

    def newest(self, entries: list[Entry], prompt: str, request: gr.Request) -> tuple[Any, Any, Any]:
        """The table with what was fitted last, where it is not there yet, and a prompt that calls it."""
        made = self.fitted.pop(self.desk.owner(request), None)
        if made is None:
            return entries, gr.skip(), gr.skip()
        return added(entries, *made), time.time(), prompt if (prompt or "").strip() else f"a {made[2]}"

    # -- jobs ----------------------------------------------------------------------------------------------------

    def _asked(self, entries: Sequence[Entry], prompt: str, names: Any, raws: Any, *recipe: Any) -> "Request":
        found = self.generate.gather(*recipe)
        own = {"prompt": prompt.strip()} if prompt and prompt.strip() else {}
        return Request(self.generate.plan({**found, "count": 1, **own}), list(entries or ()), names, raws)

    def draw_all(self, request: gr.Request, seeds: Any, *values: Any) -> Iterator[tuple[Any, ...]]:
        """A row without adapters and one a mode, a column a seed."""
        asked = self._asked(*values)
        plan, many = asked.plan, count(seeds, "The number of seeds", MOST_SEEDS)
        ways = [(NEITHER, plan), *((m.card.name, plan.but(edits=(*plan.edits, m))) for m in asked.modes())]
        first = plan.ask.seeds[0]
        rows = [(name, [way.but(ask=way.ask.but(seeds=(first + at,))) for at in range(many)]) for name, way in ways]
        columns = [f"seed {first + at}" for at in range(many)]
        yield from self.paint(request, rows, columns, f"{len(rows)} rows on {many} seeds: “{plan.ask.prompts[0]}”")

    def fits(self, request: gr.Request, *values: Any) -> Iterator[tuple[Any, ...]]:
        """What of each file the model can use, and how the adapters meet; nothing is drawn."""
        asked = self._asked(*values)
        found = methods(LENSES, "lens", wanted="adapter")
        look = a_lens(built(found[0].card.name if found else None, {}, asked.roles()))
        yield from self.examine(request, asked.plan.but(edits=()), look, f"{len(asked.sources)} adapters read")

    def inspect(self, request: gr.Request, lens: Any, own: Any, *values: Any) -> Iterator[tuple[Any, ...]]:
        """A lens with the first mode in force."""
        asked = self._asked(*values)
        look = a_lens(built(lens, own))
        plan = asked.plan.but(edits=(*asked.plan.edits, asked.modes()[0]))
        yield from self.examine(request, plan, look, f"{look.card.title} · kept in the gallery")

    def merge(self, request: gr.Request, name: Any, *values: Any) -> Iterator[tuple[Any, ...]]:
        """The adapters merged by one mode, as a LoRA file."""
        asked = self._asked(*values)
        mode = asked.mode(str(name or ""))
        folder = self.desk.fresh(self.desk.owner(request))

        def work(tap: Tap) -> Made:
            folder.mkdir(parents=True)
            return None, merged(self.desk.run_plan(asked.plan), mode, folder)

        yield from self.do(request, "merged", f"{len(asked.sources)} adapters merged by {name}", work, None)

    def fit(
        self, request: gr.Request, pictures: Any, captions: str, names: Any, raws: Any, *values: Any
    ) -> Iterator[tuple[Any, ...]]:
        """Learn from the dropped pictures; the file joins the table when it is done."""
        asked = self._asked(*values)
        if not pictures:
            raise AskError("There are no pictures to learn from. Drop some under Fit a new adapter.")
        lines = [line.strip() for line in (captions or "").splitlines() if line.strip()]
        (edit,) = only_edits(built(names, raws, {"picture": list(pictures), "captions": lines}))[:1] or (None,)
        if edit is None:
            raise AskError("No way of fitting is installed.")
        owner = self.desk.owner(request)
        folder = self.desk.fresh(owner)
        word, noun = (_said(edit, name) for name in ("trigger", "word"))
        called = f"{word} {noun}".strip()
        line = lines[0].replace("{}", called) if lines and "{}" in lines[0] else f"a {called}"
        seen: list[Watched] = []

        def work(tap: Tap) -> Made:
            folder.mkdir(parents=True)
            bundle = self.desk.run_plan(asked.plan)
            seen.append(Watched(bundle, line, tap))
            made = learned(bundle, edit, folder, seen[0])
            kept = kept_as(made, self.desk.folder(owner) / "adapters", word or "fitted")
            self.fitted[owner] = (str(kept), kept.stem, word)
            return None, kept

        done = f"“{word}” is learned and stands in the table"
        yield from self.do(request, "fit", done, work, lambda: lesson(seen[0]) if seen else "")


class Request:
    """What the page asks for: the plan, the table, and the modes with the table in their settings."""

    def __init__(self, plan: Plan, entries: Sequence[Entry], names: Any, raws: Mapping[str, Any]) -> None:
        self.plan, self.entries, self.names, self.raws = plan, list(entries), names, raws or {}

    @property
    def sources(self) -> list[str]:
        """Where the adapters are."""
        return [str(entry["source"]) for entry in self.entries]

    def roles(self) -> dict[str, Any]:
        """The table by role; triggers and regions count where any entry names one. Raises `AskError`."""
        if not self.entries:
            raise AskError("There is no adapter yet. Add a shipped one, or drop a file.")
        triggers = [str(entry["trigger"] or "").strip() for entry in self.entries]
        boxes = [box(str(entry["region"] or ""), str(entry["name"])) for entry in self.entries]
        if any(boxes) and not all(boxes):
            raise AskError("Some adapters have a region and some have not. Give each one, or leave all on auto.")
        factors = [f"{at}/{place}={factor:g}" for at, entry in enumerate(self.entries, 1)
                   for place, factor in entry["blocks"].items() if factor != 1]  # fmt: skip
        courses = [course(str(entry["schedule"] or ""), str(entry["name"])) for entry in self.entries]
        return {"adapter": self.sources, "weights": [float(entry["weight"]) for entry in self.entries],
                "trigger": triggers if any(triggers) else [], "region": boxes if any(boxes) else [],
                "blocks": factors, "schedules": courses if any(courses) else []}  # fmt: skip

    def modes(self) -> tuple[Edit, ...]:
        """The chosen modes. Raises `AskError` where there is none."""
        if not chosen(self.names):
            raise AskError("No mode is chosen. Choose one or several under Modes.")
        return self._edits(self.names)

    def mode(self, name: str) -> Edit:
        """A mode by its name."""
        if not name:
            raise AskError("No mode is chosen to merge by.")
        return self._edits(name)[0]

    def _edits(self, names: Any) -> tuple[Edit, ...]:
        roles = self.roles()
        made = only_edits(built(names, self.raws, roles))
        for setting in FINER:
            blind = [edit.card.name for edit in made if roles[setting] and setting not in type(edit).model_fields]
            if blind:
                able = [cls.card.name for cls in methods((TOPIC,), "edit") if setting in cls.model_fields]
                raise AskError(
                    f"{', '.join(blind)} cannot weigh single blocks or steps; {', '.join(able)} can. Choose that, or "
                    "put what stands under By block and by step back to 1."
                )
        return made


def added(entries: Sequence[Entry], source: str, name: str, trigger: str = "") -> list[Entry]:
    """The table with one more adapter at its end; at most `MOST_ADAPTERS`."""
    if not source or len(entries) >= MOST_ADAPTERS:
        return list(entries)
    told, problem = About(""), ""
    try:
        told = about(source)
    except WorkbenchError as error:
        problem = str(error)
    return [*entries, {
        "id": secrets.token_hex(4), "source": source, "name": name, "weight": 1.0, "trigger": trigger, "region": "",
        "blocks": {}, "schedule": "", "about": asdict(told), "problem": problem}]  # fmt: skip


def changed(entry: Entry, name: str, value: Any) -> Entry:
    """An entry with one of its values, or the factor of one of its blocks, changed."""
    return {**entry, name: value} if name in entry else {**entry, "blocks": {**entry["blocks"], name: float(value)}}


def course(text: str, name: str) -> list[float]:
    """Factors over the steps from `0, 1, 1`; nothing where none are given. Raises `AskError`."""
    try:
        found = [float(part) for part in text.replace(";", ",").split(",") if part.strip()]
    except ValueError:
        found = [math.nan]
    if not all(math.isfinite(value) and abs(value) <= 4 for value in found):
        raise AskError(f"The schedule of {name} is {text[:40]!r}; write factors from -4 to 4, such as 0, 1, 1.")
    return found


def lesson(seen: Watched) -> str:
    """A fit so far: the line of its losses, and what it draws."""
    losses = seen.curve()
    if not losses:
        return ""
    low, high = min(losses), max(losses)
    points = " ".join(
        f"{100 * at / max(len(losses) - 1, 1):.1f},{36 - 32 * (value - low) / max(high - low, 1e-12):.1f}"
        for at, value in enumerate(losses)
    )
    said = f"Loss {losses[-1]:.4f} after {len(seen.losses)} steps, {losses[0]:.4f} at first"
    line = (
        f"<figure style='margin:0 0 8px'><svg viewBox='0 0 100 40' preserveAspectRatio='none' role='img' "
        f"aria-label='{said}' style='width:100%;height:96px'><polyline points='{points}' fill='none' "
        "stroke='var(--slider-color)' stroke-width='1.5' vector-effect='non-scaling-stroke'/></svg>"
        f"<figcaption class='quiet'>{said}</figcaption></figure>"
    )
    shown = list(seen.pictures)
    if not shown:
        return line
    heads = [f"after {at}" for at, _ in shown]
    return line + table([f"“{seen.prompt}”"], heads, [data_uri(picture, 1) for _, picture in shown])


def _said(edit: Edit, wanted: str) -> str:
    """What a fit's setting with a role says, "" where it has none."""
    control = role(type(edit), wanted)
    return "" if control is None else str(getattr(edit, control.name))


def box(text: str, name: str) -> list[float]:
    """Four shares of the picture from `0, 0, 0.5, 1`; nothing for auto. Raises `AskError`."""
    if text.strip().lower() in ("", "auto"):
        return []
    try:
        left, top, right, bottom = (float(part) for part in text.replace(";", ",").split(","))
    except ValueError:
        raise AskError(f"The region of {name} is {text[:40]!r}; write left, top, right, bottom, or auto.") from None
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise AskError(f"The region of {name} is {text[:40]!r}, outside the picture; shares go from 0 to 1.")
    return [left, top, right, bottom]


def lenses() -> list[type[Method]]:
    """Lenses on adapters and their triggers, then those that lay words over the picture."""
    return [cls for name in ("adapter", "trigger", "word") for cls in methods(LENSES, "lens", wanted=name)]
