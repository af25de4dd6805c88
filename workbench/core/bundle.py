"""A loaded model as methods see it: parts, shapes, sites and a few callables."""

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from workbench.core.errors import AskError, MissingPart
from workbench.core.tape import Event, Step

Images = UInt8[Tensor, "B 3 H W"]
Family = Literal["unet", "dit", "mmdit", "var", "clip", "judge"]
SiteKind = Literal[
    "cross-attention",
    "self-attention",
    "mlp",
    "conv",
    "norm",
    "block",
    "residual",
    "skip",
    "stage",
]
Role = Literal["cond", "uncond", "branch"]


@dataclass(frozen=True)
class Shapes:
    """Sizes of a model: latent (C, h, w), image (3, H, W), text (tokens, width), `multiple` of pixels a side.

    A transformer over patches of latents draws multiples of a patch, not of a latent cell, which is `factor` pixels.
    """

    latent: tuple[int, int, int]
    image: tuple[int, int, int]
    text: tuple[int, int] = (0, 0)
    multiple: int = 8

    @property
    def factor(self) -> int:
        """Pixels a side of one latent cell; `multiple` where there are no latents."""
        return self.image[1] // self.latent[1] if self.latent[1] else self.multiple


@dataclass(frozen=True, eq=False)
class TextStates:
    """What the text encoders say of L tokens, and the ids they read."""

    states: Float[Tensor, "R L D"]
    pooled: Float[Tensor, "R E"] | None = None
    mask: Float[Tensor, "R L"] | None = None
    ids: Int[Tensor, "R L"] | None = None


@dataclass(frozen=True, eq=False)
class Condition:
    """What the network is told of each row: text, seed, role; and the step, None outside a run.

    With guidance the rows are the unconditional ones first, then the conditional ones, as diffusers lays them out.
    `extra` holds further inputs with a leading row dimension (SDXL's `time_ids`; an inpainting model's `mask`).
    `memory` is what a network keeps between the calls of one run (keys and values of coarser scales), None where it
    keeps nothing; its own `rows` gives the same for some rows.
    """

    text: TextStates
    seeds: tuple[int, ...]
    roles: tuple[Role, ...]
    step: Step | None = None
    extra: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    memory: Any = None

    def rows(self, index: Sequence[int]) -> "Condition":
        """The condition of some rows, in this order."""
        at = torch.as_tensor(list(index), device=self.text.states.device)
        text = self.text
        more = (None if value is None else value[at] for value in (text.pooled, text.mask, text.ids))
        return replace(
            self,
            text=TextStates(text.states[at], *more),
            seeds=tuple(self.seeds[i] for i in index),
            roles=tuple(self.roles[i] for i in index),
            extra={name: value[at] for name, value in self.extra.items()},
            memory=None if self.memory is None else self.memory.rows(index),
        )

    def where(self, role: Role) -> list[int]:
        """The indices of the rows with a role."""
        return [i for i, this in enumerate(self.roles) if this == role]


#: What the network itself is told in the call under way, after all edits around it, and the latent's (h, w); for hooks
#: inside of it. None outside of a call.
told: ContextVar[tuple[Condition, tuple[int, int]] | None] = ContextVar("told", default=None)


@dataclass(eq=False)
class Seams:
    """The callables that `Patch.wrap` may wrap, who listens to a run's events, and the keys of the edits in force.

    - `read(prompts) -> TextStates`, one row a prompt
    - `predict(x [R, C, h, w], t [R], cond) -> [R, C, h, w]`, the raw network
    - `guide(positive, negative, scale, cond) -> [B, C, h, w]`
    - `advance(x, guided, t, cond, scheduler, generators) -> (next x, clean x0)`, both [B, C, h, w]
    - `decode(latents [B, C, h, w]) -> [B, 3, H, W]` in -1..1
    """

    read: Callable[..., TextStates]
    predict: Callable[..., Tensor]
    guide: Callable[..., Tensor]
    advance: Callable[..., tuple[Tensor, Tensor]]
    decode: Callable[..., Tensor]
    listeners: tuple[Callable[[Event], None], ...] = ()
    edits: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        network = self.predict

        def predict(x: Tensor, t: Tensor, cond: Any) -> Tensor:
            before = told.set((cond, tuple(x.shape[-2:])))  # pyright: ignore[reportArgumentType]
            try:
                return network(x, t, cond)
            finally:
                told.reset(before)

        self.predict = predict


@dataclass(frozen=True, eq=False)
class Handle:
    """One matrix of a site: `weight` [out, in] of a part's parameter, or rows of a fused one.

    `key` is its name in a delta, `part:path.weight`; `rows` the slice of a fused matrix, None for the whole.
    """

    key: str
    owner: nn.Module
    name: str = "weight"
    rows: slice | None = None

    @property
    def weight(self) -> Tensor:
        """The matrix as it stands now."""
        whole = getattr(self.owner, self.name)
        return whole if self.rows is None else whole[self.rows]

    def replace(self, patch: Any, weight: Tensor) -> None:
        """Put another matrix of the same shape through a patch; a fused one keeps its other rows."""
        whole = getattr(self.owner, self.name)
        if tuple(weight.shape) != tuple(self.weight.shape):
            raise AskError(f"{self.key} has shape {tuple(self.weight.shape)}; {tuple(weight.shape)} was given.")
        if self.rows is not None:
            fused = whole.detach().clone()
            fused[self.rows] = weight.to(fused)
            weight = fused
        patch.put(
            self.owner,
            self.name,
            nn.Parameter(weight.detach().to(whole), requires_grad=False),
        )


@dataclass(frozen=True, eq=False)
class Site:
    """A named place in a model, the same for every architecture.

    `part` and `path` say where; `level` counts halvings of the latent grid (0 is the finest); `tokens` and `heads`
    are for the model's own size. Attention has `query key value out`, an mlp `up gate down`, as `Handle`s. A `skip`
    has `split`, the channel at which the skip connection starts in the module's input; `side` says which half of the
    network (`down`, `mid`, `up`; "" where there is no such thing). In a joint attention over picture and text, `text`
    says whether the text's tokens come `first` or `last`; `tokens` counts the picture's alone.
    """

    part: str
    path: str
    kind: SiteKind
    module: nn.Module
    level: int = 0
    side: str = ""
    tokens: int | None = None
    heads: int | None = None
    split: int | None = None
    text: Literal["", "first", "last"] = ""
    handles: Mapping[str, Handle] = field(default_factory=dict[str, Handle])

    @property
    def name(self) -> str:
        """`part:path`, unique within a bundle."""
        return f"{self.part}:{self.path}"

    def handle(self, name: str) -> Handle:
        """One of the site's matrices. Raises `MissingPart` where it has no such one."""
        if name not in self.handles:
            raise MissingPart(f"{self.name} has no {name}. It has: {', '.join(self.handles) or 'no matrices'}.")
        return self.handles[name]

    @property
    def query(self) -> Handle:
        """The query projection [A*d, in]."""
        return self.handle("query")

    @property
    def key(self) -> Handle:
        """The key projection [A*d, in]."""
        return self.handle("key")

    @property
    def value(self) -> Handle:
        """The value projection [A*d, in]."""
        return self.handle("value")

    @property
    def out(self) -> Handle:
        """The output projection [out, A*d]."""
        return self.handle("out")

    @property
    def up(self) -> Handle:
        """The first matrix of an mlp."""
        return self.handle("up")

    @property
    def gate(self) -> Handle:
        """The gating half of a gated mlp's first matrix."""
        return self.handle("gate")

    @property
    def down(self) -> Handle:
        """The last matrix of an mlp."""
        return self.handle("down")


@runtime_checkable
class Store(Protocol):
    """Where fitted values are kept by key: tensors with their text, and JSON."""

    def tensors(self, key: str) -> tuple[dict[str, Tensor], dict[str, str]] | None:
        """What `keep_tensors` kept under the key, or None."""
        ...

    def keep_tensors(self, key: str, tensors: Mapping[str, Tensor], text: Mapping[str, str]) -> None:
        """Keep tensors and text under a key."""
        ...

    def json(self, key: str) -> Any | None:
        """What `keep_json` kept under the key, or None."""
        ...

    def keep_json(self, key: str, value: Any) -> None:
        """Keep plain data under a key."""
        ...


@dataclass(frozen=True, eq=False)
class Bundle:
    """A loaded model. `digest` is a hash of its weights and configuration, made once at load.

    `sampler` is the method that draws when none is named. `schedule(name, steps, size)` makes one of diffusers'
    schedulers by our name, for pictures of a size (width, height), on which some models' noise levels depend.
    `open` loads another model through the loader that made this one. `lexicon` gives, for every token id of the text
    encoder, the word that it is on its own, "" for a piece of one. `aliases` gives other programs' names of modules
    (`part:name`, dots as underscores) and what each is here (`part:path`). `world` is the emoji world, None for others.
    """

    name: str
    family: Family
    digest: str
    parts: Mapping[str, nn.Module]
    shapes: Shapes
    seams: Seams
    all_sites: tuple[Site, ...] = ()
    sampler: str = "diffuse"
    schedule: Callable[[str, int, tuple[int, int]], Any] | None = None
    encoder: Callable[[Tensor, Sequence[torch.Generator] | None], Tensor] | None = None
    extra: Callable[[Condition, tuple[int, int]], Mapping[str, Tensor]] | None = None
    opener: Callable[[str], "Bundle"] | None = None
    lexicon: Callable[[], tuple[str, ...]] | None = None
    aliases: Callable[[], Mapping[str, str]] | None = None
    world: Any = None
    store: Store | None = None
    source: str = ""
    about: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def device(self) -> torch.device:
        """Where the first part's parameters are."""
        return next(next(iter(self.parts.values())).parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The first part's dtype."""
        return next(next(iter(self.parts.values())).parameters()).dtype

    def sites(self, kind: SiteKind, level: int | Literal["all"] = "all") -> tuple[Site, ...]:
        """The places of a kind in the order of the forward pass; empty where there are none."""
        return tuple(site for site in self.all_sites if site.kind == kind and level in ("all", site.level))

    def scheduler(self, name: str, steps: int, size: tuple[int, int] | None = None) -> Any:
        """A scheduler of diffusers with its timesteps set for pictures of a size (width, height), or the model's own.

        Raises `AskError` for an unknown name.
        """
        if self.schedule is None:
            raise MissingPart(f"{self.name} draws without a scheduler.")
        return self.schedule(name, steps, size or (self.shapes.image[2], self.shapes.image[1]))

    def read(self, prompts: Sequence[str]) -> TextStates:
        """Text states of prompts, one row each."""
        return self.seams.read(prompts)

    def predict(self, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        """The raw network on noisy rows [R, C, h, w] at timesteps [R]."""
        return self.seams.predict(x, t, cond)

    def encode(self, pixels: Tensor, generators: Sequence[torch.Generator] | None = None) -> Tensor:
        """Pixels [B, 3, H, W] in -1..1 to latents [B, C, h, w]; a sampling encoder draws from row i's generator."""
        if self.encoder is None:
            raise MissingPart(f"{self.name} has no picture encoder, so it cannot start from a picture.")
        return self.encoder(pixels, generators)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents [B, C, h, w] to pixels [B, 3, H, W] in -1..1."""
        return self.seams.decode(latents)

    def open(self, name: str) -> "Bundle":
        """Another model (scorer, judge, student) through the loader that made this one."""
        if self.opener is None:
            raise MissingPart(f"{self.name} was made without a loader, so it cannot open {name!r}.")
        return self.opener(name)

    def tell(self, event: Event) -> None:
        """Let every listener know of a run's event."""
        for listener in self.seams.listeners:
            listener(event)
