"""The notebook on erasing compares five methods of the topic, with names and settings that exist."""

import ast
import json
from pathlib import Path
from typing import Any

from workbench.core.catalog import find

PATH = Path(__file__).parents[2] / "notebooks" / "erase.ipynb"


def calls() -> list[tuple[str, dict[str, Any]]]:
    """Every `wb.method(name, ...)` of the notebook: its name and the names of its settings."""
    cells = json.loads(PATH.read_text("utf-8"))["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    found = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    made = [node for node in found if isinstance(node.func, ast.Attribute) and node.func.attr == "method"]
    return [(node.args[0].value, {word.arg: word.value for word in node.keywords}) for node in made]  # type: ignore[attr-defined]


def test_every_method_and_setting_it_names_is_there() -> None:
    for name, settings in calls():
        assert set(settings) <= set(find(name).model_fields), name


def test_five_ways_of_the_topic_are_compared_measured_and_attacked() -> None:
    classes = {find(name) for name, _ in calls()}
    erasers = [cls for cls in classes if cls.topic() == "erase"]
    assert len(erasers) == 5
    assert any(cls.card.cost == "minutes" for cls in erasers)
    assert any(not cls.fits() for cls in erasers)  # type: ignore[attr-defined]
    assert {cls.topic() for cls in classes} >= {"erase", "measure", "generate"}
