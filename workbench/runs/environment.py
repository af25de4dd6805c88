"""What a result depends on besides its plan: versions, device, precision, threads."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

import workbench
from workbench.core.bundle import Bundle

_PACKAGES = ("torch", "diffusers", "transformers", "peft", "safetensors", "numpy", "pillow")


def environment(bundle: Bundle | None = None) -> dict[str, Any]:
    """Plain data for a report: `versions`, `platform`, `threads`, `device` and `dtype` of the bundle if given."""
    known: dict[str, Any] = {
        "versions": {"workbench": workbench.__version__, "python": platform.python_version(), **_versions()},
        "platform": f"{platform.system()} {platform.machine()}",
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    if bundle is not None:
        device = bundle.device
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        known |= {"device": str(device), "device_name": name, "dtype": str(bundle.dtype).removeprefix("torch.")}
    return known


def _versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def differences(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between two environments and may change pixels, as short texts."""
    pairs = [(key, then.get(key), now.get(key)) for key in ("platform", "device_name", "dtype", "threads")]
    old, new = then.get("versions", {}), now.get("versions", {})
    pairs += [(name, old.get(name), new.get(name)) for name in ("torch", "diffusers", "transformers")]
    return [f"{name} was {before}, is {after}" for name, before, after in pairs if before != after]
