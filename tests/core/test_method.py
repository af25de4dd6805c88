"""Methods are frozen records of their settings, with errors in one line."""

import json
import pickle
import warnings
from typing import Any, ClassVar

import pytest
import torch
from pydantic import Field

from tests.tiny import tiny_sd
from tests.toys import Brightness, Count, Fade, Noise, Push, Watch, card, listed, unlisted
from workbench.core.ask import Ask
from workbench.core.errors import AskError, DuplicateMethod, UnsupportedFamily
from workbench.core.method import KINDS, AnyEdit, Card, Edit, Lens, Method, Metric, Sampler
from workbench.core.scene import Scene
from workbench.core.tape import ignore


@unlisted
class Nest(Edit):
    """An edit whose settings hold another."""

    card: ClassVar[Card] = card("toy-nest")

    inner: AnyEdit = Field(description="The other edit.")


def test_an_instance_is_its_settings() -> None:
    one, other = Fade(strength=0.5), Fade(strength=0.5)
    assert one == other
    assert hash(one) == hash(other)
    assert one.key == other.key != Fade(strength=0.4).key
    assert one != Fade(strength=0.4)
    assert {one: 1}[other] == 1
    assert pickle.loads(pickle.dumps(one)) == one
    assert repr(one) == "Fade(concepts=('cat',), strength=0.5)"
    assert one.to_json() == {"method": "toy-fade", "concepts": ["cat"], "strength": 0.5}


def test_settings_cannot_be_written_and_copies_are_checked() -> None:
    edit = Fade()
    with pytest.raises(ValueError, match="frozen"):
        edit.strength = 0.1  # type: ignore[misc]
    assert edit.but(strength=0.1).strength == 0.1
    assert edit.strength == 1.0
    with pytest.raises(AskError, match=r"toy-fade: strength is 3; it should be less than or equal to 2"):
        edit.but(strength=3)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"strength": 2.5}, "toy-fade: strength is 2.5; it should be less than or equal to 2"),
        ({"strength": "much"}, "toy-fade: strength is 'much'; it should be a valid number"),
        ({"strength": float("nan")}, "toy-fade: strength is nan; it should be a finite number"),
        ({"strength": None}, "toy-fade: strength is None; it should be a valid number"),
        ({"concepts": [1]}, "toy-fade: concepts.0 is 1; it should be a valid string"),
        ({"strenght": 1}, "toy-fade has no setting 'strenght'. It has: concepts, strength."),
    ],
)
def test_a_refused_setting_is_named_with_its_value_and_what_is_allowed(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(AskError) as trouble:
        Fade(**settings)
    assert str(trouble.value).startswith(words)
    assert "\n" not in str(trouble.value)


def test_a_missing_setting_is_named_with_its_description() -> None:
    with pytest.raises(AskError, match=r"toy-nest needs inner: The other edit\."):
        Nest()


def test_settings_may_hold_methods_by_name() -> None:
    with listed(Fade):
        nest = Nest(inner={"method": "toy-fade", "strength": 0.25})
        assert nest.inner == Fade(strength=0.25)
        data = json.loads(json.dumps(nest.to_json()))
        assert data["inner"] == {"method": "toy-fade", "concepts": ["cat"], "strength": 0.25}
        assert Nest(inner=data["inner"]) == nest
        with pytest.raises(AskError, match="toy-fade: strength is 9"):
            Nest(inner={"method": "toy-fade", "strength": 9})
    with pytest.raises(AskError, match=r'inner is .*must be \{"method": name'):
        Nest(inner={"strength": 1})
    with pytest.raises(AskError, match="inner"):
        Nest(inner=Brightness())


def test_a_name_belongs_to_one_class_but_may_be_declared_again() -> None:
    with listed(Fade):
        with pytest.raises(DuplicateMethod, match=r"'toy-fade' is declared in .*toys and in .*test_method\. Rename"):
            type("Other", (Edit,), {"card": card("toy-fade"), "__module__": __name__})
        again = {"card": Fade.card, "__module__": Fade.__module__, "__qualname__": "Fade"}
        type("Fade", (Edit,), again)  # a notebook's cell run twice, a module reloaded


@pytest.mark.parametrize("name", ["key", "topic", "fit", "patch", "model_name", "check", "kind_of"])
def test_names_that_mean_something_else_are_refused(name: str) -> None:
    body = {"card": card("toy-reserved"), "__annotations__": {name: int}, name: 1, "__module__": __name__}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydantic warns of some of them as well
        if name == "kind_of":
            unlisted(type("Reserved", (Edit,), body))
            return
        with pytest.raises(AskError, match=f"{name!r} cannot be the name of a setting"):
            type("Reserved", (Edit,), body)
    assert "toy-reserved" not in Method.known


def test_kinds_and_their_verbs() -> None:
    assert {kind: cls.__name__ for kind, cls in KINDS.items()} == {
        "sampler": "Sampler", "edit": "Edit", "lens": "Lens", "metric": "Metric"}  # fmt: skip
    kinds = [type(method).kind for method in (Noise(), Fade(), Watch(), Brightness())]
    assert kinds == ["sampler", "edit", "lens", "metric"]
    bundle, ask = tiny_sd(), Ask(prompts="a cat")
    given = {
        Sampler: ("sample", (bundle, ask, ignore)),
        Lens: ("look", (Scene(bundle, Noise(), (), ask),)),
        Metric: ("score", (torch.zeros(1, 3, 2, 2, dtype=torch.uint8), ask, bundle)),
    }
    for cls, (verb, values) in given.items():
        bare = unlisted(type("Bare", (cls,), {"card": card("toy-bare"), "__module__": __name__}))
        with pytest.raises(NotImplementedError):
            getattr(bare(), verb)(*values)


def test_an_edit_knows_whether_it_fits() -> None:
    assert Fade.fits()
    assert not Push.fits()
    assert Push().fit(tiny_sd(), lambda step: None).kind == "none"


def test_the_topic_is_the_folder_or_what_the_card_says() -> None:
    assert Fade.topic() == "toys"
    module = {"card": Card("toy-t", "T", "none", ("any",)), "__module__": "workbench.methods.erase.toy"}
    assert unlisted(type("T", (Edit,), module)).topic() == "erase"


def test_other_families_are_refused_before_any_work() -> None:
    var = unlisted(type("Var", (Edit,), {"card": card("toy-var", families=("var", "dit")), "__module__": __name__}))
    with pytest.raises(UnsupportedFamily, match=r"toy-var works on var and dit models; 'tiny-sd' is of family unet"):
        var().check(tiny_sd())
    Brightness().check(tiny_sd())
    Count().check(tiny_sd())
