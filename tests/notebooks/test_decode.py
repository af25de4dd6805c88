"""The notebook on decoding names methods and settings that exist, shows the lenses of scales and edits a picture."""

import ast
import json
from pathlib import Path

from workbench.core.catalog import catalog, find

PATH = Path(__file__).parents[2] / "notebooks" / "decode.ipynb"


def code() -> str:
    cells = json.loads(PATH.read_text("utf-8"))["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


def named() -> list[tuple[str, set[str]]]:
    """Every call whose first argument is the name of a method, with the names of its settings."""
    found = [node for node in ast.walk(ast.parse(code())) if isinstance(node, ast.Call) and node.args]
    known = {cls.card.name for cls in catalog()}
    first = [(call.args[0], {str(word.arg) for word in call.keywords} - {"prompt", "seed"}) for call in found]
    return [(arg.value, words) for arg, words in first if isinstance(arg, ast.Constant) and arg.value in known]  # type: ignore[misc]


def test_every_setting_it_names_is_there() -> None:
    for name, settings in named():
        assert settings - {"None"} <= set(find(name).model_fields), name


def test_the_ways_of_decoding_looking_and_editing_are_shown() -> None:
    shown = {name for name, _ in named()}
    assert shown >= {"var", "code", "scale-film", "scale-entropy", "cross-scale-attention"}
    assert shown >= {"var-inpaint", "var-outpaint", "var-class-edit"}


def test_it_is_stripped_of_outputs() -> None:
    cells = json.loads(PATH.read_text("utf-8"))["cells"]
    assert all(not cell.get("outputs") for cell in cells)
