import json
from argparse import Namespace

import pytest

import workbench as wb
from workbench.core.catalog import Catalog, Failure
from workbench.core.errors import AskError
from workbench.runs.listing import as_text, described, listing


def test_every_method_is_listed_with_its_fields() -> None:
    data = listing(Namespace(topic=None)).data
    names = [entry["name"] for entry in data["methods"]]
    assert names == [cls.card.name for cls in wb.catalog()]
    (diffuse,) = [entry for entry in data["methods"] if entry["name"] == "diffuse"]
    steps = next(field for field in diffuse["fields"] if field["name"] == "steps")
    assert (steps["kind"], steps["low"], steps["default"]) == ("integer", 1, 20)
    assert set(diffuse) == {"name", "topic", "kind", "title", "paper", "families", "cost", "fields"}
    json.dumps(data, allow_nan=False)


def test_a_topic_narrows_the_list_and_a_wrong_one_names_the_nearest() -> None:
    assert {entry["topic"] for entry in listing(Namespace(topic="generate")).data["methods"]} == {"generate"}
    with pytest.raises(AskError, match="Did you mean 'generate'"):
        listing(Namespace(topic="genrate"))


def test_foreign_packages_that_failed_are_named() -> None:
    text = as_text(Catalog((), (Failure("theirs", "Traceback\nImportError: gone"),)))
    assert text == "failed: theirs: ImportError: gone"


def test_a_method_without_settings_has_no_fields() -> None:
    assert isinstance(described(next(iter(wb.catalog())))["fields"], list)
