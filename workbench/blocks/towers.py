"""The layers of a model's text encoders, found without knowing their classes."""

from typing import Any

import torch
from torch import nn

from workbench.core.bundle import Bundle
from workbench.core.errors import MissingPart


def towers(bundle: Bundle) -> list[list[nn.Module]]:
    """The layers of each text encoder, in order. Raises `MissingPart` where there is none.

    An encoder's layers are its outermost list of modules.
    """
    parts = [part for name, part in bundle.parts.items() if name.startswith("text")]
    lists = [next((m for m in part.modules() if isinstance(m, nn.ModuleList) and len(m)), None) for part in parts]
    found = [list(layers) for layers in lists if layers is not None]
    if not found:
        raise MissingPart(f"{bundle.name} has no text encoder with layers to stop between.")
    return found


def pass_on(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    """A forward hook that gives back what the module was given, in the form of its own output."""
    given = args[0] if args else next(value for value in kwargs.values() if isinstance(value, torch.Tensor))
    return (given, *output[1:]) if isinstance(output, tuple) else given
