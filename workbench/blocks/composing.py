"""What every way of using several adapters shares: their settings, reading them, and one pass of a rule over matrices.

adapters: composing.Adapters
weights: composing.Weights = ()
def fit(self, bundle, tap):
    return composing.merged(bundle, self, lambda key, parts, weights: rule(parts, weights))
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Protocol, runtime_checkable

import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from workbench.blocks.adapter_words import remind, wear_rows
from workbench.blocks.adapters import Adapter, attach, attach_dense, read_adapter
from workbench.blocks.concepts import Names
from workbench.blocks.gates import Gate
from workbench.core.bundle import Bundle, Family
from workbench.core.delta import Delta
from workbench.core.errors import AskError
from workbench.core.fields import Role
from workbench.core.method import Card
from workbench.core.patch import Patch
from workbench.ops.linear_edit import factors
from workbench.ops.low_rank import Factors, LowRank

FAMILIES: tuple[Family, ...] = ("unet", "dit", "mmdit")
MOST = 16
TWO = ("random:1", "random:2")  # for tests that run every method with its quick settings


def few(names: tuple[str, ...]) -> tuple[str, ...]:
    """As many adapters as can be worn at once. Raises `ValueError`."""
    if len(names) > MOST:
        raise ValueError(
            f"names {len(names)} adapters, and at most {MOST} are worn at once. Merge some into one first."
        )
    return names


Adapters = Annotated[
    Names,
    Role("adapter"),
    AfterValidator(few),
    Field(min_length=1, max_length=MOST, description="Files, folders or names of shipped adapters, in order."),
]
Weights = Annotated[
    tuple[float, ...],
    Field(max_length=MOST, description="How strongly each adapter counts, in their order; empty is 1 for each."),
]
Strength = Annotated[float, Field(ge=0, le=4, description="Factor of the whole change; 0 changes nothing.")]
Triggers = Annotated[
    Names,
    Role("trigger"),
    Field(max_length=MOST, description="The word in the prompt that calls each adapter; empty takes the files' own."),
]

Gauge = Annotated[
    Literal["svd", "raw"],
    Field(description="Cut into singular ranks, the same for every way of writing a file, or take the file's ranks."),
]

Rule = Callable[[str, Sequence[Factors], Sequence[float]], Factors | Tensor]
DenseRule = Callable[[str, Tensor, Sequence[float]], Tensor]


@runtime_checkable
class Composition(Protocol):
    """A method that uses adapters with weights."""

    card: ClassVar[Card]

    @property
    def adapters(self) -> tuple[str, ...]:
        """Where its adapters are."""
        ...

    @property
    def weights(self) -> tuple[float, ...]:
        """One number an adapter, or none."""
        ...


@runtime_checkable
class Called(Composition, Protocol):
    """One that is told the words for its adapters as well."""

    @property
    def triggers(self) -> tuple[str, ...]:
        """One word an adapter, or none."""
        ...


@dataclass(frozen=True, eq=False)
class Adopted:
    """Adapters as read, with their weights: `low` their changes of matrices, `flat` those of biases and norms."""

    adapters: tuple[Adapter, ...]
    weights: tuple[float, ...]
    low: tuple[LowRank, ...]
    flat: tuple[dict[str, Tensor], ...]

    @property
    def highest(self) -> int:
        """The highest rank of any adapter at any matrix."""
        return max((low.rank(key) for low in self.low for key in low.factors), default=1)

    @property
    def triggers(self) -> tuple[str, ...]:
        """The words that call the adapters, "" where a file names none."""
        return tuple(adapter.trigger or "" for adapter in self.adapters)

    def pairs(self) -> Iterator[tuple[LowRank, float]]:
        """Each adapter's changes of matrices and its weight."""
        return zip(self.low, self.weights, strict=True)

    def keys(self) -> tuple[str, ...]:
        """The matrices that any adapter changes, each once."""
        return tuple(dict.fromkeys(key for low in self.low for key in low.factors))

    def sum(self) -> LowRank:
        """sum_i w_i dW_i, exactly."""
        scaled = [low.scaled(weight) for low, weight in self.pairs()]
        return scaled[0].concatenated(*scaled[1:])

    def wear(self, patch: Patch, bundle: Bundle, index: int, gate: Gate) -> None:
        """Let the model wear one of the adapters with its learned words, weighted by the gate alone.

        A run none of whose prompts says the adapter's trigger is warned of.
        """
        attach(patch, bundle, self.low[index], gate)
        if self.flat[index]:
            attach_dense(patch, bundle, self.flat[index], gate)
        wear_rows(patch, bundle, self.adapters[index])
        remind(patch, bundle, self.adapters[index])

    def delta(self, low: LowRank | None = None, dense: dict[str, Tensor] | None = None, **text: str) -> Delta:
        """A change of weights: the merged matrices, and biases and norms added up with the adapters' weights.

        Raises `AskError` for an adapter with learned words, which no change of weights can hold.
        """
        for adapter in self.adapters:
            if adapter.rows:
                raise AskError(f"{adapter.name} holds learned words, which cannot be merged. Wear it with lora.")
        tensors: dict[str, Tensor] = {}
        for key, (up, down) in () if low is None else low.factors.items():
            tensors |= {f"{key}.up": up.float(), f"{key}.down": down.float()}
        tensors |= {key: change.float() for key, change in (dense or {}).items()}
        for flat, weight in zip(self.flat, self.weights, strict=True):
            for key, change in flat.items():
                tensors[key] = tensors.get(key, torch.zeros_like(change)) + weight * change.float()
        return Delta("weights", tensors, {"triggers": json.dumps(self.triggers), **text})


def read(bundle: Bundle, method: Composition, least: int = 1, most: int = MOST) -> Adopted:
    """The adapters of a composition.

    Raises `AskError` for too few or too many, and for weights that are not one an adapter.
    """
    name, sources = method.card.name, method.adapters
    if not least <= len(sources) <= most:
        wanted = f"{least}" if least == most else f"{least} to {most}"
        raise AskError(f"{name} takes {wanted} adapters; {len(sources)} were given.")
    if method.weights and len(method.weights) != len(sources):
        raise AskError(
            f"{name}: there are {len(sources)} adapters and {len(method.weights)} weights. Give one weight each, or "
            "none."
        )
    found = tuple(read_adapter(bundle, source) for source in sources)
    low = tuple(_matrices(adapter) for adapter in found)
    flat = tuple({key: change for key, change in adapter.dense.items() if change.ndim < 2} for adapter in found)
    return Adopted(found, method.weights or (1.0,) * len(found), low, flat)


def called(method: Called, found: Adopted) -> tuple[str, ...]:
    """The words that call the adapters: those set, else the files' own, "" where neither says one.

    Raises `AskError` when words are set for some adapters alone.
    """
    if method.triggers and len(method.triggers) != len(found.adapters):
        raise AskError(
            f"{method.card.name}: there are {len(found.adapters)} adapters and {len(method.triggers)} triggers. Give "
            "one each, or none."
        )
    return tuple(word.strip() for word in method.triggers) or found.triggers


def _matrices(adapter: Adapter) -> LowRank:
    """The adapter's changes of matrices, full ones as factors of full rank."""
    return LowRank({key: (up.float(), down.float()) for key, (up, down) in adapter.whole().factors.items()})


def merged(bundle: Bundle, method: Composition, rule: Rule) -> Delta:
    """One change of every matrix by a rule, which gets the matrix's key and the factors and weights of those adapters
    that change it; biases and norms are added up."""
    found = read(bundle, method)
    low: dict[str, Factors] = {}
    dense: dict[str, Tensor] = {}
    for key in found.keys():  # noqa: SIM118  (not a mapping)
        mine = [(each.factors[key], weight) for each, weight in found.pairs() if key in each]
        _refuse_unlike(method, key, [part for part, _ in mine])
        made = rule(key, [part for part, _ in mine], [weight for _, weight in mine])
        if isinstance(made, Tensor):
            dense[key] = made
        else:
            low[key] = made
    return found.delta(LowRank(low), dense)


def _refuse_unlike(method: Composition, key: str, parts: Sequence[Factors]) -> None:
    shapes = list(dict.fromkeys((up.shape[0], down.shape[1]) for up, down in parts))
    if len(shapes) > 1:
        told = " and ".join(f"{rows}x{columns}" for rows, columns in shapes)
        raise AskError(
            f"{method.card.name}: {key} is changed as {told}. These adapters belong to different models; merge those "
            "of one."
        )


def dense(rule: DenseRule, rank: int = 0) -> Rule:
    """A rule on factors from one on dense changes [n, out, in]; with a rank, the result is cut to it."""

    def narrow(key: str, parts: Sequence[Factors], weights: Sequence[float]) -> Factors | Tensor:
        made = rule(key, torch.stack([up @ down for up, down in parts]), weights)
        return factors(made, most=rank) if rank else made

    return narrow
