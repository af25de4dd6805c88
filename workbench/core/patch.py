"""The only thing that writes to a model: an undo journal on one ExitStack."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from workbench.core.attend import Attend, intercept
from workbench.core.bundle import Bundle, Site
from workbench.core.delta import Delta
from workbench.core.errors import BundleInUse, PatchError
from workbench.core.tape import Event

SeamName = Literal["read", "predict", "guide", "advance", "decode"]
_STORES = ("_parameters", "_buffers", "_modules")
_SIMPLE = (bool, int, float, str, type(None))


class Patch:
    """Changes a bundle and takes everything back on exit, in reverse, by slot and identity.

    `put` notes for a name which store of its owner held it, the object itself and the store's order; on exit the name
    leaves whatever store it is in by then and returns to where it was. Old weights are kept by reference, so undo is
    exact and costs no copy.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self._stack = ExitStack()
        self._sound: set[nn.Module] = set()

    def __enter__(self) -> "Patch":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def put(self, owner: object, name: str, value: object) -> None:
        """Set an attribute of a module or a plain object: parameter, buffer, child, processor, method, value.

        A parameter that other modules share (tied weights) is replaced in all of them.
        """
        if isinstance(owner, nn.Module):
            self._refuse(owner)
            old = _parameters(owner).get(name)
            if old is not None and isinstance(value, nn.Parameter):
                for other, alias in self._places([old])[id(old)]:
                    if (other, alias) != (owner, name):
                        self._put(other, alias, value)
        self._put(owner, name, value)

    def hook(
        self,
        module: nn.Module,
        fn: Callable[..., Any],
        when: Literal["before", "after"] = "after",
    ) -> None:
        """Add a forward hook: before gets (module, args, kwargs), after gets (module, args, kwargs, output)."""
        self._refuse(module)
        if when == "before":
            handle = module.register_forward_pre_hook(fn, with_kwargs=True)
        else:
            handle = module.register_forward_hook(fn, with_kwargs=True)
        self._stack.callback(handle.remove)

    def wrap(self, seam: SeamName, fn: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        """Replace a seam by `fn(inner)`; a later wrap goes around an earlier one."""
        self.put(self.bundle.seams, seam, fn(getattr(self.bundle.seams, seam)))

    def each(self, fn: Callable[[Event], None]) -> None:
        """Call `fn` at every Started, Step and Ended of a run."""
        self.put(self.bundle.seams, "listeners", (*self.bundle.seams.listeners, fn))

    def attend(self, site: Site, fn: Attend) -> None:
        """Send a site's attention through `fn(call) -> output`.

        Several stack: the first sees the call first, and its `call.run()` asks the next, so an observer attached last
        sees the attention that is really computed. Refused under gradient checkpointing, which recomputes unseen.
        """
        for module in self.bundle.parts[site.part].modules():
            if getattr(module, "gradient_checkpointing", False):
                raise BundleInUse(f"{site.name}: gradient checkpointing recomputes unseen. Switch it off first.")
        self.put(site.module, "forward", intercept(site.module.forward, fn, site.name))

    def delta(self, delta: Delta, strength: float = 1.0) -> None:
        """Put every parameter a delta changes. Raises `PatchError` when the model has no such parameter."""
        found = {key: self.find(key) for key in delta.keys()}  # noqa: SIM118  (not a mapping)
        places = self._places(_parameters(owner)[name] for owner, name in found.values())
        for key, (owner, name) in found.items():
            old = getattr(owner, name)
            self._refuse(owner)
            new = nn.Parameter(delta.changed(key, old, strength), requires_grad=False)
            # a second key of tied weights finds what the first one put there
            for other, alias in places.pop(id(old), None) or self._places([old])[id(old)]:
                self._put(other, alias, new)

    def find(self, key: str) -> tuple[nn.Module, str]:
        """The module and name of `part:path.parameter`."""
        part, _, path = key.partition(":")
        module: Any = self.bundle.parts.get(part)
        *way, name = path.split(".")
        for step in way:
            module = None if module is None else module._modules.get(step)
        if module is None or name not in module._parameters:
            raise PatchError(f"{self.bundle.name} has no parameter {key}. Was the delta fitted on another model?")
        return module, name

    def _refuse(self, module: nn.Module) -> None:
        """Raise `BundleInUse` when the module, or the part it belongs to, is offloaded or compiled."""
        if module in self._sound:
            return
        whole = [list(part.modules()) for part in self.bundle.parts.values()]
        for each in next((part for part in whole if any(m is module for m in part)), [module]):
            _refuse(each)
            self._sound.add(each)

    def _places(self, values: Iterable[Tensor | None]) -> dict[int, list[tuple[nn.Module, str]]]:
        """Every slot that holds one of these parameters, by the parameter's id: one walk for all of them."""
        places: dict[int, list[tuple[nn.Module, str]]] = {id(value): [] for value in values}
        walked: set[nn.Module] = set()
        for part in self.bundle.parts.values():
            for module in part.modules():
                for name, value in _parameters(module).items() if module not in walked else ():
                    if id(value) in places:
                        places[id(value)].append((module, name))
                walked.add(module)
        return places

    def _put(self, owner: object, name: str, value: object) -> None:
        stores = _stores(owner)
        slot = next((key for key, store in stores.items() if name in store), None)
        old = stores[slot][name] if slot else None
        order = list(stores[slot]) if slot else []
        buffers: set[str] = getattr(owner, "_non_persistent_buffers_set", set())
        hidden = name in buffers

        def undo() -> None:
            for store in stores.values():
                store.pop(name, None)
            buffers.discard(name)
            if slot:
                stores[slot][name] = old
                _reorder(stores[slot], order)
            if hidden:
                buffers.add(name)

        self._stack.callback(undo)
        target = _target(owner, name, value, slot)
        if target == slot:
            stores[target][name] = value
            return
        for store in stores.values():
            store.pop(name, None)
        stores[target][name] = value


def _stores(owner: object) -> dict[str, MutableMapping[str, Any]]:
    plain = vars(owner)
    if not isinstance(owner, nn.Module):
        return {"__dict__": plain}
    return {"__dict__": plain, **{name: plain[name] for name in _STORES}}


def _parameters(module: nn.Module) -> dict[str, nn.Parameter | None]:
    return vars(module)["_parameters"]


def _target(owner: object, name: str, value: object, slot: str | None) -> str:
    if not isinstance(owner, nn.Module):
        return "__dict__"
    if isinstance(value, nn.Parameter):
        return "_parameters"
    if isinstance(value, nn.Module):
        return "_modules"
    if isinstance(value, Tensor) and slot == "_buffers":
        return "_buffers"
    if isinstance(value, Tensor) and slot == "_parameters":
        raise PatchError(f"{type(owner).__name__}.{name} is a parameter; wrap the tensor in nn.Parameter.")
    return slot if value is None and slot in _STORES else "__dict__"


def _reorder(store: MutableMapping[str, Any], order: list[str]) -> None:
    if list(store)[: len(order)] == order:
        return
    now = dict(store)
    for key in [*order, *(k for k in now if k not in order)]:
        if key in now:
            del store[key]
            store[key] = now[key]


def _refuse(module: nn.Module) -> None:
    if getattr(module, "_hf_hook", None) is not None:
        raise BundleInUse(f"{type(module).__name__} is offloaded by accelerate. Load the model without offload.")
    if hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None:
        raise BundleInUse(f"{type(module).__name__} is compiled. Patch first, compile afterwards.")


class Fingerprint(dict[str, object]):
    """Marks by place; `held` keeps every object whose id is a mark, so that no id can be given to another."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[object] = []


def fingerprint(bundle: Bundle, *, deep: bool = False) -> Fingerprint:
    """What a bundle is made of, by identity: equal before and after means nothing was changed.

    Per module: class, names in every store, identity and write count of tensors, plain attributes and what those hold
    at first hand, hooks. Write counts also catch a write that was written back. `deep` hashes every tensor's bytes as
    well, for writes that torch does not count (through `.data` or numpy).
    """
    print_ = Fingerprint()
    print_["seams"] = _attributes(vars(bundle.seams), print_.held)
    for part, root in bundle.parts.items():
        modules = cast(Iterator[tuple[str, nn.Module]], root.named_modules(remove_duplicate=False))
        for path, module in modules:
            plain = vars(module)
            stores = [(name, *_tensors(plain[name], print_.held, deep)) for name in _STORES]
            print_[f"{part}:{path}"] = (type(module).__qualname__, stores, _attributes(plain, print_.held))
    return print_


def differences(before: Mapping[str, object], after: Mapping[str, object]) -> list[str]:
    """The places at which two fingerprints differ."""
    return [name for name in {**before, **after} if before.get(name) != after.get(name)]


def _tensors(store: Mapping[str, Any], held: list[object], deep: bool) -> list[tuple[object, ...]]:
    marks: list[tuple[object, ...]] = []
    for name, value in store.items():
        held.append(value)
        mark: tuple[object, ...] = (name, id(value))
        if isinstance(value, Tensor):
            held.append(value.grad)
            mark += (value._version, value.data_ptr(), value.dtype, str(value.device), value.requires_grad)
            mark += (id(value.grad), _digest(value) if deep else "")
        marks.append(mark)
    return marks


def _digest(value: Tensor) -> str:
    flat = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.blake2b(flat.numpy().tobytes(), digest_size=8).hexdigest()


def _attributes(plain: Mapping[str, Any], held: list[object]) -> list[tuple[object, ...]]:
    marks: list[tuple[object, ...]] = []
    for name, value in sorted(plain.items()):
        if name in _STORES:
            continue
        held.append(value)
        simple = type(value) in _SIMPLE or (issubclass(type(value), dict) and not value)
        inside = () if simple else _inside(value)
        held.extend(item for _, item in inside)
        marks.append((name, id(value), *((key if isinstance(key, str) else id(key), id(item)) for key, item in inside)))
    return marks


def _inside(value: Any) -> tuple[tuple[Any, Any], ...]:
    """What an attribute holds at first hand: a list's items, a processor's settings, a table of hooks."""
    if isinstance(value, Tensor | nn.Module | type) or callable(getattr(value, "__func__", None)):
        return ()
    if isinstance(value, dict):
        return tuple(cast(dict[Any, Any], value).items())
    if isinstance(value, list | tuple | set | frozenset):
        return tuple(("", item) for item in cast(Iterable[Any], value))
    return tuple(sorted(getattr(value, "__dict__", {}).items()))
