"""diffusers' schedulers by our names, and the clean latent a step predicts."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from workbench.core.errors import AskError

#: Our name -> diffusers' class and the settings that make it what the name says.
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {"clip_sample": False}),  # latents are not bounded by 1
    "ddpm": ("DDPMScheduler", {"clip_sample": False}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler-a": ("EulerAncestralDiscreteScheduler", {}),
    "dpm++": (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "dpmsolver++", "solver_order": 2},
    ),
    "unipc": ("UniPCMultistepScheduler", {}),
    "lcm": ("LCMScheduler", {}),
}


def make(name: str, config: Mapping[str, Any], steps: int, device: torch.device | str = "cpu") -> Any:
    """A fresh scheduler on a model's noise schedule with `steps` timesteps. Raises `AskError` for a name or count."""
    import diffusers

    if name not in SCHEDULERS:
        raise AskError(f"There is no scheduler {name!r}. There are: {', '.join(SCHEDULERS)}.")
    kind, settings = SCHEDULERS[name]
    scheduler = getattr(diffusers, kind).from_config(dict(config), **settings)
    try:
        scheduler.set_timesteps(steps, device=device)
    except ValueError as error:
        raise AskError(f"{name} cannot take {steps} steps: {error}") from None
    return scheduler


def advance(
    x: Tensor,
    guided: Tensor,
    t: Tensor,
    cond: Any,
    scheduler: Any,
    generators: list[torch.Generator],
) -> tuple[Tensor, Tensor]:
    """One step of the scheduler: next state and predicted clean latent, both [B, C, h, w].

    Schedulers that draw noise draw row i's from generator i.
    """
    takes = inspect.signature(scheduler.step).parameters
    draws = {"generator": generators} if "generator" in takes else {}
    result = scheduler.step(guided, t, x, **draws, return_dict=True)
    clean = getattr(result, "pred_original_sample", None)
    return result.prev_sample, clean_latent(scheduler, guided, t, x) if clean is None else clean


def clean_latent(scheduler: Any, output: Tensor, t: Tensor, x: Tensor) -> Tensor:
    """x0 from a variance-preserving prediction: (x - s eps) / a, a x - s v, or the sample itself; a^2 + s^2 = 1."""
    alpha = scheduler.alphas_cumprod[int(t)].to(x.device, torch.float32)
    a, s = alpha.sqrt(), (1 - alpha).sqrt()
    match scheduler.config.prediction_type:
        case "epsilon":
            return (x - s * output) / a
        case "v_prediction":
            return a * x - s * output
        case _:
            return output
