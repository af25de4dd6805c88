"""Small methods for tests, kept out of the catalog so that faces and cards never list them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, TypeVar

import torch
from pydantic import Field
from torch import Tensor

from workbench.core.bundle import Bundle
from workbench.core.delta import Delta
from workbench.core.method import Card, Edit, Lens, Method, Metric, Sampler
from workbench.core.patch import Patch
from workbench.core.report import Curve, Report
from workbench.core.scene import Scene
from workbench.core.tape import Tap

C = TypeVar("C", bound=type[Method])


def unlisted(cls: C) -> C:
    """Take a class out of the catalog again."""
    Method.known.pop(cls.card.name, None)
    return cls


@contextmanager
def listed(*classes: type[Method]) -> Iterator[None]:
    """Have some classes in the catalog for a while."""
    Method.known.update({cls.card.name: cls for cls in classes})
    try:
        yield
    finally:
        for cls in classes:
            Method.known.pop(cls.card.name, None)


def card(name: str, **more: Any) -> Card:
    """A complete card for a toy."""
    families = more.pop("families", ("unet",))
    return Card(name, name.replace("-", " ").capitalize(), "none (a toy of the tests)", families, topic="toys", **more)


@unlisted
class Fade(Edit):
    """Scale the value projections: a fitted weights delta."""

    card: ClassVar = card("toy-fade")
    neutral: ClassVar = {"strength": 0.0}

    concepts: tuple[str, ...] = Field(("cat",), description="What fades.")
    strength: float = Field(1.0, ge=0, le=2, description="0 changes nothing, 1 removes half of the values.")

    def fit(self, bundle: Bundle, tap: Tap) -> Delta:
        """W' - W = -W / 2 at each cross-attention's value projection."""
        sites = bundle.sites("cross-attention")
        return Delta("weights", {site.value.key: -0.5 * site.value.weight.detach() for site in sites})


@unlisted
class ReadTwice(Edit):
    """The read seam: states of every prompt, scaled."""

    card: ClassVar = card("toy-read")
    neutral: ClassVar = {"factor": 1.0}

    factor: float = Field(2.0, ge=0, le=4, description="1 changes nothing.")

    def patch(self, bundle: Bundle, delta: Delta, patch: Patch) -> None:
        """states -> factor * states."""

        def around(read: Callable[..., Any]) -> Callable[..., Any]:
            def scaled(prompts: Any) -> Any:
                text = read(prompts)
                return type(text)(self.factor * text.states, text.pooled, text.mask, text.ids)

            return scaled

        patch.wrap("read", around)


@unlisted
class Push(Edit):
    """The guide seam: a stronger or weaker guidance scale."""

    card: ClassVar = card("toy-push")
    neutral: ClassVar = {"factor": 1.0}

    factor: float = Field(2.0, ge=0, le=4, description="1 changes nothing.")

    def patch(self, bundle: Bundle, delta: Delta, patch: Patch) -> None:
        """scale -> factor * scale."""
        patch.wrap("guide", lambda guide: lambda p, n, scale, cond: guide(p, n, self.factor * scale, cond))


@unlisted
class Drift(Edit):
    """The advance seam: the next state, scaled."""

    card: ClassVar = card("toy-drift")
    neutral: ClassVar = {"factor": 1.0}

    factor: float = Field(0.9, ge=0, le=2, description="1 changes nothing.")

    def patch(self, bundle: Bundle, delta: Delta, patch: Patch) -> None:
        """x -> factor * x after each step."""

        def around(advance: Callable[..., Any]) -> Callable[..., Any]:
            def drifted(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
                x, clean = advance(*args, **kwargs)
                return self.factor * x, clean

            return drifted

        patch.wrap("advance", around)


@unlisted
class Mirror(Edit):
    """The decode seam: pictures left to right."""

    card: ClassVar = card("toy-mirror", families=("any",))

    def patch(self, bundle: Bundle, delta: Delta, patch: Patch) -> None:
        """Flip the last dimension of the pixels."""
        patch.wrap("decode", lambda decode: lambda latents: decode(latents).flip(-1))


@unlisted
class Dim(Edit):
    """The predict seam: the raw network's answer, scaled."""

    card: ClassVar = card("toy-dim")
    neutral: ClassVar = {"factor": 1.0}

    factor: float = Field(0.5, ge=0, le=2, description="1 changes nothing.")

    def patch(self, bundle: Bundle, delta: Delta, patch: Patch) -> None:
        """eps -> factor * eps."""
        patch.wrap("predict", lambda predict: lambda x, t, cond: self.factor * predict(x, t, cond))


@unlisted
class HeadGate(Edit):
    """The attend place: the first head of every cross-attention, scaled."""

    card: ClassVar = card("toy-head-gate")
    neutral: ClassVar = {"factor": 1.0}

    factor: float = Field(0.0, ge=0, le=1, description="1 changes nothing, 0 silences the head.")

    def patch(self, bundle: Bundle, delta: Delta, patch: Patch) -> None:
        """Multiply head 0 of the output [B, A, N, d]."""
        for site in bundle.sites("cross-attention"):
            gate = torch.ones(1, site.heads or 1, 1, 1)
            gate[:, 0] = self.factor
            patch.attend(site, lambda call, gate=gate: call.run() * gate.to(call.query))


@unlisted
class Count(Edit):
    """The events: how many runs and steps there were, kept in a cache that starts empty; changes nothing."""

    card: ClassVar = card("toy-count")

    def patch(self, bundle: Bundle, delta: Delta, patch: Patch) -> None:
        """Listen, and note the events' names on the seams while the patch lasts."""
        seen: list[str] = []
        patch.put(bundle.seams, "seen", seen)
        patch.each(lambda event: seen.append(type(event).__name__))


@unlisted
class Watch(Lens):
    """A lens that draws its scene once and reports the spread of the clean latent at each step."""

    card: ClassVar = card("toy-watch")

    def look(self, scene: Scene) -> Report:
        """One run, one curve."""
        spread: list[float] = []
        scene.run(tap=lambda step: spread.append(float(step.x0.std())))
        steps = torch.arange(len(spread)).double().numpy()
        curve = Curve(steps, torch.tensor([spread]).double().numpy(), ("spread",), "Spread", ("step", ""))
        return Report((curve,), {"last": spread[-1]})


@unlisted
class Brightness(Metric):
    """A metric: mean brightness with a normal interval."""

    card: ClassVar = card("toy-brightness", families=("any",))
    unit: ClassVar = "of 255"

    def score(self, images: Tensor, ask: Any, bundle: Bundle) -> Report:
        """Mean over pictures; 1.96 standard errors around it."""
        means = images.double().mean((1, 2, 3)).sort().values
        half = 1.96 * float(means.std(unbiased=False)) / len(means) ** 0.5
        value = float(means.mean())
        return Report((), {"value": value, "low": value - half, "high": value + half})


@unlisted
class Noise(Sampler):
    """A sampler that decodes noise: no network at all."""

    card: ClassVar = card("toy-noise")

    def sample(self, bundle: Bundle, ask: Any, tap: Tap) -> Tensor:
        """One step: latents drawn from each seed, decoded."""
        from workbench.core.tape import Ended, Started, Step

        shape = (1, *bundle.shapes.latent)
        x = torch.cat([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in ask.seeds])
        bundle.tell(Started(1, ask.seeds))
        try:
            step = Step(0, 1, 0.0, x, x)
            bundle.tell(step)
            tap(step)
        finally:
            bundle.tell(Ended())
        with torch.no_grad():
            pixels = bundle.decode(x)
        return ((pixels / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
