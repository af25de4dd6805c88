"""What faces of single topics need: methods and models, told by topic, kind, family and the roles of settings."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from workbench.blocks.denoise import to_images
from workbench.core.bundle import Bundle
from workbench.core.catalog import catalog, find
from workbench.core.errors import WorkbenchError
from workbench.core.fields import Control, controls
from workbench.core.method import Kind, Method
from workbench.models import files

#: The family of models that decode a picture scale by scale.
BY_SCALE = "var"


def role(cls: type[Method], name: str) -> Control | None:
    """The setting of a method with a role, the first where there are several."""
    return next((control for control in controls(cls) if control.role == name), None)


def methods(topics: Collection[str], kind: Kind, family: str = "", wanted: str = "") -> list[type[Method]]:
    """Methods of topics and a kind, of those for a model family alone and with a setting of a role where one is named.

    Quick ones come first, of these the older: what the others grew from.
    """
    cost = ("instant", "seconds", "minutes")
    found = [cls for cls in catalog(kind=kind) if cls.topic() in topics and (not wanted or role(cls, wanted))]
    fitting = [cls for cls in found if not family or family in cls.card.families or "any" in cls.card.families]
    return sorted(fitting, key=lambda cls: (cost.index(cls.card.cost), cls.card.paper))


def leading(kind: Kind, wanted: str) -> str:
    """The method of a kind to begin with: quick, with a setting of a role, for the most families; "" for none."""
    found = [cls for cls in catalog(kind=kind) if role(cls, wanted) and cls.card.cost != "minutes"]
    return min(found, key=lambda cls: (-len(cls.card.families), cls.card.name)).card.name if found else ""


def filled(name: str, settings: Mapping[str, Any], roles: Mapping[str, Any]) -> Method:
    """A method with values put where its settings have those roles or names; empty ones keep the default.

    Raises `AskError`.
    """
    cls = find(name)
    values = dict(settings)
    for key, value in roles.items():
        control = role(cls, key) or next((c for c in controls(cls) if c.name == key), None)
        if control is not None and (value or control.required):
            values[control.name] = value
    return cls(**values)


def models_of(family: str, models: Path | str | None = None) -> list[str]:
    """Names of the models of a family that can be loaded, shipped ones first."""
    try:
        listed = files.list_models(models)
    except WorkbenchError:
        listed = files.list_models()
    return list(dict.fromkeys(entry.name for entry in listed if entry.family == family and not entry.problem))


def scales_of(model: str, models: Path | str | None = None) -> int:
    """How many scales a model decodes, as its files say; 0 where they are not here or do not say."""
    try:
        found = files.find(model, models)
        path = None if found is None else found.path / "transformer" / "config.json"
        config: Any = files.read_json(path) if path is not None and path.is_file() else {}
    except WorkbenchError:
        return 0
    sides = config.get("patch_nums") if isinstance(config, dict) else None
    return len(sides) if isinstance(sides, list) else 0


def still(bundle: Bundle, state: Float[Tensor, "B C h w"]) -> UInt8[np.ndarray, "H W 3"] | None:
    """What a state's first row shows so far; None where it cannot be decoded yet."""
    try:
        with torch.no_grad():
            return to_images(bundle.decode(state[:1]))[0].permute(1, 2, 0).cpu().numpy()
    except (RuntimeError, ValueError):
        return None
