"""Edits in force, in order, fitted once; and the stage of a lens."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from tests.tiny import tiny_sd
from tests.toys import Dim, Fade, Mirror, Noise, Push, card, unlisted
from workbench.core.ask import Ask
from workbench.core.bundle import Bundle
from workbench.core.delta import Delta
from workbench.core.errors import Stopped, UnsupportedFamily
from workbench.core.method import Edit
from workbench.core.patch import differences, fingerprint
from workbench.core.scene import Scene, fitted, using
from workbench.core.tape import Step, Tap, ignore

FITS: list[float] = []


@unlisted
class Shift(Edit):
    """Adds the mean of a weight to it, so that what it fits depends on what came before."""

    card: ClassVar = card("toy-shift")

    def fit(self, bundle: Bundle, tap: Tap) -> Delta:
        value = bundle.sites("cross-attention")[0].value
        mean = float(value.weight.double().mean())
        FITS.append(mean)
        return Delta("weights", {value.key: torch.full((16, 32), 1.0 + mean)}, {"mean": str(mean)})


@unlisted
class Alien(Edit):
    """An edit of another family that must never be asked to fit."""

    card: ClassVar = card("toy-alien", families=("var",))

    def fit(self, bundle: Bundle, tap: Tap) -> Delta:
        raise AssertionError("asked to fit")


class Shelf:
    """A store in memory."""

    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}

    def tensors(self, key: str) -> tuple[dict[str, Tensor], dict[str, str]] | None:
        return self.kept.get(key)

    def keep_tensors(self, key: str, tensors: Mapping[str, Tensor], text: Mapping[str, str]) -> None:
        self.kept[key] = (dict(tensors), dict(text))

    def json(self, key: str) -> Any | None:
        return self.kept.get(key)

    def keep_json(self, key: str, value: Any) -> None:
        self.kept[key] = value


@pytest.fixture
def bundle() -> Bundle:
    """The shared bundle with a shelf of its own; it must be left as it was."""
    FITS.clear()
    return replace(tiny_sd(), store=Shelf())


def weight(bundle: Bundle) -> Tensor:
    return bundle.sites("cross-attention")[0].value.weight


def test_edits_are_in_force_in_the_block_and_nowhere_else(bundle: Bundle) -> None:
    before, plain = fingerprint(bundle), weight(bundle).clone()
    with using(bundle, Fade(strength=1.0)) as edited:
        assert edited is bundle
        assert torch.equal(weight(bundle), plain + -0.5 * plain)
    assert differences(before, fingerprint(bundle)) == []


def test_strength_scales_what_was_fitted(bundle: Bundle) -> None:
    plain = weight(bundle).clone()
    with using(bundle, Fade(strength=0.5)):
        assert torch.equal(weight(bundle), plain + 0.5 * (-0.5 * plain))
    with using(bundle, Fade(strength=0.0)):
        assert torch.equal(weight(bundle), plain)


def test_a_later_edit_is_fitted_on_the_model_as_the_earlier_left_it(bundle: Bundle) -> None:
    plain = float(weight(bundle).double().mean())
    with using(bundle, Fade(), Shift()):
        pass
    with using(bundle, Shift(), Fade()):
        pass
    assert pytest.approx([plain / 2, plain]) == FITS


def test_a_fitted_delta_is_kept_by_model_edits_before_and_settings(bundle: Bundle) -> None:
    for _ in range(2):
        with using(bundle, Shift()):
            first = weight(bundle).clone()
    assert len(FITS) == 1
    assert torch.equal(first, weight(bundle) + (1 + FITS[0]))
    with using(bundle, Fade(), Shift()):
        pass
    assert len(FITS) == 2
    with using(replace(bundle, digest="another"), Shift()):
        pass
    assert len(FITS) == 3
    kept = fitted(Shift(), bundle, ())
    assert (kept.kind, dict(kept.text)) == ("weights", {"mean": str(FITS[0])})


def test_one_fit_serves_every_strength_unless_the_edit_patches_in_its_own_way(bundle: Bundle) -> None:
    class Own(Fade):
        """Uses its strength as it pleases."""

        def patch(self, bundle: Bundle, delta: Delta, patch: Any) -> None:
            patch.delta(delta, self.strength**2)

    assert Fade(strength=0.5).fit_key == Fade(strength=1.5).fit_key != Fade(concepts=("dog",)).fit_key
    assert Fade(strength=0.5).key != Fade(strength=1.5).key
    assert Own(strength=0.5).fit_key != Own(strength=1.5).fit_key
    with using(bundle, Fade(strength=0.5)):
        pass
    kept = dict(bundle.store.kept)  # type: ignore[union-attr]
    with using(bundle, Fade(strength=1.5)):
        pass
    assert bundle.store.kept == kept  # type: ignore[union-attr]


def test_an_inner_use_never_takes_what_was_fitted_on_the_plain_model(bundle: Bundle) -> None:
    with using(bundle, Fade()), using(bundle, Shift()):
        nested = weight(bundle).clone()
    with using(bundle, Shift()):
        alone = weight(bundle).clone()
    with using(bundle, Fade(), Shift()):
        assert torch.equal(weight(bundle), nested)
    assert len(FITS) == 2
    assert not torch.equal(alone, nested)


def test_without_a_store_everything_works_and_nothing_is_kept(bundle: Bundle) -> None:
    bare = replace(bundle, store=None)
    for _ in range(2):
        with using(bare, Shift(), Push()):
            pass
    assert len(FITS) == 2


def test_a_model_of_another_family_is_refused_before_any_work(bundle: Bundle) -> None:
    with pytest.raises(UnsupportedFamily, match="toy-alien works on var models"), using(bundle, Shift(), Alien()):
        raise AssertionError("never entered")
    assert FITS == []


def test_a_failing_fit_leaves_the_edits_before_it_undone(bundle: Bundle) -> None:
    before = fingerprint(bundle)
    failing = unlisted(type("Failing", (Alien,), {"card": card("toy-failing"), "__module__": __name__}))
    with pytest.raises(AssertionError, match="asked to fit"), using(bundle, Fade(), failing()):
        pass
    assert differences(before, fingerprint(bundle)) == []


def test_a_scene_draws_with_anything_exchanged(bundle: Bundle) -> None:
    ask, other = Ask(prompts=["a", "b"], seeds=[1, 2]), Ask(prompts=["a"], seeds=[9])
    scene = Scene(bundle, Noise(), (Mirror(),), ask)
    before = fingerprint(bundle)
    mirrored = scene.run()
    assert torch.equal(mirrored.flip(-1), scene.run(edits=()))
    assert not torch.equal(mirrored, scene.run(ask=ask.but(seeds=(3, 4))))
    assert scene.run(ask=other).shape[0] == 1
    assert torch.equal(scene.run(sampler=Noise()), mirrored)
    assert differences(before, fingerprint(bundle)) == []


def test_a_scene_shows_its_steps_to_its_own_tap_and_to_the_lens(bundle: Bundle) -> None:
    outer, inner = [], []
    scene = Scene(bundle, Noise(), (), Ask(prompts=["a"]), outer.append)
    scene.run(tap=inner.append)
    assert outer == inner
    assert isinstance(outer[0], Step)


def test_observers_come_after_the_edits_and_go_with_them(bundle: Bundle) -> None:
    seen = []

    def record(patch: Any) -> None:
        patch.wrap("decode", lambda decode: lambda latents: (seen.append(decode(latents)), decode(latents))[1])

    scene, before = Scene(bundle, Noise(), (Mirror(),), Ask(prompts=["a"])), fingerprint(bundle)
    images = scene.run(record=record)
    assert torch.equal(((seen[0] / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8), images)
    assert differences(before, fingerprint(bundle)) == []


def test_a_stop_passes_through_a_scene_and_undoes_it(bundle: Bundle) -> None:
    def stop(step: Step) -> None:
        raise Stopped

    before = fingerprint(bundle)
    with pytest.raises(Stopped):
        Scene(bundle, Noise(), (Fade(), Dim()), Ask(prompts=["a"]), stop).run()
    assert differences(before, fingerprint(bundle)) == []


def test_the_default_tap_watches_nothing(bundle: Bundle) -> None:
    assert Scene(bundle, Noise(), (), Ask(prompts=["a"])).tap is ignore
