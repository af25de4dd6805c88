"""Adapters of any format as one value with an honest report, and live as forward hooks: a model's modules stay its own.

A module that computes y = W x + b, with an adapter of factors up, down and dense differences dW, db, answers

    y + g * ( up (r * (down x)) )      and      y + g * (dW x + db)

where g and r are gates (blocks/gates.py). A norm is linear in what it scales and shifts by, so the same holds there.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workbench.blocks import adapter_files, adapter_formats
from workbench.blocks.adapter_index import Index
from workbench.blocks.adapter_report import AdapterRefused, Line, LoadReport
from workbench.blocks.gates import Gate, Ground, Now, device_of, scalar
from workbench.core.bundle import Bundle, Condition, told
from workbench.core.errors import AskError, CheckpointMismatch, PatchError
from workbench.core.patch import Patch
from workbench.ops.attention import halved
from workbench.ops.low_rank import Factors, LowRank
from workbench.ops.noise import row_generator

#: Modules that a change can be added to while they run.
_LIVE = (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm)
#: A source that is no file: `random:SEED` is a small adapter drawn for whatever model is loaded, to try things with.
RANDOM = "random:"


@dataclass(frozen=True, eq=False)
class Adapter:
    """What an adapter's file changes in a model.

    `low_rank` holds factors, `dense` differences W' - W of weights, norms and biases by `part:path.parameter`, `rows`
    learned tokens [n, D] by part, to be said as `trigger`. `training` is what the file's maker noted.
    """

    name: str
    low_rank: LowRank
    dense: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    rows: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    trigger: str = ""
    report: LoadReport = field(default_factory=LoadReport)
    training: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def whole(self, rank: int = 0) -> LowRank:
        """Every changed matrix as factors: dense ones are split exactly, or down to a rank where one is given."""
        split = {key: _split(value) for key, value in self.dense.items() if value.ndim >= 2}
        every = self.low_rank.concatenated(LowRank(split)) if split else self.low_rank
        return every.truncated(rank) if rank else every


def read_adapter(bundle: Bundle, source: str | Path) -> Adapter:
    """An adapter for a model, from a file, a folder, or a shipped one by its name.

    Raises `AdapterRefused` (a `CheckpointMismatch` with the `report`) for an adapter of another architecture,
    `CheckpointMismatch` for a damaged file and `MissingPart` for one that is not there.
    """
    adapter = look_at(bundle, source)
    if adapter.report.refusal:
        raise AdapterRefused(adapter.report)
    return adapter


def look_at(bundle: Bundle, source: str | Path) -> Adapter:
    """The same without refusing: what of a file fits is there, and the report says what does not."""
    if str(source).startswith(RANDOM):
        return random_adapter(bundle, str(source))
    raw = adapter_files.read(source)
    named, rows = adapter_formats.learned([part for part in bundle.parts if part.startswith("text")], raw.tensors)
    if rows:
        return _spoken(bundle, raw, named or raw.name, rows)
    groups: dict[str, dict[str, Tensor]] = {}
    lines: list[Line] = []
    for name, value in raw.tensors.items():
        known = adapter_formats.slot(name)
        if known is None:
            lines.append(Line(name, "unused", why="no known format has such a name"))
        else:
            groups.setdefault(known[0], {})[known[1]] = value
    made = _Made(bundle, raw, lines)
    for stem, group in groups.items():
        made.take(stem, group)
    trigger = str(raw.training.get("trigger", ""))
    report = LoadReport(raw.name, bundle.name, tuple(made.lines), _notes(bundle, raw))
    return Adapter(raw.name, LowRank(made.factors), made.dense, {}, trigger, report, raw.training)


def random_adapter(bundle: Bundle, source: str, rank: int = 4, size: float = 0.3) -> Adapter:
    """Factors for every attention matrix, each change `size` times as long as the matrix, from the seed in the name.

    Raises `AskError` for a name without a number.
    """
    word = source.removeprefix(RANDOM)
    if not word.isdigit():
        raise AskError(f"{source!r} is no random adapter: {RANDOM} takes a whole number, such as {RANDOM}1.")
    sites = (*bundle.sites("self-attention"), *bundle.sites("cross-attention"))
    handles = {h.key: getattr(h.owner, h.name).detach() for s in sites for h in s.handles.values()}
    factors: dict[str, Factors] = {}
    for key, weight in handles.items():
        generator = row_generator(int(word), "adapter", key)
        up, down = (torch.randn(shape, generator=generator) for shape in ((len(weight), rank), (rank, weight.shape[1])))
        scale = size * float(weight.float().square().sum() / (up @ down).square().sum()) ** 0.5
        factors[key] = (scale * up, down)
    low = LowRank(factors)
    lines = tuple(Line(key, "matched", key, "random", rank, energy) for key, energy in low.energy().items())
    return Adapter(source, low, report=LoadReport(source, bundle.name, lines))


def _spoken(bundle: Bundle, raw: adapter_files.Raw, trigger: str, rows: Mapping[str, Tensor]) -> Adapter:
    """An adapter of learned tokens alone, refused where they are not as wide as the model's own."""
    lines: list[Line] = []
    for part, value in rows.items():
        tables = [m for m in bundle.parts[part].modules() if isinstance(m, nn.Embedding)]
        width = max(tables, key=lambda table: table.num_embeddings).embedding_dim if tables else 0
        fits = width == value.shape[1]
        why = "" if fits else f"its tokens have {value.shape[1]} numbers, the model's {width}"
        energy = float(value.square().sum()) ** 0.5 if fits else 0.0
        lines.append(
            Line(trigger, "matched" if fits else "wrong shape", f"{part}:tokens", "rows", len(value), energy, why)
        )
    report = LoadReport(raw.name, bundle.name, tuple(lines), _notes(bundle, raw))
    return Adapter(raw.name, LowRank(), {}, rows, trigger, report, raw.training)


def _notes(bundle: Bundle, raw: adapter_files.Raw) -> tuple[str, ...]:
    base = str(raw.training.get("base") or raw.meta.get("workbench_base") or "")
    if base and bundle.digest and base != bundle.digest:
        return (f"It was trained on other weights ({base[:8]}) than {bundle.name} has ({bundle.digest[:8]}).",)
    return ()


class _Made:
    """What has been read of a file so far."""

    def __init__(self, bundle: Bundle, raw: adapter_files.Raw, lines: list[Line]) -> None:
        self.index, self.raw, self.lines = Index(bundle), raw, lines
        self.factors: dict[str, Factors] = {}
        self.dense: dict[str, Tensor] = {}

    def take(self, stem: str, group: Mapping[str, Tensor]) -> None:
        """Find a group's module and keep its change, or note why not."""
        spot = self.index.find(stem)
        if spot is None:
            self.lines.append(Line(stem, "unused", why="the model has no such place"))
            return
        module = self.index.modules[spot.stem]
        if not isinstance(module, _LIVE):
            self.lines.append(Line(stem, "unused", spot.stem, why=f"a {type(module).__name__} takes no adapter"))
            return
        key = f"{spot.stem}.weight"
        if key in self.factors or key in self.dense:
            self.lines.append(Line(stem, "unused", key, why="the file changes this place twice"))
            return
        try:
            done = self._change(stem, spot.stem, group, module)
        except adapter_formats.Misfit as error:
            self.lines.append(Line(stem, "wrong shape", key, why=str(error)))
            return
        energy = 0.0
        if done.pair is not None:
            self.factors[key] = done.pair
            energy = LowRank({key: done.pair}).energy()[key]
        for name, value in (("weight", done.dense), ("bias", done.bias)):
            if value is not None:
                self.dense[f"{spot.stem}.{name}"] = value
                energy = (energy**2 + float(value.double().square().sum())) ** 0.5
        how = "renamed" if spot.renamed else "matched"
        self.lines.append(Line(stem, how, key, done.kind, done.rank, energy))

    def _change(
        self, stem: str, place: str, group: Mapping[str, Tensor], module: nn.Module
    ) -> adapter_formats.Change:  # fmt: skip
        rank = adapter_formats.rank_of(group)
        bare = stem.removeprefix("base_model.model.").removeprefix("unet.")
        scale = self.raw.scale(bare, rank, group.get("alpha"))
        shape = self.index.shapes.get(f"{place}.weight", ())
        group = dict(group)
        if "bias" in group:  # a whole parameter: what it changes is the difference
            now = getattr(module, "bias", None)
            if not isinstance(now, Tensor) or now.shape != group["bias"].shape:
                raise adapter_formats.Misfit("its bias has no place or another shape")
            group["diff_b"] = group.pop("bias") - now.detach().float()
        bias = self.index.shapes.get(f"{place}.bias")
        if any(name in group and group[name].flatten().shape != bias for name in ("diff_b", "up_b")):
            raise adapter_formats.Misfit("its bias has no place or another shape")

        def weight() -> Tensor:
            found = getattr(module, "weight", None)
            if not isinstance(found, Tensor):
                raise adapter_formats.Misfit("the model's module has no weight")
            return torch.zeros(found.shape) if found.is_meta else found.detach().float().cpu()

        return adapter_formats.change(group, shape, scale, weight)


def _split(value: Tensor) -> Factors:
    """A dense change as factors without loss: itself and a unit matrix, on the shorter side."""
    flat = value.flatten(1)
    out, width = flat.shape
    eye = torch.eye(min(out, width), dtype=flat.dtype)
    return (eye, flat) if out <= width else (flat, eye)


# ------------------------------------------------------------------------------------------------------------- live


def wear(patch: Patch, bundle: Bundle, adapter: Adapter, gate: Gate | None = None) -> None:
    """Let a model wear an adapter, with its dense differences, while the patch lasts."""
    attach(patch, bundle, adapter.low_rank, gate)
    attach_dense(patch, bundle, adapter.dense, gate)


def attach(
    patch: Patch, bundle: Bundle, low_rank: LowRank, gate: Gate | None = None, ranks: Gate | None = None
) -> None:
    """Add factors to their modules' answers: y + gate * up (ranks * (down x)).

    Where the gate says a plain 0 the answer is left alone, bit for bit. `ranks` says a number or a tensor [r] or
    [R, 1, r] ([R, r, 1, 1] at convolutions). Raises `PatchError` for a key whose module is no matrix of the model.
    """
    watch = _Watch(bundle)
    for key, (up, down) in low_rank.factors.items():
        module, _ = patch.find(key)
        if not isinstance(module, nn.Linear | nn.Conv2d):
            raise PatchError(f"{key} is in a {type(module).__name__}; factors can be added to Linear and Conv2d.")
        weight = module.weight
        if (up.shape[0], down.shape[1]) != (weight.shape[0], weight[0].numel()):
            raise CheckpointMismatch(
                f"{key} is {'x'.join(map(str, weight.shape))} in {bundle.name}; the adapter changes "
                f"{up.shape[0]}x{down.shape[1]}. It belongs to another model."
            )
        add = _Factored(module, up, down, ranks)
        patch.hook(module, watch.adding(key, add, gate or scalar(1.0)))


def attach_dense(patch: Patch, bundle: Bundle, dense: Mapping[str, Tensor], gate: Gate | None = None) -> None:
    """Add dense differences of weights, norms and biases to their modules' answers, gated like factors."""
    watch = _Watch(bundle)
    for stem in dict.fromkeys(key.rpartition(".")[0] for key in dense):
        weight, bias = dense.get(f"{stem}.weight"), dense.get(f"{stem}.bias")
        module, _ = patch.find(f"{stem}.{'bias' if weight is None else 'weight'}")
        if not isinstance(module, _LIVE):
            raise PatchError(f"{stem} is a {type(module).__name__}, to whose answer nothing can be added.")
        patch.hook(module, watch.adding(f"{stem}.weight", _Dense(module, weight, bias), gate or scalar(1.0)))


class _Watch:
    """Knows what a place of the model answers on, and what the network is told while it answers."""

    def __init__(self, bundle: Bundle) -> None:
        self.grid = bundle.shapes.latent[1:]
        self.towers = {part for part in bundle.parts if part.startswith("text")}
        cross = bundle.sites("cross-attention")
        self.spoken = {site.handles[n].key for site in cross for n in ("key", "value") if n in site.handles}

    def adding(self, key: str, add: Callable[[Tensor], Tensor], gate: Gate) -> Callable[..., Any]:
        """A forward hook that adds `gate * add(x)`."""
        text = key in self.spoken or key.partition(":")[0] in self.towers

        def after(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor | None:
            x: Tensor = args[0] if args else kwargs["input"]
            now = told.get()  # of the network itself: edits around it may have changed the rows
            cond, grid = now or (None, self.grid)
            value = gate(Now(key, tuple(output.shape), "text" if text else _ground(output, cond, grid), cond, grid))
            if isinstance(value, float | int) and value == 0:
                return None
            return output + device_of(value, output) * add(x).to(output.dtype)

        return after


def _ground(output: Tensor, cond: Condition | None, grid: tuple[int, int]) -> Ground:
    """What an answer lies on; one a text token, of a number that no halving of the grid has, is a reading of the text
    (a transformer's projection of its captions)."""
    if output.ndim == 3 and cond is not None and halved(output.shape[1], grid) is None:
        return "text" if output.shape[1] == cond.text.states.shape[1] else "picture"
    return "picture" if output.ndim > 2 else "none"


class _Factored:
    """up (ranks * (down x)) of a module's input."""

    def __init__(self, module: nn.Linear | nn.Conv2d, up: Tensor, down: Tensor, ranks: Gate | None) -> None:
        self.module, self.ranks, self.pair = module, ranks, (up, down)
        if isinstance(module, nn.Conv2d):
            self.pair = up[:, :, None, None], down.reshape(-1, *module.weight.shape[1:])

    def __call__(self, x: Tensor) -> Tensor:
        """The addition, computed in the input's dtype."""
        up, down = (factor.to(x.device, x.dtype) for factor in self.pair)
        module = self.module
        if not isinstance(module, nn.Conv2d):
            return F.linear(self._gated(F.linear(x, down)), up)
        return F.conv2d(self._gated(_convolved(module, x, down, None)), up)

    def _gated(self, hidden: Tensor) -> Tensor:
        if self.ranks is None:
            return hidden
        value = self.ranks(Now("", tuple(hidden.shape), "none", None, (0, 0)))
        if isinstance(value, Tensor) and value.ndim == 1 and hidden.ndim == 4:
            value = value[:, None, None]
        return hidden * device_of(value, hidden)


class _Dense:
    """What a module would answer with the differences in the place of its own parameters."""

    def __init__(self, module: nn.Module, weight: Tensor | None, bias: Tensor | None) -> None:
        self.module = module
        own = getattr(module, "weight", None)
        self.weight = torch.zeros_like(own) if weight is None and isinstance(own, Tensor) else weight
        self.bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        """The addition, computed in the input's dtype."""
        module = self.module
        weight, bias = (None if v is None else v.to(x.device, x.dtype) for v in (self.weight, self.bias))
        match module:
            case nn.Conv2d():
                return _convolved(module, x, weight, bias)  # pyright: ignore[reportArgumentType]
            case nn.GroupNorm():
                return F.group_norm(x, module.num_groups, weight, bias, module.eps)
            case nn.LayerNorm():
                return F.layer_norm(x, module.normalized_shape, weight, bias, module.eps)
            case _:
                return F.linear(x, weight, bias)  # pyright: ignore[reportArgumentType]


def _convolved(module: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.conv2d(x, weight, bias, module.stride, module.padding, module.dilation, module.groups)
