"""Every metric that applies, on pictures that lie side by side."""

from collections.abc import Sequence
from pathlib import Path

import torch

from workbench.blocks.pictures import open_picture
from workbench.core.ask import Ask
from workbench.core.bundle import Bundle
from workbench.core.catalog import catalog
from workbench.core.errors import AskError, WorkbenchError
from workbench.core.method import Metric
from workbench.core.report import Table

_BOUNDS = ("low", "high")


def weigh(groups: Sequence[Sequence[Path]], prompts: Sequence[str], names: Sequence[str], bundle: Bundle) -> Table:
    """A row for each number of each metric, a column for each group of pictures of the same prompts.

    Metrics that cannot say anything here (they need more pictures, another model, settings) are passed over; the
    table's title names them.
    """
    ask = Ask(prompts=tuple(prompts))
    batches = [_read(group, len(ask)) for group in groups]
    rows: list[tuple[str | float, ...]] = []
    silent: list[str] = []
    for cls in catalog(kind="metric"):
        try:
            metric = cls()
            if not isinstance(metric, Metric):
                continue
            metric.check(bundle)
            found = [metric.score(batch, ask, bundle).numbers for batch in batches]
        except WorkbenchError:
            silent.append(cls.card.title)
            continue
        keys = [key for key in found[0] if key not in (*_BOUNDS, "count") and not key.endswith(("_low", "_high"))]
        for key in keys:
            label = cls.card.title if key in ("value", cls.card.name) else f"{cls.card.title}: {key.replace('_', ' ')}"
            rows.append(
                (
                    label,
                    *(float(numbers[key]) for numbers in found),
                    f"{metric.unit} ({metric.better} is better)".strip(),
                )
            )
    title = f"Not measurable here: {', '.join(silent)}" if silent else ""
    return Table(("Measure", *names, "Unit"), tuple(rows), title)


def _read(pictures: Sequence[Path], count: int) -> torch.Tensor:
    if len(pictures) != count:
        raise AskError(f"There are {len(pictures)} pictures and {count} prompts.")
    pixels = [torch.from_numpy(open_picture(path).copy()).permute(2, 0, 1) for path in pictures]
    if len({tuple(image.shape) for image in pixels}) > 1:
        raise AskError("The pictures differ in size, so they cannot be measured together.")
    return torch.stack(pixels)
