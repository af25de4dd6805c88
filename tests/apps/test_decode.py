"""The Decode page on a running app: scales one after the other, what they took, a part drawn anew."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from apps.topics.decode import Decode, Scales, lenses
from tests.apps.conftest import Served
from tests.apps.pages import last, page_of, request
from tests.tiny import tiny_var
from workbench.core.errors import AskError
from workbench.core.report import Table

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
    rows = list(page.tell(WHO, "var", QUICK, *ASKED))
    counts = [row[1].count("<figure") for row in rows if isinstance(row[1], str)]
    assert counts == sorted(counts)
    *_, done = rows
    table, *_ = done[2].panels
    assert isinstance(table, Table)
    assert counts[-1] == len(table.rows) == len(tiny_var().about["grids"])
    assert all(float(row[2]) > 0 for row in table.rows)
    assert Path(done[7].value["path"]).is_file()


def test_a_part_is_drawn_anew_and_the_rest_stays(page: Decode, tmp_path: Path) -> None:
    first = last(page.tell(WHO, "var", QUICK, *ASKED))[7].value["path"]
    before = np.asarray(Image.open(first).convert("RGB"))
    side = len(before)
    layer = Image.new("RGBA", (side, side))
    layer.paste((255, 79, 139, 255), (0, 0, side, side // 4))
    layer.save(tmp_path / "layer.png")
    drawing = {"background": first, "layers": [str(tmp_path / "layer.png")], "composite": None}
    done = last(page.retell(WHO, drawing, "var-inpaint", QUICK, *ASKED))
    after = np.asarray(Image.open(done[7].value["path"]).convert("RGB"))
    assert np.array_equal(after[side // 2 :], before[side // 2 :])
    with pytest.raises(AskError, match="no picture to change"):
        last(page.retell(WHO, None, "var-inpaint", QUICK, *ASKED))


def test_lenses_of_such_models_look_inside(page: Decode) -> None:
    own = [cls.card.name for cls in lenses() if cls.card.families == ("var",)]
    assert own
    assert [cls.card.name for cls in lenses()][: len(own)] == own
    report = last(page.inspect(WHO, own[0], {}, "var", QUICK, *ASKED))[2]
    assert report.panels


def test_no_model_or_decoder_is_a_line(page: Decode) -> None:
    with pytest.raises(AskError, match="no model that decodes by scale"):
        last(page.tell(WHO, "var", QUICK, "a cat", None, 3, [], {}))
    with pytest.raises(AskError, match="No decoder is chosen"):
        last(page.tell(WHO, None, {}, *ASKED))


def test_a_second_run_begins_a_new_strip() -> None:
    from workbench.core.tape import Step

    seen = Scales()
    for index in (0, 1, 0):
        seen.watch(None, Step(index, 2, 1.0))
    assert len(seen.sides) == 1
