"""The public verbs: load, sample, look, score, run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from workbench.core.ask import Ask
from workbench.core.bundle import Bundle, Images
from workbench.core.catalog import method
from workbench.core.errors import AskError
from workbench.core.method import Edit, Lens, Method, Metric, Sampler
from workbench.core.report import Report
from workbench.core.scene import Scene, using
from workbench.core.tape import Tap, ignore
from workbench.models.load import load as load_model
from workbench.runs.execute import replay, run
from workbench.runs.store import with_store

M = TypeVar("M", bound=Method)
__all__ = ["load", "look", "replay", "run", "sample", "score"]


def load(model: str = "", *, models: Path | str | None = None, device: str = "", dtype: str = "") -> Bundle:
    """A model: "" is the default family; else a folder, a `.safetensors` file, a name in `models`, or a hub id.

    `device` and `dtype` are chosen where they are "". Fitted edits are cached under `~/.cache/workbench`.
    """
    return with_store(load_model(model, models=models, device=device, dtype=dtype))


def sample(bundle: Bundle, prompts: Sequence[str] | str, *, negatives: Sequence[str] | str = (),
           seeds: Sequence[int] | int = (), size: tuple[int, int] | None = None, image: Path | str | None = None,
           mask: Path | str | None = None, sampler: Sampler | str | None = None, edits: Sequence[Edit] = (),
           tap: Tap = ignore) -> Images:  # fmt: skip
    """Draw one picture a prompt: uint8 [B, 3, H, W]. Picture i depends on prompt i and seed i alone."""
    ask = Ask(prompts=prompts, negatives=negatives, seeds=seeds, size=size, image=image, mask=mask)
    chosen = _sampler(sampler, bundle)
    chosen.check(bundle)
    with using(bundle, *edits, tap=tap) as edited:
        return chosen.sample(edited, ask, tap)


def look(lens: Lens | str, bundle: Bundle, prompts: Sequence[str] | str, *, negatives: Sequence[str] | str = (),
         seeds: Sequence[int] | int = (), size: tuple[int, int] | None = None, image: Path | str | None = None,
         mask: Path | str | None = None, sampler: Sampler | str | None = None, edits: Sequence[Edit] = (),
         tap: Tap = ignore) -> Report:  # fmt: skip
    """What a lens sees when these pictures are drawn: panels and numbers."""
    ask = Ask(prompts=prompts, negatives=negatives, seeds=seeds, size=size, image=image, mask=mask)
    seen = _of_kind(lens, Lens)
    seen.check(bundle)
    return seen.look(Scene(bundle, _sampler(sampler, bundle), tuple(edits), ask, tap))


def score(metric: Metric | str, images: Images, ask: Ask | Sequence[str] | str, bundle: Bundle) -> Report:
    """What a metric says of uint8 [B, 3, H, W] pictures of these prompts: value, low and high."""
    asked = ask if isinstance(ask, Ask) else Ask(prompts=ask)
    if len(asked) != len(images):
        raise AskError(f"There are {len(images)} pictures and {len(asked)} prompts. Give one prompt a picture.")
    return _of_kind(metric, Metric).score(images, asked, bundle)


def _sampler(sampler: Sampler | str | None, bundle: Bundle) -> Sampler:
    return _of_kind(sampler or bundle.sampler, Sampler)


def _of_kind(wanted: M | str, kind: type[M]) -> M:
    found: Any = method(wanted) if isinstance(wanted, str) else wanted
    if not isinstance(found, kind):
        name = found.card.name if isinstance(found, Method) else repr(found)
        raise AskError(f"{name} is not a {kind.kind}. The {kind.kind}s: workbench list.")
    return found
