"""What is kept: pictures and reports in a browser's own folder, found, shown, sent back, deleted and brought back."""

import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from apps.desk import PREVIEW_SHARE, Desk, Preview, short
from apps.origin import on_canvas
from apps.pages.gallery import PICTURES, REPORTS, Gallery
from apps.pages.generate import Generate
from apps.pages.inspect import Inspect
from apps.stack import item
from tests.apps.conftest import MODEL, Served
from workbench.core.ask import Ask
from workbench.core.plan import Plan
from workbench.core.tape import Step
from workbench.runs.history import read_run
from workbench.runs.shelf import plan_inside

LENS = "denoise-film"


def _request(token: str) -> Any:
    return SimpleNamespace(cookies={"workbench_browser": token}, session_hash=token, query_params={})


def _page(served: Served, cls: type) -> Any:
    owners = (getattr(fn.fn, "__self__", None) for fn in served.demo.fns.values())
    return next(owner for owner in owners if isinstance(owner, cls))


@pytest.fixture(scope="module")
def generate(served: Served) -> Generate:
    return _page(served, Generate)


@pytest.fixture(scope="module")
def inspect(served: Served) -> Inspect:
    return _page(served, Inspect)


@pytest.fixture(scope="module")
def gallery(served: Served) -> Gallery:
    return _page(served, Gallery)


RECIPE = ("a kept cat", "", 5, 1, "", MODEL, "diffuse", {"diffuse": {"steps": 2}})


def _draw(generate: Generate, token: str, canvas: Any = None, painted: Any = None) -> str:
    rows = generate.generate(_request(token), *RECIPE, [], False, canvas, 0, painted)
    return list(rows)[-1][2][0]


def _look(inspect: Inspect, token: str, base: Any = None) -> tuple[Any, ...]:
    last = list(inspect.look(_request(token), "", True, base, LENS, {LENS: {"frames": 2}}, *RECIPE, [item("freeu")]))[
        -1
    ]
    assert "kept in the gallery" in last[0], last[0]
    return last


def test_a_look_is_a_run_of_its_own_and_the_gallery_shows_it_again(inspect: Inspect, gallery: Gallery) -> None:
    shown = _look(inspect, "looker")[1]
    line, _, table, paths = gallery.find("kept cat denoise", REPORTS, _request("looker"))
    assert "1 report" in line
    assert table.value["data"][0][1:4] == ["Denoise film", "a kept cat", "5"]
    (again,) = read_run(paths[0]).reports().values()
    assert np.array_equal(again.panels[0].frames, shown.panels[0].frames)  # type: ignore[union-attr]
    assert [edit.card.name for edit in read_run(paths[0]).plan.edits] == ["freeu"]
    right = gallery.show(paths, paths[0], _request("looker"))
    assert right[-2] == paths
    assert "a kept cat" in right[2]
    assert gallery.find("", PICTURES, _request("looker"))[-1] == []
    assert gallery.find("nothing of this", REPORTS, _request("looker"))[-1] == []
    assert gallery.find("", REPORTS, _request("somebody else"))[-1] == []


def test_a_picture_shows_the_reports_that_looked_at_it(generate: Generate, inspect: Inspect, gallery: Gallery) -> None:
    path = _draw(generate, "pair")
    base = inspect.take(path)[1]
    list(inspect.look(_request("pair"), base["prompt"], True, base, LENS, {LENS: {"frames": 2}}, *RECIPE, []))
    _look(inspect, "pair")  # with an edit: another request
    looked = gallery.show([path], path, _request("pair"))[-2]
    assert len(looked) == 1
    assert read_run(looked[0]).plan.edits == ()


def test_settings_come_back_from_a_report(inspect: Inspect, gallery: Gallery, generate: Generate) -> None:
    _look(inspect, "again")
    folder = gallery.find("", REPORTS, _request("again"))[-1][0]
    found = generate.restore(folder, _request("again"))
    assert found[:3] == ["a kept cat", "", 5]
    assert [entry["method"] for entry in found[8]] == ["freeu"]


def test_pictures_and_reports_are_deleted_and_brought_back(
    generate: Generate, inspect: Inspect, gallery: Gallery
) -> None:
    who = _request("tidy")
    _draw(generate, "tidy")
    _look(inspect, "tidy")
    for kind in (PICTURES, REPORTS):
        paths = gallery.find("", kind, who)[-1]
        gone = gallery.throw(paths[0], paths, [], "", kind, who)
        assert gone[3] == []
        assert not Path(paths[0]).exists()
        back = gallery.bring_back(gone[4], "", kind, who)
        assert back[3] == paths
        assert back[4] == []


def test_nobody_deletes_what_is_not_theirs(generate: Generate, gallery: Gallery, served: Served) -> None:
    path = _draw(generate, "victim")
    desk: Desk = served.demo.desk
    thief = desk.owner(_request("thief"))
    for target in (path, str(Path(path).parent), str(desk.root), str(desk.folder(thief)), "/etc/hostname"):
        assert desk.discard(thief, target) == ""
    assert Path(path).is_file()


def test_one_goes_along_the_list_and_stops_at_its_ends(gallery: Gallery) -> None:
    paths = ["a", "b", "c"]
    assert [gallery.detail.beside(paths, at, 1) for at in paths] == ["b", "c", "c"]
    assert [gallery.detail.beside(paths, at, -1) for at in paths] == ["a", "a", "b"]
    seen = [[button.visible for button in gallery.detail.walk(paths, at)] for at in paths]
    assert seen == [[False, True], [True, True], [True, False]]


def test_the_start_picture_and_its_mask_come_back_on_the_canvas(
    generate: Generate, served: Served, tmp_path: Path
) -> None:
    Image.new("RGB", (64, 64), "#204060").save(tmp_path / "start.png")
    layer = Image.new("RGBA", (64, 64))
    layer.paste((255, 79, 139, 255), (8, 8, 24, 24))
    layer.save(tmp_path / "layer.png")
    canvas = {"background": str(tmp_path / "start.png"), "layers": [str(tmp_path / "layer.png")], "composite": None}
    path = _draw(generate, "painter", canvas)
    mask = plan_inside(path).ask.mask
    assert mask is not None
    owner = served.demo.desk.owner(_request("painter"))
    shown, painted = on_canvas(served.demo.desk, owner, plan_inside(path))
    assert shown is not None
    assert shown["layers"] == []
    seen = np.asarray(Image.open(shown["background"]))
    assert tuple(seen[16, 16]) == (255, 79, 139)  # painted where the mask is white
    assert tuple(seen[40, 40]) == (0x20, 0x40, 0x60)
    again = plan_inside(_draw(generate, "painter", shown, painted)).ask
    assert np.array_equal(np.asarray(Image.open(str(again.mask))), np.asarray(Image.open(mask)))
    assert np.array_equal(np.asarray(Image.open(str(again.image))), np.asarray(Image.open(tmp_path / "start.png")))
    other = {**shown, "background": str(tmp_path / "start.png")}
    assert plan_inside(_draw(generate, "painter", other, painted)).ask.mask is None  # another picture, no mask of old
    stranger = served.demo.desk.owner(_request("stranger"))
    with pytest.warns(UserWarning, match="not in this browser's folder"):
        assert on_canvas(served.demo.desk, stranger, plan_inside(path)) == (None, None)


def test_a_plan_from_elsewhere_names_no_file_of_ours(served: Served) -> None:
    from apps.origin import own_files

    hostile = Plan(ask=Ask(prompts="a", image="/etc/hostname", mask="/etc/hostname"))
    assert own_files(served.demo.desk, "someone", hostile) == (None, None)


def test_places_are_said_as_a_person_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert short(tmp_path / "outputs" / "app") == "outputs/app"
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    assert short(tmp_path.parent / "elsewhere") == "~/elsewhere"
    assert short(Path("/srv/runs")) == "/srv/runs"
    for public in (True, False):
        desk = Desk(tmp_path / "runs", public=public)
        assert desk.where("abc") == ("" if public else "runs/abc")
        desk.jobs.close()


def test_the_bin_is_emptied_a_day_later(tmp_path: Path) -> None:
    for name, age in (("old", 30 * 3600), ("new", 60)):
        folder = tmp_path / "browser" / ".bin" / name
        folder.mkdir(parents=True)
        (folder / "0000.png").write_bytes(b"x")
        os.utime(folder, (time.time() - age,) * 2)
    desk = Desk(tmp_path)
    assert [path.name for path in (tmp_path / "browser" / ".bin").iterdir()] == ["new"]
    desk.jobs.close()


def test_a_preview_waits_a_second_and_keeps_to_its_share() -> None:
    bundle: Any = SimpleNamespace(decode=lambda x: x)
    step = Step(10, 20, 500.0, x0=torch.zeros(1, 3, 8, 8))
    preview = Preview()
    preview.watch(bundle, step)
    assert preview.images == []
    preview.began = time.monotonic() - 2
    preview.watch(bundle, step)
    assert preview.images[0].startswith("data:image/webp;base64,")
    preview.images, preview.spent = [], 2 * PREVIEW_SHARE * 2
    preview.watch(bundle, step)
    assert preview.images == []
