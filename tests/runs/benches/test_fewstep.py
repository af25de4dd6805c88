"""The benchmark of few steps: wishes, pairs by hand, the promises in words, and a small run from end to end."""

import shutil
from pathlib import Path

import pytest
import torch

from tests.folders import tiny_folder
from workbench.blocks.adapter_files import shipped
from workbench.blocks.wording import parse
from workbench.blocks.world import World
from workbench.core.ask import Ask
from workbench.core.errors import AskError
from workbench.core.report import Report, Table
from workbench.runs.bench import Options, as_text, run_bench
from workbench.runs.benches.fewstep import ERASERS, Course, Wishes, fixed, how, judged, verdicts
from workbench.runs.verbs import load


def test_wishes_are_read_and_refused_in_a_line() -> None:
    assert Wishes.read({"pictures": "8", "student": "mine"}) == Wishes(pictures=8, student="mine")
    for given, word in (({"picture": "2"}, "no setting 'picture'"), ({"seeds": "x"}, "whole number above 0")):
        with pytest.raises(AskError, match=word):
            Wishes.read(given)


def told(*answers: bool) -> Report:
    rows = tuple(("a cat", "cat", "flat", "right" if answer else "wrong") for answer in answers)
    share = sum(answers) / len(answers)
    numbers = {"value": share, "low": share, "high": share, "count": float(len(answers))}
    return Report((Table(("prompt", "seen", "style", "objects"), rows),), numbers)


def test_how_far_behind_by_hand() -> None:
    first, second = told(True, True, True, True), told(True, False, True, True)
    right = verdicts(second)
    assert right == [True, False, True, True]
    numbers = judged(second, verdicts(first), right, 0.1)
    assert numbers["behind"] == 0.25
    assert numbers["missed_by"] == 0.15
    assert numbers["behind_low"] < 0.25 < numbers["behind_high"]
    base = verdicts(first)
    assert "behind" not in judged(first, base, base, None)
    assert judged(first, right, verdicts(first), 0.1)["missed_by"] == 0


def test_the_fixed_prompts_show_one_object_each() -> None:
    ask = fixed(5)
    assert len(ask) == 5
    assert ask.seeds == (0, 1, 2, 3, 4)
    world = World.load()
    assert all(len(parse(world, prompt).objects) == 1 for prompt in fixed(96).prompts)


def test_the_promises_are_held_against_what_was_reached() -> None:
    rows = [
        {"name": "student, 1 step", "numbers": {"behind": 0.15, "missed_by": 0.05, "seconds": 0.2}},
        {"name": "student, 4 steps", "numbers": {"behind": 0.01, "missed_by": 0.0, "seconds": 0.4}},
        {"name": "plain prompts: base, 20 steps", "numbers": {"diversity": 0.3}},
        {"name": "plain prompts: diversity distillation, 4 steps", "numbers": {"diversity": 0.25}},
        {"name": "plain prompts: base at guidance 7.5", "numbers": {"diversity": 0.2}},
        {"name": "plain prompts: base at guidance 7.5 with CADS", "numbers": {"diversity": 0.22}},
    ]
    text = how(Wishes(), 5, rows)
    assert "student, 1 step 15.0 points behind, at most 10 (missed by 5.0)" in text
    assert "student, 4 steps 1.0 points behind, at most 3 (reached)" in text
    assert "one step 0.20 s of at most 0.5 (reached)" in text
    assert "missed by 0.050" in text
    assert "CADS 0.220 over 0.200 (lifted)" in text


def test_a_course_draws_each_seed_whatever_the_batch() -> None:
    bundle = load(tiny_folder())
    course = Course("two steps", "diffuse", {"steps": 2, "guidance": 1.0})
    ask = Ask(prompts=["a cat"] * 9, seeds=range(9))
    images = course.draw(bundle, ask)
    assert len(images) == 9
    alone = course.draw(bundle, ask.row(8))
    assert (images[8].int() - alone[0].int()).abs().max() <= 1
    assert not torch.equal(images[0], images[1])


def test_a_small_run_from_end_to_end(tmp_path: Path) -> None:
    shutil.copytree(tiny_folder(), tmp_path / "emoji-tiny")
    kept: list[int] = []
    more = {"pictures": "2", "varied": "1", "seeds": "2", "moved": "2", "student": "random:1"}
    options = Options(model=str(tmp_path / "emoji-tiny"), steps=2, more=more)
    result = run_bench("fewstep", options, lambda found: kept.append(len(found["rows"])))
    assert kept == [4, 4, 12]
    rows = {row["name"]: row for row in result["rows"]}
    assert rows["student, 1 step"]["settings"]["steps"] == 1
    assert {"seconds", "judge", "behind", "missed_by"} <= set(rows["student, 4 steps"]["numbers"])
    assert "missed_by" not in rows["student, 2 steps"]["numbers"]
    assert rows["plain prompts: base at guidance 7.5 with CADS"]["method"] == "cads"
    assert "Promises: student, 1 step" in as_text(result)
    moved = rows["control transfer: uce"]
    assert -1 <= moved["numbers"]["transfer"] <= 1
    assert moved["numbers"]["base_moved"] > 0
    assert {"base_object", "student_edited_object"} <= set(moved["numbers"])
    assert moved["settings"]["prompts"] == [f"a {World.load().tier[0]}"]
    assert moved["settings"]["student"]["steps"] == 4
    transfers = {name.removeprefix("control transfer: ") for name in rows if "transfer" in name}
    assert transfers == {*shipped(), *ERASERS}
    for name in shipped():  # of another model than the tiny one
        assert rows[f"control transfer: {name}"]["state"].startswith("not measured: ")


def test_a_model_without_a_world_is_refused() -> None:
    with pytest.raises(AskError, match="needs a model of the emoji world"):
        run_bench("fewstep", Options(model=tiny_folder(), steps=2))
