"""The four kinds of method. An instance is its settings: frozen, equal, hashable, JSON; its class has one verb."""

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    PlainSerializer,
    ValidationError,
)
from pydantic.dataclasses import dataclass

from workbench.core.ask import Ask
from workbench.core.bundle import Bundle, Images
from workbench.core.delta import Delta
from workbench.core.errors import AskError, DuplicateMethod, UnsupportedFamily
from workbench.core.patch import Patch
from workbench.core.report import Report
from workbench.core.scene import Scene
from workbench.core.tape import Tap

S = TypeVar("S", bound="Method")
Kind = Literal["sampler", "edit", "lens", "metric"]


@dataclass(frozen=True)
class Card:
    """What a menu needs to know: kebab-case name, title, paper with arXiv id, model families, cost of one use."""

    name: str
    title: str
    paper: str
    families: tuple[str, ...]
    cost: Literal["instant", "seconds", "minutes"] = "instant"
    topic: str = ""  # of a third party's method; ours take the name of their folder


class Method(BaseModel):
    """Settings with one verb. Give the class a `card` and it is in the catalog."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    card: ClassVar[Card]
    kind: ClassVar[Kind]
    quick: ClassVar[Mapping[str, Any]] = {}
    neutral: ClassVar[Mapping[str, Any] | None] = None
    known: ClassVar[dict[str, type["Method"]]] = {}

    def __init__(self, **settings: Any) -> None:
        try:
            super().__init__(**settings)
        except ValidationError as error:
            raise AskError(_explain(type(self), error)) from None

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        if "card" not in cls.__dict__:
            return
        _refuse_reserved(cls)
        other = cls.known.get(cls.card.name)
        if other is not None and (other.__module__, other.__qualname__) != (
            cls.__module__,
            cls.__qualname__,
        ):
            raise DuplicateMethod(
                f"{cls.card.name!r} is declared in {other.__module__} and in {cls.__module__}. Rename one of them."
            )
        cls.known[cls.card.name] = cls

    @classmethod
    def topic(cls) -> str:
        """The name of the folder the method lives in, or what its card says."""
        return cls.card.topic or cls.__module__.split(".")[-2 if "." in cls.__module__ else 0]

    def but(self: S, **changes: Any) -> S:
        """A validated copy with some settings changed."""
        return type(self)(**{**dict(self), **changes})

    def to_json(self) -> dict[str, Any]:
        """`{"method": name, **settings}`, the form in which a plan keeps it."""
        return {"method": self.card.name, **self.model_dump(mode="json")}

    @property
    def key(self) -> str:
        """A hash of name and settings."""
        return _hash(self.to_json())

    def check(self, bundle: Bundle) -> None:
        """Raise `UnsupportedFamily` before any work when the model is of a family the card does not name."""
        families = self.card.families
        if "any" not in families and bundle.family not in families:
            raise UnsupportedFamily(
                f"{self.card.name} works on {' and '.join(families)} models; {bundle.name!r} is of family "
                f"{bundle.family}. Methods for it: workbench list."
            )


class Sampler(Method):
    """Chooses schedule, starting noise and number of calls."""

    kind: ClassVar[Kind] = "sampler"

    def sample(self, bundle: Bundle, ask: Ask, tap: Tap) -> Images:
        """Draw `ask`: uint8 [B, 3, H, W]. Row i depends on prompt i, seed i and the settings alone."""
        raise NotImplementedError


class Edit(Method):
    """Changes weights, prediction, condition, guidance, attention or latents, so it stacks."""

    kind: ClassVar[Kind] = "edit"

    def fit(self, bundle: Bundle, tap: Tap) -> Delta:
        """Work out the change, slowly and once; leaves the model as it is. Default: nothing to work out.

        `strength` is left to `patch`: a delta is fitted once for all strengths.
        """
        return Delta.none()

    def patch(self, bundle: Bundle, delta: Delta, patch: Patch) -> None:
        """Declare the change through `patch`. Default: put the delta, scaled by `strength` where there is one."""
        patch.delta(delta, float(getattr(self, "strength", 1.0)))

    @classmethod
    def fits(cls) -> bool:
        """Whether the class has a `fit` of its own."""
        return cls.fit is not Edit.fit

    @property
    def fit_key(self) -> str:
        """What a fitted delta is kept under: `key`, but the same for all strengths with the inherited `patch`."""
        scaled = type(self).patch is Edit.patch
        return _hash({name: value for name, value in self.to_json().items() if not (scaled and name == "strength")})


class Lens(Method):
    """Looks at a scene: a model, edits and a request."""

    kind: ClassVar[Kind] = "lens"

    def look(self, scene: Scene) -> Report:
        """Run the scene never, once or many times, and report."""
        raise NotImplementedError


class Metric(Method):
    """Scores pictures alone; states unit, direction and an interval."""

    kind: ClassVar[Kind] = "metric"
    unit: ClassVar[str] = ""
    better: ClassVar[Literal["higher", "lower"]] = "higher"

    def score(self, images: Images, ask: Ask, bundle: Bundle) -> Report:
        """Score uint8 [B, 3, H, W] pictures of `ask`; `numbers` holds the value, `low` and `high`."""
        raise NotImplementedError


KINDS: dict[Kind, type[Method]] = {
    "sampler": Sampler,
    "edit": Edit,
    "lens": Lens,
    "metric": Metric,
}
_RESERVED = {
    *("method", "card", "kind", "quick", "neutral", "known", "key", "topic", "but", "check", "to_json", "fit", "fits"),
    *("fit_key", "patch", "sample", "look", "score", "copy", "json", "schema", "dict", "construct", "validate"),
}


def _hash(settings: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def _refuse_reserved(cls: type[Method]) -> None:
    clash = sorted(name for name in cls.model_fields if name in _RESERVED or name.startswith("model_"))
    if clash:
        raise AskError(f"{cls.__name__}: {clash[0]!r} cannot be the name of a setting; it means something else here.")


def _explain(cls: type[Method], error: ValidationError) -> str:
    """One line for the first trouble: which setting, what came, what is allowed."""
    trouble = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in trouble["loc"])
    name = cls.card.name if hasattr(cls, "card") else cls.__name__
    if trouble["type"] == "extra_forbidden":
        return f"{name} has no setting {place!r}. It has: {', '.join(cls.model_fields) or 'none'}."
    if trouble["type"] == "missing":
        return f"{name} needs {place}: {cls.model_fields[place].description or 'a value'}"
    came = repr(trouble["input"])
    what = trouble["msg"].removeprefix("Value error, ").removeprefix("Input ").rstrip(".")
    if not place:  # a check across several settings words its own message
        return f"{name} {what}."
    return f"{name}: {place} is {came if len(came) < 80 else came[:77] + '...'}; it {what}."


def _resolve(value: object) -> object:
    if not isinstance(value, Mapping):
        return value
    from workbench.core.catalog import method  # the catalog stands above the kinds

    settings: dict[str, Any] = {str(k): v for k, v in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if "method" not in settings:
        raise ValueError('must be {"method": name, ...settings}')
    return method(settings.pop("method"), **settings)


def _dump(value: Method) -> dict[str, Any]:
    return value.to_json()


AnySampler = Annotated[Sampler, BeforeValidator(_resolve), PlainSerializer(_dump)]
AnyEdit = Annotated[Edit, BeforeValidator(_resolve), PlainSerializer(_dump)]
AnyLens = Annotated[Lens, BeforeValidator(_resolve), PlainSerializer(_dump)]
AnyMetric = Annotated[Metric, BeforeValidator(_resolve), PlainSerializer(_dump)]
