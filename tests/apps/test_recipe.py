"""Recipes: what the page holds, a link carries and a picture remembers is the same request, and hostile ones fail."""

import base64
import json
import zlib
from typing import Any

import pytest

from apps.recipe import checked, of_plan, packed, plain, plan, size, unpacked
from apps.stack import item
from workbench.core.ask import Ask
from workbench.core.catalog import method
from workbench.core.errors import WorkbenchError
from workbench.core.plan import Plan

RECIPE: dict[str, Any] = {
    "prompt": "a <b>cat</b> & “dog”", "negative": "rain", "seed": 7, "count": 2, "size": "64x32", "model": "mine",
    "sampler": "diffuse", "raws": {"diffuse": {"steps": 5}}, "stack": [item("freeu", {"b1": 1.1})]}  # fmt: skip


def test_a_recipe_makes_the_plan_it_says() -> None:
    made = plan(RECIPE)
    assert made.ask == Ask(prompts=RECIPE["prompt"], negatives="rain", seeds=(7, 8), size=(64, 32))
    assert made.sampler == method("diffuse", steps=5)
    assert made.edits == (method("freeu", b1=1.1),)
    assert made.model == "mine"


def test_a_plan_and_its_recipe_say_the_same() -> None:
    made = plan(RECIPE)
    assert plan(of_plan(made)) == made


def test_a_link_carries_everything() -> None:
    found = unpacked(packed(RECIPE))
    assert plan(found) == plan(RECIPE)
    assert plain(found) == plain(RECIPE)


def test_an_edit_that_is_off_is_kept_but_not_used() -> None:
    off = {**RECIPE, "stack": [item("freeu", on=False)]}
    assert plan(off).edits == ()
    assert unpacked(packed(off))["stack"][0]["on"] is False


@pytest.mark.parametrize(("text", "meant"), [("", None), (None, None), ("512x256", (512, 256)), ("64 × 32", (64, 32))])
def test_sizes_are_read(text: str | None, meant: tuple[int, int] | None) -> None:
    assert size(text) == meant


@pytest.mark.parametrize(
    "change",
    [
        {"size": "big"}, {"seed": -1}, {"seed": 1.5}, {"seed": float("nan")}, {"count": 0}, {"count": 17},
        {"prompt": ""},
        {"prompt": "x" * 10_000}, {"sampler": "nothing"}, {"sampler": "freeu"}, {"stack": [item("freeu", {"b1": -5})]},
        {"raws": {"diffuse": {"steps": 0}}},
    ],
)  # fmt: skip
def test_what_cannot_be_drawn_is_refused_in_one_line(change: dict[str, Any]) -> None:
    with pytest.raises(WorkbenchError) as caught:
        plan({**RECIPE, **change})
    assert "\n" not in str(caught.value)


def _link(data: Any) -> str:
    return base64.urlsafe_b64encode(zlib.compress(json.dumps(data).encode())).decode()


@pytest.mark.parametrize(
    "text",
    ["", "!!!", "AAAA", "x" * 10_000, _link([1]), _link({"stack": [{"method": "no-such"}]}), _link({"stack": 3}),
     _link({"raws": {"diffuse": 3}}), _link({"seed": "x"}), _link({"raws": [1]})],
)  # fmt: skip
def test_damaged_links_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(WorkbenchError) as caught:
        unpacked(text)
    assert "\n" not in str(caught.value)


def test_a_link_that_expands_without_end_is_refused() -> None:
    bomb = base64.urlsafe_b64encode(zlib.compress(b"[" + b" " * 3_000_000)).decode()
    with pytest.raises(WorkbenchError):
        unpacked(bomb)


def test_paths_never_travel_in_recipes() -> None:
    with_picture = Plan(ask=Ask(prompts="a", image="/etc/passwd", mask="/etc/shadow"))
    assert "/etc" not in json.dumps(plain(of_plan(with_picture)))


def test_unknown_keys_and_nested_values_are_dropped() -> None:
    found = checked({"prompt": "a", "__class__": "x", "raws": {"diffuse": {"steps": {"deep": 1}, "guidance": 2}}})
    assert "__class__" not in found
    assert found["raws"] == {"diffuse": {"guidance": 2}}
