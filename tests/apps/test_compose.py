"""The Compose page on a running app: the table of adapters, modes on the same seeds, reports, saving, fitting."""

from pathlib import Path

import pytest
from PIL import Image

from apps.topics.compose import Compose, Request, added, box, changed, course
from tests.apps.conftest import Served
from tests.apps.pages import RECIPE, last, page_of, request
from tests.folders import tiny_plan
from workbench.core.errors import AskError
from workbench.runs.topics import methods

WHO = request("composer")
TWO = added(added([], "random:1", "one"), "random:2", "two")


@pytest.fixture(scope="module")
def page(served: Served) -> Compose:
    return page_of(served, Compose)


def test_the_table_goes_into_every_mode_by_role() -> None:
    entries = [{**TWO[0], "trigger": "sks", "region": "0, 0, 0.5, 1", "weight": 0.5}, {**TWO[1], "region": "0.5,0,1,1"}]
    modes = [cls for cls in methods(("compose",), "edit", wanted="adapter") if "weights" in cls.model_fields]
    assert len(modes) > 8
    for cls in modes:
        made = Request(tiny_plan("a sks"), entries, [cls.card.name], {}).modes()[0].to_json()
        assert made["adapters"] == ["random:1", "random:2"]
        assert made["weights"] == [0.5, 1.0]
        assert made.get("triggers", ["sks", ""]) == ["sks", ""]
        assert made.get("regions", [[0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0]])[0] == [0.0, 0.0, 0.5, 1.0]


def test_a_mode_for_one_adapter_says_so_when_two_are_worn() -> None:
    with pytest.raises(AskError, match="at most 1 item"):
        Request(tiny_plan("a sks"), TWO, ["res-adapter"], {}).modes()


def test_blocks_and_steps_of_single_adapters_go_to_modes_that_know_them() -> None:
    first = changed(changed(TWO[0], "unet:mid_block", 0.5), "schedule", "0, 1; 1")
    second = changed(TWO[1], "unet:up_blocks.1", 1)
    (made,) = Request(tiny_plan("a sks"), [first, second], ["lora"], {}).modes()
    assert made.to_json()["blocks"] == ["1/unet:mid_block=0.5"]
    assert made.to_json()["schedules"] == [[0.0, 1.0, 1.0], []]
    with pytest.raises(AskError, match="merge cannot weigh single blocks or steps; lora can"):
        Request(tiny_plan("a sks"), [first, second], ["lora", "merge"], {}).modes()
    for text in ("0, x", "nan", "1, 99"):
        with pytest.raises(AskError, match="The schedule of one"):
            course(text, "one")


def test_an_entry_says_what_its_file_says() -> None:
    (entry,) = added([], "pick", "pick")
    assert entry["about"]["trigger"] == "zwx"
    assert "unet:mid_block" in entry["about"]["places"]
    assert "There is no adapter" in added([], "nobody", "nobody")[0]["problem"]


def test_regions_are_boxes_inside_the_picture() -> None:
    assert box("auto", "one") == []
    assert box("0, 0.25; 0.5, 1", "one") == [0.0, 0.25, 0.5, 1.0]
    for text in ("1, 2", "0.5, 0, 0.5, 1", "0, 0, 1, 1.5", "left"):
        with pytest.raises(AskError, match="region of one"):
            box(text, "one")
    half = [{**TWO[0], "region": "0,0,1,1"}, TWO[1]]
    with pytest.raises(AskError, match="leave all on auto"):
        Request(tiny_plan("a"), half, ["masked-lora"], {}).modes()


def test_several_modes_are_drawn_on_the_same_seeds(page: Compose) -> None:
    shown = last(page.draw_all(WHO, 2, TWO, "", ["merge", "lora-switch"], {}, *RECIPE))
    assert shown[1].count("<img") == 6
    for name in ("without", "merge", "lora-switch", "seed 5", "seed 6"):
        assert f"<th>{name}</th>" in shown[1]
    pictures = {run.images[0].tobytes() for run in page.desk.history(page.desk.owner(WHO))}
    assert len(pictures) == 6  # every mode does something


def test_files_say_what_of_them_fits(page: Compose) -> None:
    report = last(page.fits(WHO, TWO, "", [], {}, *RECIPE))[2]
    titles = [panel.title for panel in report.panels]
    assert titles.count("What was found") == 2


def test_merged_adapters_are_saved_and_dropped_again(page: Compose) -> None:
    file = Path(last(page.merge(WHO, "merge", TWO, "", [], {}, *RECIPE))[4].value["path"])
    assert file.suffix == ".safetensors"
    entries, _, _ = page.dropped([], [str(file)], WHO)
    assert page.desk.owns(page.desk.owner(WHO), entries[0]["source"])
    assert last(page.draw_all(WHO, 1, entries, "", ["merge"], {}, *RECIPE))[1].count("<img") == 2


def test_a_fitted_adapter_stands_in_the_table(page: Compose, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), "#c03020").save(tmp_path / "one.png")
    quick = {"fit-lora": {"iterations": 4, "rank": 2, "batch": 1, "trigger": "zzz"}}
    rows = list(page.fit(WHO, [str(tmp_path / "one.png")], "a {}", "fit-lora", quick, TWO, "", [], {}, *RECIPE))
    assert any("Step" in str(row[0]) for row in rows) or "learned" in rows[-1][0]
    assert "did not work" not in rows[-1][0]
    assert "after 4 steps" in rows[-1][1]
    assert "<polyline" in rows[-1][1]
    assert "“a zzz”: after 4" in rows[-1][1]  # a picture of what is learned
    entries, _, prompt = page.newest(TWO, "", WHO)
    assert prompt == "a zzz"
    assert (entries[-1]["trigger"], len(entries)) == ("zzz", 3)
    assert Path(entries[-1]["source"]).is_file()
    assert page.newest(entries, "", WHO)[0] == entries  # once


def test_what_is_missing_is_a_line(page: Compose) -> None:
    for rows, words in (
        (page.draw_all(WHO, 1, [], "", ["merge"], {}, *RECIPE), "no adapter yet"),
        (page.draw_all(WHO, 1, TWO, "", [], {}, *RECIPE), "No mode is chosen"),
        (page.fit(WHO, [], "", "fit-lora", {}, [], "", [], {}, *RECIPE), "no pictures to learn from"),
    ):
        with pytest.raises(AskError, match=words):
            last(rows)
