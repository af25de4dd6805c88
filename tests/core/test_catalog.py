"""Which methods there are."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.toys import Fade, Noise, listed
from workbench.core.catalog import catalog, find, method
from workbench.core.errors import AskError, UnknownMethod
from workbench.core.method import Method

FILE = '''"""A toy. Paper, Equation, Differs."""
from typing import ClassVar
from workbench.core.method import Card, Edit

class Dropped(Edit):
    """A dropped-in edit."""

    card: ClassVar = Card({name!r}, "Dropped", "none", ("unet",), topic={topic!r})
'''


def run(code: str, *path: Path) -> subprocess.CompletedProcess[str]:
    """Python code in a process of its own, with folders on its path."""
    lines = [f"import sys; sys.path[:0] = {[str(place) for place in path]!r}", code]
    return subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=False)


def foreign(folder: Path, name: str, text: str) -> None:
    """An installed package of one module, with an entry point."""
    (folder / f"{name}.py").write_text(text)
    info = folder / f"{name}-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text(f"[workbench.methods]\n{name} = {name}\n")


def test_methods_are_found_in_order_and_by_name() -> None:
    found = catalog()
    order = [(cls.topic(), cls.card.name) for cls in found]
    assert order == sorted(order)
    assert len(found) == len(set(order)) > 0
    assert find("diffuse") in list(found)
    assert found.topics == tuple(dict.fromkeys(topic for topic, _ in order))


def test_the_catalog_is_narrowed_by_topic_kind_and_family() -> None:
    with listed(Fade, Noise):
        assert [cls.card.name for cls in catalog(topic="toys")] == ["toy-fade", "toy-noise"]
        assert [cls.card.name for cls in catalog(topic="toys", kind="edit")] == ["toy-fade"]
        assert len(catalog(topic="toys", family="var")) == 0
        assert len(catalog(topic="toys").only(kind="sampler", family="unet")) == 1
    assert len(catalog(topic="toys")) == 0


def test_a_method_of_any_family_is_there_for_each() -> None:
    anyone = [cls for cls in catalog() if "any" in cls.card.families]
    assert set(anyone) <= set(catalog(family="var"))


def test_an_unknown_name_is_answered_with_close_ones() -> None:
    with pytest.raises(UnknownMethod, match=r"No method called 'difuse'\. Close: 'diffuse'\. All: workbench list\."):
        find("difuse")
    with pytest.raises(UnknownMethod, match=r"No method called 'qqqqqq'\. All: workbench list\."):
        method("qqqqqq")


def test_a_method_is_made_by_name_and_checked() -> None:
    with listed(Fade):
        assert method("toy-fade", strength=0.5) == Fade(strength=0.5)
        with pytest.raises(AskError, match="toy-fade: strength is 5"):
            method("toy-fade", strength=5)


def test_every_method_is_a_file_of_its_topic() -> None:
    for cls in catalog():
        assert cls.__module__.startswith("workbench.methods."), cls
        assert cls.__module__.split(".")[2] == cls.topic()
        assert Method.known[cls.card.name] is cls


def test_files_dropped_in_and_entry_points_join_and_a_failing_stranger_is_listed_as_failed(tmp_path: Path) -> None:
    drop = tmp_path / "drop"
    drop.mkdir()
    (drop / "dropped.py").write_text(FILE.format(name="toy-dropped", topic=""))
    foreign(tmp_path, "kind_stranger", FILE.format(name="toy-stranger", topic="toys"))
    foreign(tmp_path, "rude_stranger", "raise SystemError('rude')\n")
    found = run(
        f"""
import workbench.methods.erase as erase
from workbench.core.catalog import catalog, find
erase.__path__.append({str(drop)!r})
all = catalog()
print([cls.card.name for cls in all.only(topic="erase")].count("toy-dropped"), find("toy-dropped").topic())
print([cls.card.name for cls in all.only(topic="toys")], "diffuse" in [cls.card.name for cls in all])
print([f.name for f in all.failures], "SystemError: rude" in all.failures[0].trace)
""",
        tmp_path,
    )
    assert found.stdout.splitlines() == ["1 erase", "['toy-stranger'] True", "['rude_stranger'] True"], found.stderr


def test_a_broken_file_of_ours_stops_with_its_traceback(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import nothing_of_that_name\n")
    code = f"import workbench.methods.erase as erase; erase.__path__.append({str(tmp_path)!r})\n"
    broken = run(code + "from workbench.core.catalog import catalog\ncatalog()")
    assert broken.returncode == 1
    assert "broken.py" in broken.stderr
    assert "No module named 'nothing_of_that_name'" in broken.stderr
