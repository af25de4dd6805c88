"""Models to choose from, requests inside pictures, pictures to start from, the bin."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from workbench.blocks.pictures import open_picture, save_png
from workbench.core.ask import Ask
from workbench.core.errors import AskError, WorkbenchError
from workbench.core.plan import Plan
from workbench.runs.shelf import (
    CLOSE,
    alike,
    facts_inside,
    keep_canvas,
    model_names,
    pack_zip,
    plan_inside,
    take_back,
    throw_away,
)

PIXELS = np.full((8, 6, 3), 90, np.uint8)


def _ours(path: Path) -> Path:
    plan = Plan(ask=Ask(prompts="a cat", seeds=3))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_png(path, PIXELS, {"schema": 1, "plan": plan.to_json(), "size": [6, 8]})
    return path


def test_a_picture_gives_back_its_plan(tmp_path: Path) -> None:
    path = _ours(tmp_path / "a.png")
    assert plan_inside(path) == Plan(ask=Ask(prompts="a cat", seeds=3))
    assert facts_inside(path)["size"] == [6, 8]


@pytest.mark.parametrize("meta", [{}, {"plan": 3}, {"plan": {"ask": {}}}, {"plan": {"edits": [{"method": "no"}]}}])
def test_metadata_that_is_no_plan_is_refused(meta: dict[str, object], tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(PIXELS).save(path)
    if meta:
        info = PngInfo()
        info.add_text("workbench", json.dumps(meta))
        Image.fromarray(PIXELS).save(path, pnginfo=info)
    with pytest.raises(WorkbenchError) as caught:
        plan_inside(path)
    assert "\n" not in str(caught.value)


def test_what_is_painted_becomes_the_mask(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "back.png")
    layer = np.zeros((8, 6, 4), np.uint8)
    layer[2:4, 1:3] = (255, 0, 128, 255)
    Image.fromarray(layer).save(tmp_path / "layer.png")
    image, mask = keep_canvas(tmp_path / "back.png", [tmp_path / "layer.png"], tmp_path / "out")
    assert (open_picture(image) == PIXELS).all()
    assert mask is not None
    assert (open_picture(mask, "L") == np.where(layer[..., 3] > 0, 255, 0)).all()


def test_nothing_painted_is_no_mask(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "back.png")
    assert keep_canvas(tmp_path / "back.png", [], tmp_path / "out")[1] is None


def test_a_border_is_drawn_anew(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "back.png")
    image, mask = keep_canvas(tmp_path / "back.png", [], tmp_path / "out", pad=4)
    assert mask is not None
    painted = open_picture(mask, "L")
    assert painted.shape == (16, 14)
    assert (painted[4:-4, 4:-4] == 0).all()
    assert painted.sum() == 255 * (16 * 14 - 8 * 6)
    assert (open_picture(image)[4:-4, 4:-4] == PIXELS).all()


def test_deleted_pictures_come_back(tmp_path: Path) -> None:
    path = _ours(tmp_path / "run-1" / "0000.png")
    kept = throw_away(path, tmp_path / ".bin")
    assert not path.exists()
    assert take_back(kept, tmp_path) == path
    assert plan_inside(path).ask.seeds == (3,)
    with pytest.raises(AskError, match="no longer"):
        take_back(kept, tmp_path)


def test_a_zip_holds_the_files_byte_for_byte(tmp_path: Path) -> None:
    paths = [_ours(tmp_path / run / "0000.png") for run in ("run-1", "run-2")]
    with zipfile.ZipFile(pack_zip(paths, tmp_path / "all.zip")) as archive:
        assert archive.namelist() == ["run-1-0000.png", "run-2-0000.png"]
        assert archive.read("run-1-0000.png") == paths[0].read_bytes()


def test_a_missing_models_folder_leaves_the_shipped_models() -> None:
    assert model_names("/nowhere/at/all") == model_names()


def test_pictures_are_alike_up_to_a_canvas(tmp_path: Path) -> None:
    for name, pixels in (("a", PIXELS), ("b", PIXELS + CLOSE), ("c", PIXELS + CLOSE + 1), ("d", PIXELS[:4])):
        save_png(tmp_path / f"{name}.png", pixels.astype(np.uint8), {})
    a, b, c, d = (tmp_path / f"{name}.png" for name in "abcd")
    assert alike(a, b)
    assert not alike(a, c)
    assert not alike(a, d)
    assert not alike(a, tmp_path / "gone.png")
