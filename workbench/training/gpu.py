"""Train the whole GPU tier within a budget: autoencoder, scorer, judge, then the denoiser until the call is over.

One call of `limit` minutes goes as far as it gets and leaves pieces; the next goes on from them, and the `last` one
lets the denoiser's rate fall to nothing and measures the result. Each part's own settings are given as an object, such
as `unet='{"snr": 5, "near": 4}'`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from workbench.training import gpu_evaluate, gpu_judge, gpu_scorer, gpu_unet, gpu_vae
from workbench.training.gpu_loop import Kit, pack, past, recipe

#: Name -> what trains it, where its log lies, and the recipe that the log names.
PARTS: dict[str, tuple[Callable[..., dict[str, Any]], Path, str]] = {
    "vae": (gpu_vae.fit, gpu_vae.PLACE, "gpu-vae"),
    "scorer": (gpu_scorer.fit, gpu_scorer.PLACE, "gpu-scorer, vision"),
    "judge": (gpu_judge.fit, gpu_judge.PLACE, "gpu-judge"),
    "unet": (gpu_unet.fit, gpu_unet.FAMILY / "unet", "gpu-unet"),
}
WORTH = 100.0  # seconds: a part with less before it would hardly be compiled


def finished(kit: Kit, name: str) -> bool:
    """Say whether a part has had its course; one that was only part of the way is not."""
    _, place, called = PARTS[name]
    return bool(past(kit.folder / place, called).get("complete"))


def fit(
    kit: Kit,
    *,
    vae: dict[str, Any] | None = None,
    scorer: dict[str, Any] | None = None,
    judge: dict[str, Any] | None = None,
    unet: dict[str, Any] | None = None,
    evaluate: dict[str, Any] | None = None,
    last: bool = False,
    worth: float = WORTH,
) -> dict[str, Any]:
    """Train what is left of the parts, in order, until the call's `limit`; measure once there is a denoiser."""
    settings: dict[str, dict[str, Any]] = {
        "vae": vae or {}, "scorer": scorer or {}, "judge": judge or {}, "unet": {"last": last, **(unet or {})}
    }  # fmt: skip
    final: dict[str, Any] = {}
    for name, (work, _, _) in PARTS.items():
        if finished(kit, name):
            continue
        if kit.left < worth:
            break
        final[name] = work(kit, **settings[name])
        if kit.rig.out:  # a call that is cut short later has left this much
            pack(kit.folder, Path(kit.rig.out))
        if not finished(kit, name):
            break
    if "unet" in final:
        final["evaluation"] = gpu_evaluate.fit(kit, **(evaluate or {}))
    return final


train = recipe(fit)
