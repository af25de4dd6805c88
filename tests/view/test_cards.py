import shlex
from pathlib import Path

import pytest

import workbench as wb
from workbench.cli import parser
from workbench.core.catalog import find
from workbench.runs.commands import shipped_digests
from workbench.runs.requests import method_of
from workbench.view.cards import END, START, benchmarks, card, drift, example, pages, table, write

RESULT = {
    "topic": "generate", "made": "2026-01-01", "model": {"name": "m", "digest": "d"}, "repeats": 5, "against": "plain",
    "environment": {"device_name": "cpu", "threads": 2},
    "rows": [{"name": "plain", "method": "", "numbers": {"seconds": 2.0}},
             {"name": "ours", "method": "diffuse", "numbers": {"seconds": 1.5}}]}  # fmt: skip


@pytest.mark.parametrize("cls", list(wb.catalog()), ids=lambda cls: cls.card.name)
def test_every_card_names_each_setting_and_its_command_runs(cls: type) -> None:
    text = card(cls)
    assert text.startswith(f"# {cls.card.title}\n")
    assert all(f"| `{name}` |" in text for name in cls.model_fields)
    words = shlex.split(example(cls))
    args = parser().parse_args(words[1:])
    spelled = {"sampler": "sampler", "edit": "edits"}.get(cls.kind)
    if spelled is None:
        assert getattr(args, cls.kind) == cls.card.name
    else:
        value = getattr(args, spelled)
        assert isinstance(method_of(value if isinstance(value, str) else value[0], cls.kind), cls)


def test_bounds_defaults_and_neutral_settings_are_told() -> None:
    text = card(find("diffuse"))
    assert "| `steps` | whole number >= 1 and <= 1000 | `20` |" in text
    assert "arXiv 2207.12598" in text


def test_measured_numbers_appear_and_old_ones_are_marked() -> None:
    text = card(find("diffuse"), [RESULT], {"m": "d"})
    assert "| ours | 1.5 |" in text
    assert "plain |" not in text
    assert "earlier default" not in text
    assert "(measured on an earlier default)" in card(find("diffuse"), [RESULT], {"m": "other"})
    assert "## Measured" not in card(find("freeu"), [RESULT])


def checkout(root: Path) -> Path:
    (root / "assets" / "cards").mkdir(parents=True)
    (root / "README.md").write_text(f"# Title\n{START}\nold\n{END}\nrest\n")
    return root / "assets"


def test_writing_then_checking_finds_no_drift(tmp_path: Path) -> None:
    assets = checkout(tmp_path)
    (assets / "cards" / "gone.md").write_text("x")
    made = pages(assets=assets)
    assert "gone.md belongs to no method" in drift(made, assets)
    assert "README.md is not as generated" in drift(made, assets)
    assert len(write(made, assets)) == len(made) + 1
    again = pages(assets=assets)
    assert drift(again, assets) == []
    assert write(again, assets) == []
    readme = (tmp_path / "README.md").read_text()
    assert readme.startswith("# Title\n<!-- methods -->\n| method |")
    assert readme.endswith("<!-- /methods -->\nrest\n")


def test_an_edited_card_is_drift(tmp_path: Path) -> None:
    assets = checkout(tmp_path)
    write(pages(assets=assets), assets)
    (assets / "cards" / "diffuse.md").write_text("mine")
    assert drift(pages(assets=assets), assets) == ["diffuse.md is not as generated"]


def test_the_table_has_a_row_a_method() -> None:
    assert len(table(wb.catalog()).splitlines()) == len(wb.catalog()) + 2


def test_shipped_benchmarks_are_readable() -> None:
    assert all({"topic", "rows", "model", "environment"} <= set(result) for result in benchmarks())


def test_the_committed_cards_and_table_are_as_generated() -> None:
    assert drift(pages(shipped_digests())) == [], "run: workbench cards"
