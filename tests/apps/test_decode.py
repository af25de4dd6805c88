"""The Decode page on a running app: scales one after the other, what they took, a part drawn anew."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from apps.topics.decode import Decode, Scales, lenses, shared_out
from tests.apps.conftest import Served
from tests.apps.pages import last, page_of, request
from tests.tiny import tiny_var, var_parts
from workbench.core.errors import AskError
from workbench.core.report import Film, Table
from workbench.models.var.bundle import from_parts

WHO = request("decoder")
ASKED = ("a cat", "tiny-var", 3, [], {})
QUICK = {name: {"guidance": 1.5, "top_p": 0.9} for name in ("var", "var-inpaint")}


@pytest.fixture
def page(served: Served, monkeypatch: pytest.MonkeyPatch) -> Decode:
    """The page, on the tiny random model that decodes by scale."""
    bundle = tiny_var()
    monkeypatch.setattr(served.demo.desk, "run_plan", lambda plan: bundle)
    return page_of(served, Decode)


def test_scales_appear_one_after_the_other(page: Decode) -> None:
    rows = list(page.tell(WHO, False, 4, "var", QUICK, *ASKED))
    counts = [row[1].count("<figure") for row in rows if isinstance(row[1], str)]
    assert counts == sorted(counts)
    *_, done = rows
    table, *_ = done[2].panels
    assert isinstance(table, Table)
    assert counts[-1] == len(table.rows) == len(tiny_var().about["grids"])
    assert all(float(row[2]) > 0 for row in table.rows)
    assert Path(done[7].value["path"]).is_file()


def test_a_part_is_drawn_anew_and_the_rest_stays(page: Decode, tmp_path: Path) -> None:
    first = last(page.tell(WHO, False, 4, "var", QUICK, *ASKED))[7].value["path"]
    before = np.asarray(Image.open(first).convert("RGB"))
    side = len(before)
    layer = Image.new("RGBA", (side, side))
    layer.paste((255, 79, 139, 255), (0, 0, side, side // 4))
    layer.save(tmp_path / "layer.png")
    drawing = {"background": first, "layers": [str(tmp_path / "layer.png")], "composite": None}
    done = last(page.retell(WHO, False, drawing, "var-inpaint", QUICK, *ASKED))
    after = np.asarray(Image.open(done[7].value["path"]).convert("RGB"))
    assert np.array_equal(after[side // 2 :], before[side // 2 :])
    with pytest.raises(AskError, match="no picture to change"):
        last(page.retell(WHO, False, None, "var-inpaint", QUICK, *ASKED))


def test_lenses_of_such_models_look_inside(page: Decode) -> None:
    own = [cls.card.name for cls in lenses() if cls.card.families == ("var",)]
    assert own
    assert [cls.card.name for cls in lenses()][: len(own)] == own
    report = last(page.inspect(WHO, own[0], {}, 4, "var", QUICK, *ASKED))[2]
    assert report.panels


def test_no_model_or_decoder_is_a_line(page: Decode) -> None:
    with pytest.raises(AskError, match="no model that decodes by scale"):
        last(page.tell(WHO, False, 4, "var", QUICK, "a cat", None, 3, [], {}))
    with pytest.raises(AskError, match="No decoder is chosen"):
        last(page.tell(WHO, False, 4, None, {}, *ASKED))


def test_what_is_drawn_after_the_picture_leaves_the_strip_as_it_is() -> None:
    from workbench.core.tape import Step

    seen = Scales()
    for index in (0, 1, 0):
        seen.watch(None, Step(index, 2, 2.0 - index))
    assert seen.sides == [2.0, 1.0]


def test_every_scale_is_measured_beside_the_model_alone(page: Decode) -> None:
    *_, done = page.tell(WHO, True, 4, "code", {"code": {"guidance": 1.5}}, *ASKED)
    assert done[1].count("<figure") == len(tiny_var().about["grids"])
    table = next(panel for panel in done[2].panels if isinstance(panel, Table))
    assert [row[0] for row in table.rows[:6]] == list("123456")
    words = " ".join(table.columns)
    assert all(word in words for word in ("GFLOP", "milliseconds", "keys and values", "model alone"))
    assert done[2].numbers["share_of_work"] > 0


def test_pruned_tokens_are_masked_over_the_picture(page: Decode) -> None:
    asked = ("a cat", "tiny-var", 3, ["fast-var"], {"fast-var": {"spare": 0}})
    *_, done = page.tell(WHO, True, 4, "var", QUICK, *asked)
    film = next(panel for panel in done[2].panels if isinstance(panel, Film))
    assert film.over is not None
    assert film.frames[-1].mean() == pytest.approx(0.5)


def test_the_split_is_a_slider_of_the_models_scales() -> None:
    assert not shared_out("var", "emoji-var")["visible"]
    made = shared_out("code", "emoji-var")
    assert (made["visible"], made["minimum"], made["maximum"], made["value"]) == (True, 1, 5, 4)
    assert shared_out("code", "emoji-var", at=64)["value"] == 5
    assert shared_out("code", "no such model")["maximum"] >= 2
    assert not shared_out(None, None)["visible"]


def test_the_slider_is_what_is_drawn_with(page: Decode) -> None:
    pictures = []
    for split in (1, 5):
        done = last(page.tell(WHO, False, split, "code", {"code": {"guidance": 1.5}}, *ASKED))
        pictures.append(np.asarray(Image.open(done[7].value["path"])))
    assert not np.array_equal(*pictures)


@pytest.mark.parametrize(
    ("prompt", "name", "settings", "line"),
    [
        ("a cat", "code", {}, "split is 6; tiny-var has 6 scales"),
        ("a cat", "var", {"top_k": 25}, "top_k is 25; the model&#x27;s vocabulary has 24 tokens"),
        ("class:5", "var", {}, "the classes of tiny-var are 0 to 4"),
        ("class:2", "flexvar", {"schedule": ["1", "2", "4"]}, "The schedule ends at 4x4; the latent of this picture"),
    ],
)
def test_bad_requests_are_a_line(
    served: Served, monkeypatch: pytest.MonkeyPatch, prompt: str, name: str, settings: dict[str, Any], line: str
) -> None:
    bundle = tiny_var(prediction="direct" if name == "flexvar" else "residual")
    monkeypatch.setattr(served.demo.desk, "run_plan", lambda plan: bundle)
    page: Decode = page_of(served, Decode)
    *_, done = page.tell(WHO, True, 6, name, {name: settings}, prompt, "tiny-var", 3, [], {})
    assert line in done[0]


def test_parts_of_two_models_are_a_line(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def mixed(plan: Any) -> Any:
        return from_parts(var_parts()[0], var_parts(prediction="direct")[1], name="mixed")

    monkeypatch.setattr(served.demo.desk, "run_plan", mixed)
    page: Decode = page_of(served, Decode)
    *_, done = page.tell(WHO, True, 4, "var", QUICK, *ASKED)
    assert "mixed: the VQ and the transformer differ in their prediction: residual and direct" in done[0]
