"""Where the shipped assets lie and where caches go."""

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]

#: The shipped models, drawings and cards: `assets/` of a checkout, or the copy inside an installed wheel.
ASSETS: Path = next(
    (place for place in (_PACKAGE / "_assets", _PACKAGE.parent / "assets") if place.is_dir()),
    _PACKAGE.parent / "assets",
)

#: Fitted deltas, rasterised drawings and training checkpoints; `WORKBENCH_CACHE` moves it.
CACHE: Path = Path(os.environ.get("WORKBENCH_CACHE") or Path.home() / ".cache" / "workbench")
