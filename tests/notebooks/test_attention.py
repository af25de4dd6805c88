"""The notebook on attention names lenses that exist, and shows those of its topic or says why not."""

import json
import re
from pathlib import Path

from workbench.core.catalog import catalog, find

PATH = Path(__file__).parents[2] / "notebooks" / "attention.ipynb"
#: Lenses of the topic that the notebook leaves out: shown in the first one, or for a family the default is not of.
ELSEWHERE = {"denoise-film", "concept-attention"}


def code() -> str:
    cells = json.loads(PATH.read_text("utf-8"))["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


def test_every_method_it_names_is_there() -> None:
    named = re.findall(r'(?:look|explore|wb\.method)\("([a-z-]+)"', code())
    assert named
    assert all(find(name).card.name == name for name in named)


def test_the_lenses_of_attention_are_shown() -> None:
    ours = {cls.card.name for cls in catalog("inspect", "lens")}
    known = {"token-maps", "open-word-maps", "self-attention", "head-grid", "block-roles", "token-attribution"}
    known |= {"text-lens", "before-after", "rollout", "chefer", "sim-pool", "inspect-report"}
    assert known <= {name for name in ours if f'"{name}"' in code()}
    assert ours >= ELSEWHERE
