"""The notebook on merging and caching names methods and settings that exist, and shows those of its topic."""

import ast
import json
from pathlib import Path

from workbench.core.catalog import catalog, find

PATH = Path(__file__).parents[2] / "notebooks" / "reduce.ipynb"
#: Edits of the topic that the notebook leaves out: they are for transformers, and the default model is a UNet.
ELSEWHERE = {"first-block-cache"}


def calls() -> list[tuple[str, set[str]]]:
    """Every method the notebook names, by `wb.method`, `look` or `explore`, with the settings it gives."""
    cells = json.loads(PATH.read_text("utf-8"))["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    found = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    named = []
    for node in found:
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        if name in ("method", "look", "explore") and node.args and isinstance(node.args[0], ast.Constant):
            settings = {word.arg for word in node.keywords if word.arg} - {"prompt", "seed"}
            named.append((str(node.args[0].value), settings))
    return named


def test_every_method_and_setting_it_names_is_there() -> None:
    assert calls()
    for name, settings in calls():
        assert settings <= set(find(name).model_fields), name


def test_the_topics_edits_and_lenses_are_shown() -> None:
    shown = {name for name, _ in calls()}
    edits = {cls.card.name for cls in catalog("reduce", "edit", "unet")}
    assert {"tome", "todo", "atc", "importance-tome", "deep-cache", "cfg-cutoff"} <= shown & edits
    assert {"merge-map", "kept-rows", "speed-report"} <= shown
    assert not shown & ELSEWHERE
