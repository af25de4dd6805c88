"""The only thing that writes to a model: an undo journal on one ExitStack."""

from collections.abc import Callable, Iterator, MutableMapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Literal, Self

from torch import Tensor, nn

from workbench.core.attend import Attend, intercept
from workbench.core.bundle import Bundle, Site
from workbench.core.delta import Delta
from workbench.core.errors import BundleInUse, PatchError
from workbench.core.tape import Event

SeamName = Literal["read", "predict", "guide", "advance", "decode"]
_STORES = ("_parameters", "_buffers", "_modules")


class Patch:
    """Changes a bundle and takes everything back on exit, in reverse, by slot and identity.

    `put` notes for a name which store of its owner held it, the object itself and the store's order; on exit the name
    leaves whatever store it is in by then and returns to where it was. Old weights are kept by reference, so undo is
    exact and costs no copy.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self._stack = ExitStack()

    def __enter__(self) -> Self:
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
            _refuse(owner)
            old = owner._parameters.get(name)
            if old is not None and isinstance(value, nn.Parameter):
                for other, alias in self._aliases(old):
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
        _refuse(module)
        if when == "before":
            handle = module.register_forward_pre_hook(fn, with_kwargs=True)
        else:
            handle = module.register_forward_hook(fn, with_kwargs=True)
        self._stack.callback(handle.remove)

    def wrap(
        self, seam: SeamName, fn: Callable[[Callable[..., Any]], Callable[..., Any]]
    ) -> None:
        """Replace a seam by `fn(inner)`; a later wrap goes around an earlier one."""
        self.put(self.bundle.seams, seam, fn(getattr(self.bundle.seams, seam)))

    def each(self, fn: Callable[[Event], None]) -> None:
        """Call `fn` at every Started, Step and Ended of a run."""
        self.put(self.bundle.seams, "listeners", (*self.bundle.seams.listeners, fn))

    def attend(self, site: Site, fn: Attend) -> None:
        """Send a site's attention through `fn(call) -> output`; several stack, the first one innermost."""
        _refuse(site.module)
        for part in self.bundle.parts.values():
            if getattr(part, "gradient_checkpointing", False):
                raise BundleInUse(
                    f"{site.name}: gradient checkpointing recomputes unseen. Switch it off first."
                )
        self.put(site.module, "forward", intercept(site.module.forward, fn, site.name))

    def delta(self, delta: Delta, strength: float = 1.0) -> None:
        """Put every parameter a delta changes. Raises `PatchError` when the model has no such parameter."""
        for key in delta.keys():  # noqa: SIM118  (not a mapping)
            owner, name = self.find(key)
            old = getattr(owner, name)
            new = delta.changed(key, old, strength)
            self.put(owner, name, nn.Parameter(new, requires_grad=False))

    def find(self, key: str) -> tuple[nn.Module, str]:
        """The module and name of `part:path.parameter`."""
        part, _, path = key.partition(":")
        module: Any = self.bundle.parts.get(part)
        *way, name = path.split(".")
        for step in way:
            module = None if module is None else module._modules.get(step)
        if module is None or name not in module._parameters:
            raise PatchError(
                f"{self.bundle.name} has no parameter {key}. Was the delta fitted on another model?"
            )
        return module, name

    def _aliases(self, old: Tensor) -> Iterator[tuple[nn.Module, str]]:
        for part in self.bundle.parts.values():
            for module in part.modules():
                for name, value in module._parameters.items():
                    if value is old:
                        yield module, name

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
        raise PatchError(
            f"{type(owner).__name__}.{name} is a parameter; wrap the tensor in nn.Parameter."
        )
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
        raise BundleInUse(
            f"{type(module).__name__} is offloaded by accelerate. Load the model without offload."
        )
    if hasattr(module, "_orig_mod") or module._compiled_call_impl is not None:
        raise BundleInUse(
            f"{type(module).__name__} is compiled. Patch first, compile afterwards."
        )


def fingerprint(bundle: Bundle) -> dict[str, object]:
    """What a bundle is made of, by identity: equal before and after means nothing was changed.

    Per module: class, names in every store, ids and write counts of tensors, ids of plain attributes, hooks. Write
    counts also catch a write that was written back.
    """
    print_: dict[str, object] = {
        f"seam {name}": id(value) for name, value in vars(bundle.seams).items()
    }
    for part, root in bundle.parts.items():
        for path, module in root.named_modules(remove_duplicate=False):
            plain = vars(module)
            stores = {
                name: tuple((key, *_mark(value)) for key, value in plain[name].items())
                for name in _STORES
            }
            hooks = {
                name: len(value)
                for name, value in plain.items()
                if name.endswith("_hooks")
            }
            rest = tuple(
                (k, id(v))
                for k, v in sorted(plain.items())
                if k not in _STORES and not k.endswith("_hooks")
            )
            print_[f"{part}:{path}"] = (type(module).__qualname__, stores, hooks, rest)
    return print_


def _mark(value: Any) -> tuple[object, ...]:
    return (
        (id(value), value._version, value.dtype, str(value.device))
        if isinstance(value, Tensor)
        else (id(value),)
    )
