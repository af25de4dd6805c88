"""Diffusion Workbench: stack published methods on one image model, look inside, compare.

Use:

    import workbench as wb
    bundle = wb.load()
    with wb.using(bundle, wb.method("freeu")) as edited:
        images = wb.sample(edited, ["a flat emoji of a cat"], seeds=[0])
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "Ask": "core.ask", "AskError": "core.errors", "Bundle": "core.bundle", "Card": "core.method",
    "Delta": "core.delta", "Edit": "core.method", "Lens": "core.method", "Metric": "core.method",
    "Patch": "core.patch", "Plan": "core.plan", "Report": "core.report", "Sampler": "core.method",
    "Scene": "core.scene", "Site": "core.bundle", "Step": "core.tape", "Stopped": "core.errors",
    "Tape": "core.tape", "WorkbenchError": "core.errors", "catalog": "core.catalog", "load": "runs.verbs",
    "look": "runs.verbs", "method": "core.catalog", "run": "runs.verbs", "sample": "runs.verbs",
    "score": "runs.verbs", "using": "core.scene",
}  # fmt: skip

__version__ = "0.1.0"
__all__ = sorted(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'workbench' has no attribute {name!r}")
    return getattr(import_module(f"workbench.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
