"""Methods by topic, kind, family and role; what a page knows put where a method has that role."""

import torch

from tests.tiny import tiny_sd
from workbench.core.catalog import find, method
from workbench.runs.topics import BY_SCALE, filled, leading, methods, models_of, role, scales_of, still


def test_methods_are_told_by_topic_kind_family_and_role() -> None:
    for cls in methods(("compose",), "edit", wanted="adapter"):
        assert (cls.topic(), cls.kind) == ("compose", "edit")
        assert role(cls, "adapter") is not None
    quick = [cls.card.cost for cls in methods(("inspect", "measure"), "lens")]
    assert quick == sorted(quick, key=("instant", "seconds", "minutes").index)
    assert all({BY_SCALE, "any"} & set(cls.card.families) for cls in methods(("decode",), "sampler", BY_SCALE))
    assert methods(("no such topic",), "edit") == []


def test_what_the_page_knows_goes_where_the_role_is() -> None:
    roles = {"adapter": ["random:1"], "weights": [0.5], "trigger": ["sks"], "anchor": "dog"}
    made = filled("merge", {"rule": "sum"}, roles).to_json()
    assert (made["adapters"], made["weights"], made["rule"]) == (["random:1"], [0.5], "sum")
    assert filled("freeu", {}, roles) == method("freeu")
    assert filled("merge", {}, {**roles, "weights": []}).to_json()["weights"] == []


def test_the_leading_method_is_quick_and_broad() -> None:
    name = leading("lens", "word")
    cls = find(name)
    assert cls.card.cost != "minutes"
    assert role(cls, "word")
    assert leading("metric", "region") == ""


def test_models_are_told_by_family(tmp_path) -> None:  # type: ignore[no-untyped-def]
    assert "emoji-unet" in models_of("unet", tmp_path)
    assert "emoji-unet" not in models_of(BY_SCALE, tmp_path)
    assert scales_of("emoji-var") == 6
    assert scales_of("emoji-unet") == scales_of("no such model") == scales_of("owner/name") == 0


def test_a_state_is_shown_or_nothing() -> None:
    bundle = tiny_sd()
    state = torch.zeros(2, *bundle.shapes.latent)
    pixels = still(bundle, state)
    assert pixels is not None
    assert pixels.dtype.name == "uint8"
    assert pixels.ndim == 3
