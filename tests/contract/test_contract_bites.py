"""Methods broken on purpose, each caught by the check that is there for it; and a toy for every seam."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pytest
import torch
from pydantic import BeforeValidator, Field
from torch import Tensor

from tests import toys
from tests.contract import stage, suite
from tests.tiny import sd_pipe, tiny_sd
from tests.toys import card, listed, unlisted
from workbench.core.ask import Ask
from workbench.core.bundle import Bundle, Condition
from workbench.core.catalog import catalog
from workbench.core.delta import Delta
from workbench.core.errors import DuplicateMethod, Stopped
from workbench.core.method import Edit, Lens, Metric, Sampler
from workbench.core.patch import Patch
from workbench.core.report import Report
from workbench.core.scene import Scene, using
from workbench.core.tape import Ended, Started, Step, Tap, Tape
from workbench.models.unet import from_pipeline


@pytest.fixture
def bundle() -> Bundle:
    """A bundle of one's own, since offenders spoil it."""
    return from_pipeline(sd_pipe(), name="tiny-sd")


def first_value(bundle: Bundle) -> Any:
    """The first cross-attention's value projection."""
    return bundle.sites("cross-attention")[0].value.owner


def noisy(patch: Patch, noise: Callable[[Tensor, Condition], Tensor]) -> None:
    """Add noise to what the network predicts."""
    patch.wrap("predict", lambda predict: lambda x, t, cond: predict(x, t, cond) + noise(x, cond))


class LeakedHook(Edit):
    """Hooks a module behind the patch's back."""

    def patch(self, bundle: Bundle, delta: Delta, patch: Patch) -> None:
        first_value(bundle).register_forward_hook(lambda module, args, output: 2 * output)


class InPlace(Edit):
    """Writes into a weight."""

    def patch(self, bundle: Bundle, delta: Delta, patch: Patch) -> None:
        with torch.no_grad():
            first_value(bundle).weight.mul_(2)


class WrittenBack(Edit):
    """Writes into a weight when a run starts and writes back when it ends."""

    def patch(self, bundle: Bundle, delta: Delta, patch: Patch) -> None:
        weight = first_value(bundle).weight

        def listen(event: object) -> None:
            with torch.no_grad():
                if isinstance(event, Started | Ended):
                    weight.mul_(2.0 if isinstance(event, Started) else 0.5)

        patch.each(listen)


class LeftBehind(Edit):
    """Leaves a cache on a module."""

    def patch(self, bundle: Bundle, delta: Delta, patch: Patch) -> None:
        first_value(bundle).cache = {}


class GlobalDraw(Edit):
    """Draws from torch's global generator."""

    def patch(self, bundle: Bundle, delta: Delta, patch: Patch) -> None:
        noisy(patch, lambda x, cond: torch.randn_like(x))


class BatchNoise(Edit):
    """Seeds one generator for the whole batch."""

    def patch(self, bundle: Bundle, delta: Delta, patch: Patch) -> None:
        noisy(patch, lambda x, cond: torch.randn(x.shape, generator=torch.Generator().manual_seed(len(x))))


class NoOp(Edit):
    """Declares a change and makes none."""

    def patch(self, bundle: Bundle, delta: Delta, patch: Patch) -> None:
        patch.wrap("guide", lambda guide: guide)


class Unbounded(Lens):
    """Records without a ceiling."""

    def look(self, scene: Scene) -> Report:
        tape = Tape(ceiling=1 << 60)
        scene.run(tap=lambda step: tape.add("x", step.x))
        return Report((), {"steps": float(len(tape["x"]))})


class LyingBound(Edit):
    """Declares a bound and clamps what passes it."""

    ratio: Annotated[float, BeforeValidator(lambda value: min(float(value), 1.0))] = Field(
        0.5, ge=0, le=1, description="At most 1."
    )


class LyingNeutral(Edit):
    """Declares a neutral setting that is not."""

    neutral: ClassVar = {"strength": 0.0}
    strength: float = Field(1.0, ge=0, le=1, description="0 changes nothing, it says.")

    def patch(self, bundle: Bundle, delta: Delta, patch: Patch) -> None:
        patch.wrap("guide", lambda guide: lambda p, n, scale, cond: guide(p, n, scale + 1, cond))


class RandomFit(Edit):
    """Fits something else each time."""

    def fit(self, bundle: Bundle, tap: Tap) -> Delta:
        key = bundle.sites("cross-attention")[0].value.key
        return Delta("weights", {key: torch.randn(16, 32, generator=torch.Generator().manual_seed(len(CALLS)))})


class WritingFit(Edit):
    """Changes the model while it fits."""

    def fit(self, bundle: Bundle, tap: Tap) -> Delta:
        with torch.no_grad():
            first_value(bundle).weight.add_(1)
        return Delta.none()


class Swallowing(Edit):
    """Catches the errors of its patch and goes on."""

    def patch(self, bundle: Bundle, delta: Delta, patch: Patch) -> None:
        try:
            patch.put(first_value(bundle), "note", 1)
        except RuntimeError:
            return


class Unstoppable(Sampler):
    """Swallows the tap's wish to stop."""

    def sample(self, bundle: Bundle, ask: Ask, tap: Tap) -> Tensor:
        try:
            return toys.Noise().sample(bundle, ask, tap)
        except Stopped:
            return torch.zeros(len(ask), 3, 16, 16, dtype=torch.uint8)


class BatchSampler(Sampler):
    """Draws the noise of all images from the first seed."""

    def sample(self, bundle: Bundle, ask: Ask, tap: Tap) -> Tensor:
        shape = (len(ask), *bundle.shapes.latent)
        x = torch.randn(shape, generator=torch.Generator().manual_seed(ask.seeds[0]))
        tap(Step(0, 1, 0.0, x, x))
        return ((bundle.decode(x) / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)


class Meddling(Lens):
    """Changes the picture it looks at."""

    def look(self, scene: Scene) -> Report:
        images = scene.run(record=lambda patch: noisy(patch, lambda x, cond: torch.ones_like(x)))
        return Report((), {"mean": float(images.float().mean())})


class FirstOnly(Metric):
    """Scores the first picture, whatever the order."""

    unit: ClassVar = "of 255"

    def score(self, images: Tensor, ask: Ask, bundle: Bundle) -> Report:
        value = float(images[0].float().mean())
        return Report((), {"value": value, "low": value, "high": value})


class Outside(Metric):
    """An interval beside its value."""

    unit: ClassVar = "of 255"

    def score(self, images: Tensor, ask: Ask, bundle: Bundle) -> Report:
        value = float(images.double().mean())
        return Report((), {"value": value, "low": value + 1, "high": value + 2})


CALLS: list[str] = []


def toy(cls: type, name: str) -> Any:
    """A broken method with a card, outside the catalog."""
    return unlisted(type(cls.__name__, (cls,), {"card": card(name), "__doc__": cls.__doc__, "__module__": __name__}))


def caught(check: Callable[..., None], *args: Any) -> str:
    """The words in which a check complains; fails when it does not."""
    with pytest.raises(AssertionError) as trouble:
        check(*args)
    return str(trouble.value)


@pytest.mark.parametrize("offender", [LeakedHook, InPlace, WrittenBack, LeftBehind])
def test_what_is_left_on_the_model_is_caught_by_the_trace_check(offender: type[Edit], bundle: Bundle) -> None:
    edit = toy(offender, "toy-offender")()
    assert "the model differs from before at unet:" in caught(suite.edit_leaves_no_trace, edit, bundle)


def test_a_draw_from_the_global_generator_is_caught_by_the_row_check(bundle: Bundle) -> None:
    text = caught(suite.edit_keeps_rows_apart, toy(GlobalDraw, "toy-global-draw")(), bundle)
    assert text == "toy-global-draw drew from the global generator of torch"


def test_noise_of_the_whole_batch_is_caught_by_the_row_check(bundle: Bundle) -> None:
    text = caught(suite.edit_keeps_rows_apart, toy(BatchNoise, "toy-batch-noise")(), bundle)
    assert text.startswith("toy-batch-noise, batch of 3 against single images: step 0 differs by")


def test_an_edit_that_does_nothing_is_caught_by_the_effect_check(bundle: Bundle) -> None:
    assert "changes nothing" in caught(suite.edit_has_an_effect, toy(NoOp, "toy-no-op"), bundle)


def test_a_tape_without_a_ceiling_is_caught_by_the_lens_check(bundle: Bundle) -> None:
    assert "as good as none" in caught(suite.lens_only_looks, toy(Unbounded, "toy-unbounded")(), bundle)


def test_a_bound_that_is_not_kept_is_caught_by_the_bad_value_check() -> None:
    text = caught(suite.bad_values_are_refused, toy(LyingBound, "toy-lying-bound"))
    assert text.startswith("toy-lying-bound declares ratio as")
    assert "accepts" in text


def test_a_second_method_of_one_name_is_refused_at_its_declaration() -> None:
    with listed(toys.Fade), pytest.raises(DuplicateMethod, match=r"'toy-fade' is declared in .*toys and in .*bites"):
        toy(NoOp, "toy-fade")


def test_a_neutral_setting_that_is_not_is_caught(bundle: Bundle) -> None:
    text = caught(suite.neutral_changes_nothing, toy(LyingNeutral, "toy-lying-neutral"), bundle)
    assert "is declared neutral and changes the pictures" in text


def test_a_fit_that_varies_is_caught_by_the_fit_check(bundle: Bundle, tmp_path: Path) -> None:
    class Varying(RandomFit):
        def fit(self, bundle: Bundle, tap: Tap) -> Delta:
            CALLS.append("fit")
            return super().fit(bundle, tap)

    text = caught(suite.fit_is_pure, toy(Varying, "toy-varying")(), bundle, tmp_path)
    assert "a second fit" in text


def test_a_fit_that_writes_is_caught_by_the_fit_check(bundle: Bundle, tmp_path: Path) -> None:
    text = caught(suite.fit_is_pure, toy(WritingFit, "toy-writing")(), bundle, tmp_path)
    assert text.startswith("after fit: the model differs")


def test_swallowed_errors_are_caught_by_the_undo_check(bundle: Bundle) -> None:
    assert "was swallowed" in caught(suite.edit_undoes_half, toy(Swallowing, "toy-swallowing")(), bundle)


def test_a_sampler_that_will_not_stop_is_caught(bundle: Bundle) -> None:
    assert "swallowed Stopped" in caught(suite.stops, toy(Unstoppable, "toy-unstoppable")(), bundle)


def test_a_sampler_that_seeds_the_batch_is_caught(bundle: Bundle) -> None:
    text = caught(suite.sampler_keeps_rows_apart, toy(BatchSampler, "toy-batch")(), bundle)
    assert "batch of 3 against 3 of 1" in text


def test_a_lens_that_meddles_is_caught(bundle: Bundle) -> None:
    assert caught(suite.lens_only_looks, toy(Meddling, "toy-meddling")(), bundle) == "looking changed the picture"


@pytest.mark.parametrize(("offender", "words"), [(FirstOnly, "depends on the order"), (Outside, "misses the value")])
def test_unfair_metrics_are_caught(offender: type[Metric], words: str, bundle: Bundle) -> None:
    assert words in caught(suite.metric_is_fair, toy(offender, "toy-unfair")(), bundle, *pictures())


def pictures() -> tuple[Tensor, Ask]:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (4, 3, 8, 8), generator=generator, dtype=torch.uint8), Ask(prompts=["a cat"] * 4)


SOUND: tuple[type[Edit], ...] = (
    toys.Fade, toys.ReadTwice, toys.Push, toys.Drift, toys.Mirror, toys.Dim, toys.HeadGate)  # fmt: skip


@pytest.mark.parametrize("cls", SOUND, ids=lambda cls: cls.card.name)
def test_a_sound_edit_of_every_seam_passes(cls: type[Edit], tmp_path: Path) -> None:
    edit, bundle = stage.quick(cls), tiny_sd()
    with listed(cls):
        suite.settings_round_trip(cls)
        suite.bad_values_are_refused(cls)
        suite.fields_are_described(cls)
        suite.card_is_complete(cls)
        suite.other_families_are_refused(cls, bundle)
    suite.edit_leaves_no_trace(edit, bundle)
    suite.edit_undoes_half(edit, bundle)
    suite.neutral_changes_nothing(cls, bundle)
    suite.edit_has_an_effect(cls, bundle)
    suite.fit_is_pure(edit, bundle, tmp_path)
    suite.edit_keeps_rows_apart(edit, bundle)


def test_sound_samplers_lenses_and_metrics_pass() -> None:
    bundle = tiny_sd()
    for check in (
        suite.sampler_shows_its_steps, suite.sampler_repeats_itself, suite.sampler_keeps_rows_apart, suite.stops,
    ):  # fmt: skip
        check(toys.Noise(), bundle)
    suite.lens_only_looks(toys.Watch(), bundle)
    suite.lens_only_looks(toys.Watch(), bundle, (toys.Fade(), toys.HeadGate()))
    suite.metric_is_fair(toys.Brightness(), bundle, *pictures())


def test_the_guide_seam_sees_scale_and_both_halves() -> None:
    sampler = stage.sampler_for(tiny_sd())
    doubled = stage.drawn(tiny_sd(), sampler=sampler.but(guidance=2 * sampler.guidance))
    assert stage.drawn_with(tiny_sd(), toys.Push(factor=2.0)).equals(doubled)


def test_the_decode_seam_is_the_last_word() -> None:
    mirrored, plain = stage.drawn_with(tiny_sd(), toys.Mirror()), stage.plain(tiny_sd())
    assert torch.equal(mirrored.images, plain.images.flip(-1))
    assert all(map(torch.equal, mirrored.states, plain.states))


def test_the_advance_seam_hands_on_the_next_state() -> None:
    drifted, plain = stage.drawn_with(tiny_sd(), toys.Drift(factor=0.5)), stage.plain(tiny_sd())
    assert torch.equal(drifted.states[0], 0.5 * plain.states[0])


def test_the_read_seam_feeds_the_network() -> None:
    bundle = tiny_sd()
    with using(bundle, toys.ReadTwice(factor=3.0)):
        tripled = bundle.read(["a cat"]).states
    assert torch.equal(tripled, 3 * bundle.read(["a cat"]).states)


def test_silencing_a_head_equals_cutting_its_columns_of_the_output() -> None:
    bundle = tiny_sd()

    class Cut(Edit):
        def patch(self, bundle: Bundle, delta: Delta, patch: Patch) -> None:
            for site in bundle.sites("cross-attention"):
                weight = site.out.weight.clone()
                weight[:, : weight.shape[1] // (site.heads or 1)] = 0
                site.out.replace(patch, weight)

    cut = stage.drawn_with(bundle, toy(Cut, "toy-cut")())
    stage.drawn_with(bundle, toys.HeadGate(factor=0.0)).near(cut, "gate against cut columns")


def test_events_reach_an_edit_and_its_cache_starts_empty() -> None:
    bundle = tiny_sd()
    with using(bundle, toys.Count()) as edited:
        stage.drawn(edited)
        assert edited.seams.seen == ["Started", "Step", "Step", "Step", "Ended"]
    with using(bundle, toys.Count()) as edited:
        assert edited.seams.seen == []


def test_toys_stay_out_of_the_catalog() -> None:
    assert not [cls for cls in catalog() if cls.card.name.startswith("toy-")]
