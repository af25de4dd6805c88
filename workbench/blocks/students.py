"""Few-step students on a loaded model: an adapter worn while a run lasts, or another model that answers in its place.

An adapter knows from which weights it was distilled, and is refused on others; its base is bit for bit what it was
afterwards. A student told the length of a run (a shortcut model) keeps the column it is told through beside its
factors, in `steps.safetensors`, and is told log2 of the number of steps at `timestep_cond`.
"""

import math
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from workbench.blocks.adapter_files import read
from workbench.blocks.adapters import RANDOM, Adapter, read_adapter, wear
from workbench.blocks.denoise import Course, draw
from workbench.blocks.disk import given
from workbench.core.ask import Ask
from workbench.core.bundle import Bundle, Condition, Images
from workbench.core.errors import AskError, CheckpointMismatch
from workbench.core.patch import Patch
from workbench.core.places import ASSETS
from workbench.core.tape import Tap

TOLD = "steps.safetensors"
READS = "guidance_input"  # among what a bundle says of itself: it reads its guidance
NONE = 'Give a student of this model, or student="" where the model itself takes few steps.'
When = Callable[[Condition | None], bool]
Predict = Callable[[Tensor, Tensor, Condition], Tensor]


def always(cond: Condition | None) -> bool:
    """At every step."""
    return True


@contextmanager
def studying(bundle: Bundle, student: str, when: When = always) -> Generator[tuple[Bundle, Patch], None, None]:
    """What to draw with while a student is in force at the steps that `when` names, and the patch that put it there.

    "" is nobody. `student` is an adapter (a shipped name, a file, a folder) or the folder of a whole model, whose noise
    schedule is drawn by and which is told its guidance where it reads it. Everything is undone at the end. Raises
    `AskError` for a student of other weights, and what reading it raises.
    """
    with Patch(bundle) as patch:
        yield (enrol(patch, bundle, student, when) if student else bundle), patch


def enrol(patch: Patch, bundle: Bundle, student: str, when: When = always) -> Bundle:
    """Put a student in force through a patch; returns what to draw with."""
    place = locate(student)
    if isinstance(place, Path) and (place / "model_index.json").is_file():
        return _whole(patch, bundle, str(place), when)
    adapter = read_adapter(bundle, place)
    refuse_other_base(bundle, adapter)
    wear(patch, bundle, adapter, lambda now: 1.0 if when(now.cond) else 0.0)
    if isinstance(place, Path) and (place / TOLD).is_file():
        _tell(patch, place / TOLD, when)
    return bundle


def locate(student: str) -> Path | str:
    """The folder of a shipped student or model of that name, or what was given."""
    if student.startswith(RANDOM):
        return student
    path, shipped = given(student), ASSETS / "models" / student
    if not path.exists() and Path(student).name == student and shipped.is_dir():
        return shipped
    return path if path.exists() else student


def refuse_other_base(bundle: Bundle, adapter: Adapter) -> None:
    """Raise `AskError` when an adapter says it was distilled from other weights than the bundle's."""
    base = str(adapter.training.get("base", ""))
    if base and base != bundle.digest:
        raise AskError(
            f"The student {adapter.name} was distilled from a model with the digest {base[:8]}; {bundle.name} has "
            f"{bundle.digest[:8]}. {NONE}"
        )


def _whole(patch: Patch, bundle: Bundle, place: str, when: When) -> Bundle:
    """Let another model of the same latents and text answer in the network's place."""
    other = bundle.open(place)
    if (other.family, other.shapes) != (bundle.family, bundle.shapes):
        raise AskError(
            f"The student {other.name} draws {other.shapes.latent} latents under text of {other.shapes.text}; "
            f"{bundle.name} has {bundle.shapes.latent} and {bundle.shapes.text}. {NONE}"
        )
    if when is not always and _says(other) != _says(bundle):
        raise AskError(
            f"The student {other.name} cannot take turns with {bundle.name}: one of them reads its guidance, or they "
            "predict noise differently. Take the sampler lcm, which asks the student alone."
        )

    def wrap(inner: Predict) -> Predict:
        return lambda x, t, cond: (other.predict if when(cond) else inner)(x, t, cond)

    patch.wrap("predict", wrap)
    return replace(bundle, schedule=other.schedule, about={**bundle.about, READS: other.about.get(READS, False)})


def _says(bundle: Bundle) -> tuple[bool, str, list[float]]:
    """Whether a model reads its guidance, what it predicts, and its noise levels."""
    scheduler = bundle.scheduler("lcm", 1)
    return bool(bundle.about.get(READS)), scheduler.config.prediction_type, scheduler.alphas_cumprod.tolist()


def _tell(patch: Patch, path: Path, when: When) -> None:
    """Give the network its column for the length of a run, and tell it at every call of the student.

    Raises `CheckpointMismatch` for a column that the network has no place for, and what reading the file raises.
    """
    for key, value in read(path).tensors.items():
        place, _, kind = key.rpartition(".")
        owner, name = _home(patch.bundle, place)
        first = getattr(owner, "linear_1", None)
        fits = kind == "weight" and isinstance(first, nn.Linear) and value.shape == (first.in_features, 1)
        if owner is None or getattr(owner, name, value) is not None or not fits:
            raise CheckpointMismatch(
                f"{path}: {patch.bundle.name} has no free place {key[:200]} of {tuple(value.shape)}. It belongs to "
                "another model."
            )
        column = nn.Linear(value.shape[1], value.shape[0], bias=False, device=patch.bundle.device)
        column.weight = nn.Parameter(value.to(patch.bundle.device, patch.bundle.dtype), requires_grad=False)
        patch.put(owner, name, column)

    def runs(cond: Condition) -> Tensor | None:
        return torch.tensor([math.log2(cond.step.total)]) if cond.step is not None and when(cond) else None

    tell(patch, runs)


def _home(bundle: Bundle, place: str) -> tuple[nn.Module | None, str]:
    """The module that holds `part:path.name`, None where there is none, and the name in it."""
    part, _, path = place.partition(":")
    owner: Any = bundle.parts.get(part)
    *way, name = path.split(".")
    for step in way:
        owner = None if owner is None else owner._modules.get(step)
    return owner, name


def tell(patch: Patch, what: Callable[[Condition], Float[Tensor, " w"] | None]) -> None:
    """Tell the network `what(cond)` [w] beside the timestep (diffusers' `timestep_cond`), the same in every row."""

    def wrap(inner: Predict) -> Predict:
        def predict(x: Tensor, t: Tensor, cond: Condition) -> Tensor:
            said = what(cond)
            if said is not None:
                rows = said.to(x).expand(len(x), -1)
                cond = replace(cond, extra={**cond.extra, "timestep_cond": rows})
            return inner(x, t, cond)

        return predict

    patch.wrap("predict", wrap)


def few(bundle: Bundle, ask: Ask, tap: Tap, course: Course, tune: Callable[[Any], None]) -> Images:
    """Draw a request by a course whose fresh scheduler `tune` gives its timesteps: uint8 [B, 3, H, W]."""

    def schedule(name: str, steps: int, size: tuple[int, int]) -> Any:
        scheduler = bundle.scheduler(name, 1, size)
        tune(scheduler)
        return scheduler

    return draw(replace(bundle, schedule=schedule), ask, tap, course)


def spaced(sampler: str, scheduler: Any, steps: int, origin: int) -> None:
    """Set `steps` even timesteps out of the `origin` of a distillation. Raises `AskError` when those are fewer."""
    if steps > origin:
        raise AskError(f"{sampler}: steps is {steps}, must be at most the {origin} of the distillation. Try 4.")
    # from its configuration: given at the call, TCD would take every one of the thousand for the origin
    scheduler.register_to_config(original_inference_steps=origin)
    scheduler.set_timesteps(steps, device=scheduler.timesteps.device)
