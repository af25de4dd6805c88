"""Every metric that applies, side by side; those that cannot say anything are named, not fatal."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image

from tests.tiny import tiny_sd
from workbench.core.ask import Ask
from workbench.core.bundle import Bundle, Images
from workbench.core.errors import AskError
from workbench.core.method import Card, Method, Metric
from workbench.core.report import Report
from workbench.runs.weigh import weigh


@pytest.fixture
def toys() -> Iterator[None]:
    class Brightness(Metric):
        """Mean grey level."""

        card: ClassVar[Card] = Card("toy-brightness", "Toy brightness", "none", ("any",), topic="toys")
        unit: ClassVar[str] = "grey levels"

        def score(self, images: Images, ask: Ask, bundle: Bundle) -> Report:
            mean = float(images.float().mean())
            return Report((), {"value": mean, "low": mean, "high": mean})

    class Refusing(Metric):
        """Never says anything."""

        card: ClassVar[Card] = Card("toy-refusing", "Toy refusing", "none", ("any",), topic="toys")

        def score(self, images: Images, ask: Ask, bundle: Bundle) -> Any:
            raise AskError("not here")

    yield
    del Brightness, Refusing
    for name in ("toy-brightness", "toy-refusing"):
        Method.known.pop(name)


def _picture(path: Path, level: int, side: int = 16) -> Path:
    Image.fromarray(np.full((side, side, 3), level, np.uint8)).save(path)
    return path


def test_each_group_has_a_column(toys: None, tmp_path: Path) -> None:
    groups = [[_picture(tmp_path / f"{level}.png", level)] for level in (10, 200)]
    table = weigh(groups, ["a cat"], ("A", "B"), tiny_sd())
    rows = {row[0]: row[1:] for row in table.rows}
    assert table.columns == ("Measure", "A", "B", "Unit")
    assert rows["Toy brightness"] == (10.0, 200.0, "grey levels (higher is better)")
    assert "Toy refusing" in table.title


def test_pictures_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    group = [_picture(tmp_path / "a.png", 1), _picture(tmp_path / "b.png", 1, side=8)]
    with pytest.raises(AskError, match="size"):
        weigh([group], ["a", "b"], ("A",), tiny_sd())
    with pytest.raises(AskError, match="prompts"):
        weigh([group], ["a"], ("A",), tiny_sd())
