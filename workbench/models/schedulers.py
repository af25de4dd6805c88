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
    "tcd": ("TCDScheduler", {}),
}


#: The same for models of flow matching, whose state is (1 - sigma) x0 + sigma noise.
FLOW: dict[str, tuple[str, dict[str, Any]]] = {
    "euler": ("FlowMatchEulerDiscreteScheduler", {}),
    "dpm++": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "solver_order": 2}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "lcm": ("FlowMatchLCMScheduler", {}),
}
_SOLVERS = ("dpm++", "unipc")  # written for diffusion; told so, they take flows


def config_of(scheduler: Any) -> dict[str, Any]:
    """A scheduler's configuration with its class, which says whether it is of flow matching."""
    return {**scheduler.config, "_class_name": type(scheduler).__name__}


def is_flow(config: Mapping[str, Any]) -> bool:
    """Whether a scheduler's configuration is of a model trained by flow matching."""
    return "FlowMatch" in str(config.get("_class_name", "")) or bool(config.get("use_flow_sigmas"))


def make(
    name: str,
    config: Mapping[str, Any],
    steps: int,
    device: torch.device | str = "cpu",
    tokens: int | None = None,
    even: bool = False,
) -> Any:
    """A fresh scheduler on a model's noise schedule with `steps` timesteps. Raises `AskError` for a name or count.

    Of flow models: the picture's `tokens` shift the noise levels where they are configured so, and `even` levels from 1
    to 1 / steps before that shift are FLUX's way.
    """
    import diffusers

    flow = is_flow(config)
    known = FLOW if flow else SCHEDULERS
    if name not in known:
        why = " for a model of flow matching" if flow and name in SCHEDULERS else ""
        raise AskError(f"There is no scheduler {name!r}{why}. There are: {', '.join(known)}.")
    kind, settings = known[name]
    if flow and name in _SOLVERS:
        settings = {**settings, "prediction_type": "flow_prediction", "use_flow_sigmas": True,
                    "flow_shift": config.get("shift", config.get("flow_shift", 1.0))}  # fmt: skip
    scheduler = getattr(diffusers, kind).from_config(dict(config), **settings)
    try:
        scheduler.set_timesteps(steps, device=device, **(_levels(scheduler, steps, tokens, even) if flow else {}))
    except (ValueError, AssertionError) as error:
        raise AskError(f"{name} cannot take {steps} steps: {error}") from None
    return scheduler


def _levels(scheduler: Any, steps: int, tokens: int | None, even: bool) -> dict[str, Any]:
    """What a flow scheduler's noise levels follow from besides their number, as diffusers' pipelines tell it."""
    config = scheduler.config
    given: dict[str, Any] = {}
    if config.get("use_dynamic_shifting"):
        low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
        base, most = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
        given["mu"] = base + (most - base) * ((tokens or low) - low) / (high - low)
    if even and not config.get("use_flow_sigmas"):
        given["sigmas"] = torch.linspace(1.0, 1 / steps, steps, dtype=torch.float64).tolist()
    return given


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
    """x0 from a prediction at step t: of a flow, x - sigma v, once the scheduler has taken the step.

    From a variance-preserving one: (x - s eps) / a, a x - s v, or the sample itself; a^2 + s^2 = 1.
    """
    if "FlowMatch" in type(scheduler).__name__ or getattr(scheduler.config, "use_flow_sigmas", False):
        return x - scheduler.sigmas[scheduler.step_index - 1].to(x) * output
    alpha = scheduler.alphas_cumprod[int(t)].to(x.device, torch.float32)
    a, s = alpha.sqrt(), (1 - alpha).sqrt()
    match scheduler.config.prediction_type:
        case "epsilon":
            return (x - s * output) / a
        case "v_prediction":
            return a * x - s * output
        case _:
            return output
