"""The contract that every method keeps, as plain checks that raise AssertionError.

`test_edits.py` and its neighbours run them over the catalog; `test_contract_bites.py` runs them over methods that are
broken on purpose and sees them caught.
"""

import dataclasses
import functools
import json
import pickle
import random
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from tests.contract.stage import (
    ASK,
    Drawn,
    drawn,
    drawn_with,
    globals_unmoved,
    joined,
    plain,
    quick,
    refusal,
    sampler_for,
    turned,
    unchanged,
)
from workbench.core.ask import Ask
from workbench.core.bundle import Bundle
from workbench.core.catalog import find
from workbench.core.delta import Delta
from workbench.core.errors import AskError, Stopped, UnsupportedFamily
from workbench.core.fields import controls, refused
from workbench.core.method import Edit, Lens, Method, Metric, Sampler
from workbench.core.patch import Patch
from workbench.core.scene import Scene, using
from workbench.core.tape import Ended, Event, Started, Step, Tape, ignore

FAMILIES = ("unet", "dit", "mmdit", "var", "clip", "judge")
MOST_ENTRIES = 8
MOST_TAPE = 2 << 30


# ---------------------------------------------------------------------------------------------------------- settings


def settings_round_trip(cls: type[Method]) -> None:
    """Settings survive JSON, pickle, repr and `but`, are hashable and cannot be written to."""
    method = quick(cls)
    data = json.loads(json.dumps(method.to_json()))
    again = find(data.pop("method"))(**data)
    assert again == method, f"{method!r} came back from JSON as {again!r}"
    assert again.key == method.key, "equal settings have different keys"
    assert hash(again) == hash(method), "equal settings have different hashes"
    assert pickle.loads(pickle.dumps(method)) == method, "settings do not survive pickle"
    names = {known.__name__: known for known in Method.known.values()} | {cls.__name__: cls}
    assert eval(repr(method), {**names, "__builtins__": {}}, {"PosixPath": Path}) == method, "repr is not the method"
    assert method.but() == method, "but() without changes differs"
    for name in cls.model_fields:
        try:
            setattr(method, name, getattr(method, name))
        except ValidationError:
            continue
        raise AssertionError(f"{name} can be written to: settings must be frozen")


def bad_values_are_refused(cls: type[Method]) -> None:
    """Values just outside each declaration, and unknown names, are refused by a line that names the field."""
    for control in controls(cls):
        for value in refused(control):
            text = refusal(lambda settings={**cls.quick, control.name: value}: cls(**settings), AskError)
            assert text, f"{cls.card.name} declares {control.name} as {control} and accepts {value!r}"
            assert control.name in text, f"{value!r} is refused without naming {control.name}: {text}"
            assert cls.card.name in text, f"{value!r} is refused without naming the method: {text}"
            assert "\n" not in text, f"more than one line: {text!r}"
    text = refusal(lambda: cls(**{**cls.quick, "no_such_setting": 1}), AskError)
    assert "no_such_setting" in text, f"{cls.card.name} does not name the setting it does not have: {text!r}"


def fields_are_described(cls: type[Method]) -> None:
    """Each setting says what it does, and its default and `quick` values are accepted."""
    for control in controls(cls):
        assert len(control.doc) >= 8, f"{cls.card.name}.{control.name} needs a description"
        assert control.doc[-1] in ".?!", f"{cls.card.name}.{control.name}: the description is a sentence, with its stop"
    unknown = set(cls.quick) - set(cls.model_fields)
    assert not unknown, f"{cls.card.name}.quick names {unknown}, which it does not have"
    quick(cls)


def card_is_complete(cls: type[Method]) -> None:
    """Name in kebab-case and alone, title, paper, families that exist, a docstring, a verb of its own."""
    card = cls.card
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", card.name), f"{card.name!r} is not in kebab-case"
    assert card.title.strip(), f"{card.name} has no title"
    assert re.search(r"\d{4}\.\d{4,5}|[Nn]one|\d{4}", card.paper), f"{card.name} names no paper: {card.paper!r}"
    assert card.families, f"{card.name} names no family"
    assert set(card.families) <= {*FAMILIES, "any"}, f"{card.name} names unknown families: {card.families}"
    assert cls.__doc__, f"{card.name} has no docstring"
    assert cls.topic(), f"{card.name} has no topic"
    assert cls.kind in ("sampler", "edit", "lens", "metric"), f"{card.name} is of no kind"
    verbs = {"sampler": ["sample"], "edit": ["fit", "patch"], "lens": ["look"], "metric": ["score"]}[cls.kind]
    own = [verb for verb in verbs if any(verb in vars(base) for base in cls.__mro__[:-1] if base.__dict__.get("card"))]
    assert own, f"{card.name} writes none of: {', '.join(verbs)}"


def module_names_its_source(cls: type[Method], text: str) -> None:
    """A method's file opens with paper, equations and how it differs."""
    for word in ("Paper", "Equation", "Differ"):
        assert word in text, f"{cls.card.name}: the module's docstring has no {word!r}"
    number = re.search(r"\d{4}\.\d{4,5}", cls.card.paper)
    assert number is None or number[0] in text, f"{cls.card.name}: the docstring does not name {cls.card.paper}"


def other_families_are_refused(cls: type[Method], bundle: Bundle) -> None:
    """A model of a family the card does not name is refused before any work, by name."""
    if "any" in cls.card.families:
        return
    method = quick(cls)
    for family in (family for family in FAMILIES if family not in cls.card.families):
        other = dataclasses.replace(bundle, name="the-other", family=family, parts={})
        text = refusal(lambda other=other: method.check(other), UnsupportedFamily)
        assert text, f"{cls.card.name} takes a {family} model"
        assert cls.card.name in text, f"{text} does not name the method"
        assert family in text, f"{text} does not name the family"
    method.check(bundle)


# -------------------------------------------------------------------------------------------------------------- edits


class Faulty(Patch):
    """A patch whose journal breaks at its n-th entry."""

    def __init__(self, bundle: Bundle, at: int) -> None:
        super().__init__(bundle)
        self.at, self.entries = at, 0

    def _count(self) -> None:
        if self.entries == self.at:
            raise RuntimeError("the journal broke here, on purpose")
        self.entries += 1

    def _put(self, owner: object, name: str, value: object) -> None:
        self._count()
        super()._put(owner, name, value)

    def hook(self, *args: Any, **kwargs: Any) -> None:
        """Count, then hook."""
        self._count()
        super().hook(*args, **kwargs)


def edit_leaves_no_trace(edit: Edit, bundle: Bundle) -> None:
    """After use, an error in the body, nesting and an abandoned generator the model is bit for bit what it was."""
    with unchanged(bundle, "after use", deep=True), using(bundle, edit) as edited:
        drawn(edited)
    with unchanged(bundle, "after an error in the body"):
        try:
            with using(bundle, edit):
                raise ZeroDivisionError
        except ZeroDivisionError:
            pass
    with unchanged(bundle, "after nesting"), using(bundle, edit), using(bundle, edit) as edited:
        drawn(edited, ASK.row(0))
    with unchanged(bundle, "after a generator was abandoned"):
        manager = using(bundle, edit)
        manager.__enter__()
        del manager
    with unchanged(bundle, "after a run was stopped"), using(bundle, edit) as edited:
        stops(sampler_for(bundle), edited)


def edit_undoes_half(edit: Edit, bundle: Bundle) -> None:
    """When `patch` fails at any entry of the journal, what was done before is undone."""
    delta = edit.fit(bundle, ignore)
    whole = Faulty(bundle, -1)
    with whole:
        edit.patch(bundle, delta, whole)
    count = whole.entries
    assert count, f"{edit.card.name} writes nothing through its patch"

    def half(at: int) -> None:
        with Faulty(bundle, at) as patch:
            edit.patch(bundle, delta, patch)

    for at in sorted({round(i) for i in np.linspace(0, count - 1, min(count, MOST_ENTRIES))}):
        with unchanged(bundle, f"after patch failed at entry {at} of {count}"):
            text = refusal(functools.partial(half, at), RuntimeError)
        assert "on purpose" in text, f"entry {at} was swallowed: a method must not catch errors of its patch"


def neutral_changes_nothing(cls: type[Edit], bundle: Bundle) -> None:
    """At the neutral setting, where one is declared, the pictures are the very same bits."""
    if cls.neutral is None:
        return
    edit = cls(**{**cls.quick, **cls.neutral})
    assert drawn_with(bundle, edit).equals(plain(bundle)), f"{edit!r} is declared neutral and changes the pictures"


def edit_has_an_effect(cls: type[Edit], bundle: Bundle) -> None:
    """With its quick settings an edit changes something."""
    edit = quick(cls)
    assert isinstance(edit, Edit)
    assert not drawn_with(bundle, edit).equals(drawn(bundle)), (
        f"{edit!r} changes nothing: pictures and states are equal"
    )


def fit_is_pure(edit: Edit, bundle: Bundle, folder: Path) -> None:
    """`fit` leaves the model alone, gives the same twice, and its delta survives a file and names real parameters."""
    with unchanged(bundle, "after fit", deep=True), globals_unmoved("fit", python=False):
        delta = edit.fit(bundle, ignore)
    assert isinstance(delta, Delta), f"fit returned {type(delta).__name__}"
    if not edit.fits():
        assert delta.kind == "none", f"an edit without fit returned a delta of kind {delta.kind}"
        return
    _same_delta(delta, edit.fit(bundle, ignore), "a second fit")
    path = folder / f"{edit.card.name}.safetensors"
    delta.save(path)
    _same_delta(delta, Delta.load(path), "its file")
    with Patch(bundle) as patch:
        for key in delta.keys() if delta.kind != "none" else ():
            patch.find(key)
    with using(bundle, edit) as edited:
        first = drawn(edited)
    with unchanged(bundle, "after a delta from a file"), Patch(bundle) as patch:
        edit.patch(bundle, Delta.load(path), patch)
        assert drawn(bundle).equals(first), "a delta from a file draws other pictures than the fitted one"


def _same_delta(one: Delta, other: Delta, what: str) -> None:
    assert one.kind == other.kind, f"{what}: kind {one.kind} and {other.kind}"
    assert dict(one.text) == dict(other.text), f"{what}: other text"
    assert set(one.tensors) == set(other.tensors), f"{what}: other keys"
    for key, value in one.tensors.items():
        assert torch.equal(value.cpu(), other.tensors[key].cpu()), f"{what}: {key} differs"
        assert torch.isfinite(value).all(), f"{key} is not finite"


def edit_keeps_rows_apart(edit: Edit, bundle: Bundle) -> None:
    """With the edit in force image i still depends on prompt i and seed i alone, and on no global generator."""
    with globals_unmoved(edit.card.name, python=False):
        together = drawn_with(bundle, edit)
    torch.manual_seed(987)
    random.seed(987)
    assert drawn_with(bundle, edit).equals(together), f"{edit.card.name} draws other pictures the second time"
    alone = joined([drawn_with(bundle, edit, ask=ASK.row(i)) for i in range(len(ASK))])
    alone.near(together, f"{edit.card.name}, batch of {len(ASK)} against single images")


def edits_stack(first: Edit, second: Edit, bundle: Bundle) -> None:
    """Two edits work in both orders, leave no trace, and the same order gives the same pictures."""
    for pair in ((first, second), (second, first)):
        with unchanged(bundle, " then ".join(edit.card.name for edit in pair)):
            one = drawn_with(bundle, *pair, ask=ASK.row(1))
        assert torch.isfinite(torch.stack(one.states)).all(), f"{pair} draw values that are not finite"


# ----------------------------------------------------------------------------------------------------------- samplers


def sampler_shows_its_steps(sampler: Sampler, bundle: Bundle) -> None:
    """uint8 pictures of the right size, finite steps counted from 0 to the total, a run announced and ended."""
    steps: list[Step] = []
    events: list[Event] = []
    with unchanged(bundle, "after sampling"), globals_unmoved(sampler.card.name, python=False), Patch(bundle) as patch:
        patch.each(events.append)
        images = sampler.sample(bundle, ASK, steps.append)
    assert images.dtype == torch.uint8, f"pictures are {images.dtype}"
    assert tuple(images.shape) == (len(ASK), *bundle.shapes.image), f"pictures are {tuple(images.shape)}"
    assert steps, "no step was shown"
    assert [step.index for step in steps] == list(range(steps[0].total)), f"steps {[step.index for step in steps]}"
    assert len({step.total for step in steps}) == 1, "the total changes on the way"
    for step in steps:
        for name, value in (("x", step.x), ("x0", step.x0)):
            assert value is not None, f"step {step.index} shows no {name}"
            assert len(value) == len(ASK), f"{name} of step {step.index} has {len(value)} rows"
            assert torch.isfinite(value).all(), f"{name} of step {step.index} is not finite"
    assert events[0] == Started(steps[0].total, ASK.seeds), f"the run began with {events[0]}"
    assert isinstance(events[-1], Ended), f"the run ended with {type(events[-1]).__name__}"
    assert events[1:-1] == steps, "listeners heard other steps than the tap"


def sampler_repeats_itself(sampler: Sampler, bundle: Bundle) -> None:
    """The same seeds give the same bytes, whatever the global generators say; another seed gives another picture."""
    first = drawn(bundle, ASK, sampler)
    torch.manual_seed(987)
    random.seed(987)
    np.random.seed(987)  # noqa: NPY002
    assert drawn(bundle, ASK, sampler).equals(first), "the same seeds drew other pictures"
    other = drawn(bundle, ASK.but(seeds=(21, 12, 13)), sampler)
    assert not torch.equal(other.states[-1][0], first.states[-1][0]), "another seed drew the same picture"
    assert torch.allclose(other.states[-1][1:], first.states[-1][1:], atol=1e-3, rtol=1e-3), "a seed moved other rows"


def sampler_keeps_rows_apart(sampler: Sampler, bundle: Bundle) -> None:
    """A batch of three equals three of one; permuting the request permutes the pictures."""
    together = drawn(bundle, ASK, sampler)
    joined([drawn(bundle, ASK.row(i), sampler) for i in range(len(ASK))]).near(together, "batch of 3 against 3 of 1")
    order = [2, 0, 1]
    expected = Drawn(together.images[order], tuple(state[order] for state in together.states))
    drawn(bundle, turned(ASK, order), sampler).near(expected, "permuted request")


def stops(sampler: Sampler, bundle: Bundle) -> None:
    """A tap that raises `Stopped` ends the run at that very step, and the run is ended for its listeners."""
    seen: list[Step] = []
    events: list[Event] = []

    def stop(step: Step) -> None:
        seen.append(step)
        raise Stopped

    with unchanged(bundle, "after a stop"), Patch(bundle) as patch:
        patch.each(events.append)
        try:
            sampler.sample(bundle, ASK, stop)
        except Stopped:
            assert len(seen) == 1, f"{len(seen)} steps were taken after the stop"
            assert isinstance(events[-1], Ended), "listeners were not told that the run ended"
            return
    raise AssertionError(f"{sampler.card.name} swallowed Stopped")


# ----------------------------------------------------------------------------------------------------- lenses, metrics


@contextmanager
def bounded_tapes() -> Iterator[None]:
    """Every tape that is written to has a ceiling of at most 2 GiB."""
    add = Tape.add

    def watched(self: Tape, key: str, value: Tensor) -> None:
        assert self.ceiling <= MOST_TAPE, f"a tape with a ceiling of {self.ceiling / 2**30:.3g} GiB is as good as none"
        add(self, key, value)

    Tape.add = watched  # type: ignore[method-assign]
    try:
        yield
    finally:
        Tape.add = add  # type: ignore[method-assign]


class Spied(Scene):
    """A scene that notes each run's pictures beside those of the same run unwatched."""

    def run(self, ask: Any = None, edits: Any = None, sampler: Any = None, tap: Any = None, record: Any = None) -> Any:
        """Run as asked, then once more with nobody looking; the two must be the same bytes."""
        watched = super().run(ask, edits, sampler, tap, record)
        with torch.no_grad():
            plain = Scene(self.bundle, self.sampler, self.edits, self.ask).run(ask, edits, sampler)
        assert torch.equal(watched.cpu(), plain.cpu()), "looking changed the picture"
        return watched


def lens_only_looks(lens: Lens, bundle: Bundle, edits: tuple[Edit, ...] = (), ask: Ask | None = None) -> None:
    """A sound report, the same twice; model, picture and global generators untouched."""
    ask = ask or Ask(prompts=ASK.prompts[:2], seeds=ASK.seeds[:2])
    scene = Spied(bundle, sampler_for(bundle), edits, ask)
    with unchanged(bundle, f"after {lens.card.name}"), globals_unmoved(lens.card.name, python=False), bounded_tapes():
        report = lens.look(scene)
    assert report.problems() == [], f"{lens.card.name} reports: {report.problems()}"
    assert report.panels or report.numbers, f"{lens.card.name} reports nothing"
    again = lens.look(Scene(bundle, sampler_for(bundle), edits, ask))
    assert dict(again.numbers) == dict(report.numbers), "a second look finds other numbers"
    with unchanged(bundle, "after a stopped look"):
        try:
            lens.look(Scene(bundle, sampler_for(bundle), edits, ask, tap=_stop))
        except Stopped:
            return


def _stop(step: Step) -> None:
    raise Stopped


def metric_is_fair(metric: Metric, bundle: Bundle, images: Tensor, ask: Ask) -> None:
    """A value inside its interval, the same for any order of the pictures; nothing touched. Raises `MissingPart`."""
    kept = images.clone()
    with unchanged(bundle, f"after {metric.card.name}"), globals_unmoved(metric.card.name, python=False):
        report = metric.score(images, ask, bundle)
    assert torch.equal(images, kept), f"{metric.card.name} wrote into the pictures"
    assert report.problems() == [], f"{metric.card.name} reports: {report.problems()}"
    assert metric.unit, f"{metric.card.name} states no unit"
    assert metric.better in ("higher", "lower"), f"{metric.card.name} states no direction"
    numbers: Mapping[str, float] = report.numbers
    missing = {"value", "low", "high"} - set(numbers)
    assert not missing, f"{metric.card.name} gives no {', '.join(sorted(missing))}"
    assert numbers["low"] <= numbers["value"] + 1e-9, f"the interval misses the value: {dict(numbers)}"
    assert numbers["value"] <= numbers["high"] + 1e-9, f"the interval misses the value: {dict(numbers)}"
    order = torch.randperm(len(ask), generator=torch.Generator().manual_seed(1)).tolist()
    other = metric.score(images[order], turned(ask, order), bundle).numbers
    gap = abs(other["value"] - numbers["value"])
    assert gap <= 1e-6 * max(1.0, abs(numbers["value"])), f"the value depends on the order of the pictures: {gap:.2g}"
