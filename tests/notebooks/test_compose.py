"""The notebook on composition names methods that exist, and shows every way of merging and composing."""

import json
import re
from pathlib import Path

from workbench.core.catalog import catalog, find

PATH = Path(__file__).parents[2] / "notebooks" / "compose.ipynb"
#: Ways that the notebook leaves out: one adapter alone, learning one, other sizes, drawings to fit on.
ELSEWHERE = {"lora", "fit-lora", "res-adapter", "least-squares"}


def code() -> str:
    cells = json.loads(PATH.read_text("utf-8"))["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


def test_every_method_it_names_is_there() -> None:
    named = re.findall(r'wb\.method\(\s*"([a-z-]+)"', code())
    assert named
    assert all(find(name).card.name == name for name in named)


def test_every_way_of_composing_is_shown() -> None:
    ours = {cls.card.name for cls in catalog("compose", "edit")}
    assert {name for name in ours if f'"{name}"' not in code()} <= ELSEWHERE
