"""Groups of a denoiser's parameters, found through its sites, and the leaves that a fit trains in their place.

`xattn_k`, `xattn_v`, `xattn_kv` are projections of cross-attention, `xattn` all of its matrices and biases, `noxattn`
the matrices and biases of everything else, `attention` the four projections of every attention, `full` every parameter.
Of a group, either the dense values are trained or, with a rank, low-rank factors of its matrices: W + (alpha / rank)
up down.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# Module.named_parameters carries no types

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from workbench.core.bundle import Bundle, Handle
from workbench.core.delta import Delta
from workbench.core.errors import MethodError, MissingPart
from workbench.core.patch import Patch
from workbench.ops.noise import row_generator

Group = Literal["xattn_k", "xattn_v", "xattn_kv", "xattn", "noxattn", "attention", "full"]
_HANDLES: dict[Group, tuple[str, ...]] = {"xattn_k": ("key",), "xattn_v": ("value",), "xattn_kv": ("key", "value")}


def select(bundle: Bundle, group: Group) -> tuple[Handle, ...]:
    """The parameters of a group, each once, in the order of the forward pass or of the part.

    Raises `MissingPart` when the model has no cross-attention and the group is defined by it.
    """
    attention = bundle.sites("cross-attention")
    if group == "attention":
        every = (*attention, *bundle.sites("self-attention"))
        return tuple(handle for site in bundle.all_sites if site in every for handle in site.handles.values())
    if not attention and group != "full":
        raise MissingPart(
            f"The group {group} is told by cross-attention; {bundle.name} is a {bundle.family} model without any. "
            "Take the group full."
        )
    if group in _HANDLES:
        return tuple(site.handle(name) for site in attention for name in _HANDLES[group])
    if group == "xattn":
        return tuple(h for site in attention for h in _matrices(site.part, site.module, site.path))
    parts = dict.fromkeys(site.part for site in bundle.all_sites)
    if not parts:
        raise MissingPart(f"{bundle.name} names no sites, so which of its parts draws is unknown.")
    if group == "full":
        return tuple(h for part in parts for h in _parameters(part, bundle.parts[part], ""))
    inside = {h.key for site in attention for h in _parameters(site.part, site.module, site.path)}
    return tuple(h for part in parts for h in _matrices(part, bundle.parts[part], "") if h.key not in inside)


def _parameters(part: str, root: nn.Module, path: str) -> Iterator[Handle]:
    """Every parameter below a module at `path`, shared ones under their first name."""
    seen: set[int] = set()
    for below, module in root.named_modules():
        where = ".".join(word for word in (path, below) if word)
        for name, value in module.named_parameters(recurse=False):
            if id(value) not in seen:
                seen.add(id(value))
                yield Handle(f"{part}:{where}.{name}", module, name)


def _matrices(part: str, root: nn.Module, path: str) -> Iterator[Handle]:
    """Matrices, convolutions and their biases: what a norm scales and shifts by is left out."""
    for handle in _parameters(part, root, path):
        weight = getattr(handle.owner, "weight", None)
        if isinstance(weight, Tensor) and weight.ndim >= 2:
            yield handle


class Trainee:
    """Leaves that stand in a model's place while a fit trains them; the model's own tensors are never written to.

    `live` are float32 (or wider) parameters that the patch put into the model. `values` is what an optimiser moves:
    the live ones themselves, or with a rank the factors, whose gradient follows from that of their product.
    `masks` (1 may change, 0 may not) hold entries where they were, whatever momentum and weight decay want.
    """

    def __init__(
        self, patch: Patch, handles: Sequence[Handle], *, rank: int = 0, alpha: float = 0.0, seed: int = 0,
        masks: Mapping[str, Tensor] | None = None) -> None:  # fmt: skip
        if rank:
            handles = [handle for handle in handles if handle.weight.ndim >= 2]
        if rank and (masks or any(handle.rows for handle in handles)):
            raise MethodError("Low-rank factors cannot be masked. Train the group densely, with rank 0.")
        self.rank, self.scale = rank, (alpha or rank) / max(rank, 1)
        self.keys: tuple[str, ...] = tuple(dict.fromkeys(handle.key for handle in handles))
        self.base: list[Tensor] = []
        self.live: list[nn.Parameter] = []
        self.factors: list[tuple[Tensor, Tensor]] = []
        self.masks = [_mask(key, handles, masks) for key in self.keys]
        places = {handle.key: handle for handle in handles}
        for key in self.keys:
            owner, name = places[key].owner, places[key].name
            own: Tensor = getattr(owner, name).detach()
            wide = own.to(torch.promote_types(own.dtype, torch.float32))
            self.base.append(wide)
            self.live.append(nn.Parameter(wide.clone()))
            patch.put(owner, name, self.live[-1])
            if rank:
                self.factors.append(_factors(key, wide, rank, seed))

    @property
    def values(self) -> list[Tensor]:
        """The tensors an optimiser moves."""
        return [factor for pair in self.factors for factor in pair] if self.rank else list(self.live)

    @contextmanager
    def resting(self) -> Generator[None]:
        """The model as it is without the training, for a while; not between a forward pass and its backward."""
        trained = [live.data for live in self.live]
        for live, base in zip(self.live, self.base, strict=True):
            live.data = base
        try:
            yield
        finally:
            for live, data in zip(self.live, trained, strict=True):
                live.data = data

    def take(self, gradients: Mapping[str, Tensor]) -> None:
        """Set the values' gradients from those of the live parameters, by key."""
        for i, (key, live) in enumerate(zip(self.keys, self.live, strict=True)):
            grad = gradients.get(key)
            grad = torch.zeros_like(live) if grad is None else grad
            if self.rank:
                up, down = self.factors[i]
                flat = grad.reshape(len(grad), -1) * self.scale
                up.grad, down.grad = flat @ down.detach().T, up.detach().T @ flat
            else:
                mask = self.masks[i]
                live.grad = grad if mask is None else grad * mask

    @torch.no_grad()
    def settle(self) -> None:
        """After a step of the optimiser: hold masked entries, and show the product of the factors in the model."""
        for i, (live, base, mask) in enumerate(zip(self.live, self.base, self.masks, strict=True)):
            if self.rank:
                up, down = self.factors[i]
                live.copy_(base + self.scale * (up @ down).reshape(base.shape))
            elif mask is not None:
                live.copy_(torch.where(mask > 0, live, base))

    @torch.no_grad()
    def delta(self, text: Mapping[str, str]) -> Delta:
        """The change so far as a value: dense, or as factors with the scale in `up`."""
        tensors: dict[str, Tensor] = {}
        for i, key in enumerate(self.keys):
            if self.rank:
                up, down = self.factors[i]
                tensors |= {f"{key}.up": (up * self.scale).detach().cpu(), f"{key}.down": down.detach().cpu().clone()}
            else:
                tensors[key] = (self.live[i] - self.base[i]).cpu()
        return Delta("weights", tensors, dict(text))


def _factors(key: str, weight: Tensor, rank: int, seed: int) -> tuple[Float[Tensor, "out r"], Float[Tensor, "r in"]]:
    """Zeros above, and below uniform in +-1 / sqrt(in), as LoRA (arXiv 2106.09685) is begun in common trainers."""
    width = weight[0].numel()
    draw = torch.rand(rank, width, generator=row_generator(seed, "low rank", key), dtype=torch.float64)
    down = ((2 * draw - 1) / width**0.5).to(weight)
    return weight.new_zeros(len(weight), rank).requires_grad_(), down.requires_grad_()


def _mask(key: str, handles: Sequence[Handle], masks: Mapping[str, Tensor] | None) -> Tensor | None:
    """A parameter's mask: the one given, within the rows of a fused matrix that were selected."""
    mine = [handle for handle in handles if handle.key == key]
    whole: Tensor = getattr(mine[0].owner, mine[0].name)
    mask = None if masks is None else masks[key].to(whole.device, torch.float32)
    if all(handle.rows is None for handle in mine):
        return mask
    rows = torch.zeros_like(whole, dtype=torch.float32)
    for handle in mine:
        rows[handle.rows or slice(None)] = 1
    return rows if mask is None else rows * mask
