"""The notebook on few steps names methods that exist, and shows those of its topic."""

import json
import re
from pathlib import Path

from workbench.core.catalog import catalog, find

PATH = Path(__file__).parents[2] / "notebooks" / "fewstep.ipynb"
#: Edits of the topic for long runs, which other notebooks show, and a schedule for models that are not here.
ELSEWHERE = {"skip-tuning", "nitrofusion"}


def code() -> str:
    cells = json.loads(PATH.read_text("utf-8"))["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


def test_every_method_it_names_is_there() -> None:
    named = re.findall(r'(?:wb\.method|wb\.score)\("([a-z-]+)"', code())
    assert named
    assert all(find(name).card.name == name for name in named)


def test_the_methods_of_few_steps_are_shown() -> None:
    ours = {cls.card.name for cls in catalog("fewstep")}
    assert {name for name in ours if f'"{name}"' not in code()} == ELSEWHERE
    assert {'"step-ladder"', '"control-transfer"'} <= set(re.findall(r'"[a-z-]+"', code()))
