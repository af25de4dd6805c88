"""Edits in force for a while, and the stage that a lens looks at."""

import hashlib
import json
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.core.ask import Ask
from workbench.core.bundle import Bundle, Images
from workbench.core.delta import Delta
from workbench.core.patch import Patch
from workbench.core.tape import Tap, ignore

if TYPE_CHECKING:
    from workbench.core.method import Edit, Sampler

Record = Callable[[Patch], None]


@contextmanager
def using(
    bundle: Bundle, *edits: "Edit", tap: Tap = ignore, record: Record | None = None
) -> Generator[Bundle, None, None]:
    """The bundle with edits in force, in order: each is fitted on the model as the ones before it left it.

    Fitted deltas come from the bundle's store where it has them. `record` may add observers after the edits. On the
    way out everything is undone in reverse, also when entering failed half-way. Raises `UnsupportedFamily` before any
    work.
    """
    for edit in edits:
        edit.check(bundle)
    with Patch(bundle) as patch:
        for edit in edits:
            delta = fitted(edit, bundle, bundle.seams.edits, tap)
            edit.patch(bundle, delta, patch)
            patch.put(bundle.seams, "edits", (*bundle.seams.edits, edit.key))
        if record is not None:
            record(patch)
        yield bundle


def fitted(edit: "Edit", bundle: Bundle, before: Sequence[str], tap: Tap = ignore) -> Delta:
    """An edit's delta, from the store if it was fitted before on the same weights and after the same edits.

    A change of `strength` alone needs no new fit.
    """
    if not edit.fits():
        return Delta.none()
    address = json.dumps([bundle.digest, list(before), edit.fit_key])
    key = "delta/" + hashlib.sha256(address.encode()).hexdigest()[:32]
    kept = bundle.store.tensors(key) if bundle.store is not None else None
    if kept is not None:
        tensors, text = kept
        return Delta(text["kind"], tensors, {k: v for k, v in text.items() if k != "kind"})  # type: ignore[arg-type]
    delta = edit.fit(bundle, tap)
    if bundle.store is not None:
        bundle.store.keep_tensors(key, delta.tensors, {**delta.text, "kind": delta.kind})
    return delta


@dataclass(frozen=True, eq=False)
class Scene:
    """What a lens looks at: the unedited bundle, a sampler, edits and a request."""

    bundle: Bundle
    sampler: "Sampler"
    edits: tuple["Edit", ...]
    ask: Ask
    tap: Tap = ignore

    def run(
        self,
        ask: Ask | None = None,
        edits: Sequence["Edit"] | None = None,
        sampler: "Sampler | None" = None,
        tap: Tap | None = None,
        record: Record | None = None,
    ) -> Images:
        """Draw, with anything of the scene exchanged: uint8 [B, 3, H, W]. Leaves the bundle as it was."""
        chosen = sampler or self.sampler
        chosen.check(self.bundle)

        def both(step: object) -> None:
            self.tap(step)  # type: ignore[arg-type]
            if tap is not None:
                tap(step)  # type: ignore[arg-type]

        with using(self.bundle, *(self.edits if edits is None else edits), record=record) as bundle:
            return chosen.sample(bundle, ask or self.ask, both)
