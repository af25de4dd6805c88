"""Every metric of the catalog on pictures of noise."""

import pytest
import torch

from tests.contract import stage, suite
from tests.tiny import tiny_sd
from workbench.core.ask import Ask
from workbench.core.catalog import catalog
from workbench.core.errors import MissingPart
from workbench.core.method import Metric

METRICS = [cls for cls in catalog(kind="metric") if issubclass(cls, Metric)]
each = pytest.mark.parametrize("cls", METRICS, ids=[cls.card.name for cls in METRICS])
#: Captions of the emoji world, some of them twice, so that metrics within a prompt have pairs.
ASK = Ask(
    prompts=("a flat emoji of a cat", "a noto emoji of a pizza", "a flat emoji of a cat", "a pizza", "a pizza", "a cat")
)


@each
def test_it_is_fair(cls: type[Metric]) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (len(ASK), 3, 128, 128), generator=generator, dtype=torch.uint8)
    try:
        suite.metric_is_fair(stage.quick(cls), tiny_sd(), images, ASK)
    except MissingPart as error:
        pytest.skip(str(error))


def test_the_catalog_has_metrics() -> None:
    assert METRICS
