"""What the contract's checks stand on: a request, a run with all it shows, and what must not move meanwhile."""

import dataclasses
import functools
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from workbench.core.ask import Ask
from workbench.core.bundle import Bundle
from workbench.core.catalog import find
from workbench.core.method import Edit, Method, Sampler
from workbench.core.patch import differences, fingerprint
from workbench.core.scene import using

ASK = Ask(prompts=("a cat", "the red dog", "a flat dog"), seeds=(11, 12, 13), negatives=("", "cat", ""))
#: fp32 sums in another order differ by about 1e-6 of the latents' spread; methods that choose (top k) may amplify it.
CLOSE = 1e-5


def quick(cls: type[Method]) -> Any:
    """The method with the settings it declares for tests."""
    return cls(**cls.quick)


def turned(ask: Ask, order: Sequence[int]) -> Ask:
    """The request with its images in another order."""
    rows = {name: tuple(getattr(ask, name)[i] for i in order) for name in ("prompts", "seeds", "negatives")}
    return ask.but(**rows)


def refusal(work: Callable[[], object], kind: type[Exception]) -> str:
    """The words in which something was refused, "" when it was not."""
    try:
        work()
    except kind as error:
        return str(error)
    return ""


@dataclasses.dataclass(frozen=True, eq=False)
class Drawn:
    """Pictures and the state after each step."""

    images: Tensor
    states: tuple[Tensor, ...]

    def equals(self, other: "Drawn") -> bool:
        """Bit for bit the same."""
        return torch.equal(self.images, other.images) and all(map(torch.equal, self.states, other.states))

    def near(self, other: "Drawn", what: str) -> None:
        """Same but for rounding: pixels within 1 of 255, states within 1e-5 of their spread."""
        assert len(self.states) == len(other.states), f"{what}: {len(self.states)} and {len(other.states)} steps"
        for index, (mine, theirs) in enumerate(zip(self.states, other.states, strict=True)):
            gap, spread = float((mine - theirs).abs().max()), float(theirs.std())
            assert gap <= CLOSE * max(spread, 1e-6), f"{what}: step {index} differs by {gap:.2g} (spread {spread:.2g})"
        gap = int((self.images.int() - other.images.int()).abs().max())
        assert gap <= 1, f"{what}: pixels differ by {gap} of 255"


def sampler_for(bundle: Bundle) -> Sampler:
    """The bundle's own sampler with its quick settings."""
    return quick(find(bundle.sampler))


def drawn(bundle: Bundle, ask: Ask = ASK, sampler: Sampler | None = None) -> Drawn:
    """Draw on the bundle as it stands."""
    states: list[Tensor] = []
    images = (sampler or sampler_for(bundle)).sample(
        bundle, ask, lambda step: states.append(torch.zeros(1) if step.x is None else step.x.clone())
    )
    return Drawn(images, tuple(states))


@functools.cache
def plain(bundle: Bundle) -> Drawn:
    """The standard request on the unedited bundle, drawn once."""
    return drawn(bundle)


def drawn_with(bundle: Bundle, *edits: Edit, ask: Ask = ASK) -> Drawn:
    """Draw with edits in force."""
    with using(bundle, *edits) as edited:
        return drawn(edited, ask)


def joined(parts: Sequence[Drawn]) -> Drawn:
    """Batches one after another as one."""
    return Drawn(torch.cat([part.images for part in parts]), tuple(map(torch.cat, zip(*(p.states for p in parts)))))  # noqa: B905


@contextmanager
def unchanged(bundle: Bundle, what: str, deep: bool = False) -> Iterator[None]:
    """The fingerprint is the same after the block, also when the block raises what it should."""
    before = fingerprint(bundle, deep=deep)
    yield
    places = differences(before, fingerprint(bundle, deep=deep))
    assert not places, f"{what}: the model differs from before at {', '.join(places[:4])}"


@contextmanager
def globals_unmoved(what: str, python: bool = True) -> Iterator[None]:
    """The global generators of python, numpy and torch are where they were.

    `python=False` leaves python's out: the checker of shapes that the tests switch on draws from it.
    """
    state: Callable[[], dict[str, Any]] = lambda: {  # noqa: E731
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": str(np.random.get_state()),  # noqa: NPY002
        "python": random.getstate() if python else None,
        **{f"cuda {i}": s.numpy().tobytes() for i, s in enumerate(torch.cuda.get_rng_state_all())},
    }
    before = state()
    yield
    moved = [name for name, value in state().items() if value != before[name]]
    assert not moved, f"{what} drew from the global generator of {' and '.join(moved)}"


def partners(name: str, among: Sequence[str], count: int = 3) -> list[str]:
    """Some other names, drawn by this one, the same on every machine."""
    others = sorted(set(among) - {name})
    return random.Random(name).sample(others, min(count, len(others)))
