"""The stack's arithmetic: add, move, copy, remove, switch off, restore."""

import pytest

from apps.stack import MOST_EDITS, added, duplicated, edits, item, moved, removed, restored
from workbench.core.catalog import method
from workbench.core.errors import AskError, WorkbenchError


def _names(items: list[dict[str, object]]) -> list[object]:
    return [entry["method"] for entry in items]


STACK = [item("freeu"), item("cads"), item("skip-tuning")]


def test_edits_are_added_at_the_end() -> None:
    assert _names(added(STACK, "freeu")) == ["freeu", "cads", "skip-tuning", "freeu"]
    assert added(STACK, None) == STACK


def test_edits_move_by_one_and_stop_at_the_ends() -> None:
    first, last = STACK[0]["id"], STACK[2]["id"]
    assert _names(moved(STACK, first, 1)) == ["cads", "freeu", "skip-tuning"]
    assert _names(moved(STACK, last, -1)) == ["freeu", "skip-tuning", "cads"]
    assert moved(STACK, first, -1) == STACK
    assert moved(STACK, last, 1) == STACK
    assert moved(STACK, "unknown", 1) == STACK


def test_a_copy_has_settings_of_its_own() -> None:
    start = [item("freeu", {"b1": 1.1})]
    both = duplicated(start, start[0]["id"])
    both[1]["raws"]["b1"] = 1.3
    assert [entry["raws"]["b1"] for entry in both] == [1.1, 1.3]
    assert both[0]["id"] != both[1]["id"]


def test_removed_edits_are_gone() -> None:
    assert _names(removed(STACK, STACK[1]["id"])) == ["freeu", "skip-tuning"]


def test_only_edits_that_are_on_count_and_in_order() -> None:
    stack = [item("cads"), item("freeu", on=False), item("skip-tuning")]
    assert [edit.card.name for edit in edits(stack)] == ["cads", "skip-tuning"]


def test_the_stack_has_a_limit() -> None:
    full = [item("freeu") for _ in range(MOST_EDITS)]
    with pytest.raises(AskError, match="limit"):
        added(full, "freeu")
    assert len(duplicated(full, full[0]["id"])) == MOST_EDITS


def test_a_stack_is_restored_from_settings() -> None:
    made = method("freeu", b1=1.15)
    assert edits(restored([made.to_json()])) == (made,)
    assert edits(restored([{**made.to_json(), "on": False}])) == ()


@pytest.mark.parametrize("entry", [{"method": "nothing"}, {"method": "diffuse"}, {}])
def test_what_is_no_edit_cannot_stand_in_the_stack(entry: dict[str, object]) -> None:
    with pytest.raises(WorkbenchError):
        restored([entry])
