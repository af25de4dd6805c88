"""Words that belong to adapters: learned tokens said by their trigger, and triggers that a prompt forgot."""

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from workbench.blocks.adapters import Adapter
from workbench.blocks.attack import place, tables
from workbench.core.bundle import Bundle, TextStates
from workbench.core.errors import CheckpointMismatch
from workbench.core.patch import Patch
from workbench.core.tape import Event, Started


class _Learned:
    """The rows of a trigger, and the token that stands for each of them while prompts with it are read."""

    def __init__(self, bundle: Bundle, trigger: str, rows: Sequence[Tensor]) -> None:
        self.bundle, self.rows, self.count = bundle, rows, len(rows[0])
        self.said = re.compile(rf"(?<!\w){re.escape(trigger)}(?!\w)", re.IGNORECASE)
        self.token: int | None = None
        self.choosing = False

    def around(self, inner: Callable[..., TextStates]) -> Callable[..., TextStates]:
        """Reading, with the trigger replaced by as many places as it has rows."""

        def read(prompts: Sequence[str]) -> TextStates:
            if self.choosing or not any(self.said.search(prompt) for prompt in prompts):
                return inner(prompts)
            self.choosing = True
            try:
                word, self.token = place(self.bundle, [self.said.sub(" ", prompt) for prompt in prompts])
                spelled = f" {' '.join([word] * self.count)} "
                return inner([" ".join(self.said.sub(spelled, prompt).split()) for prompt in prompts])
            finally:
                self.choosing, self.token = False, None

        return read

    def reader(self, index: int) -> Callable[..., Tensor | None]:
        """A hook on the index-th table of tokens that puts the rows where their token is."""

        def after(module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> Tensor | None:
            ids: Tensor = args[0] if args else kwargs["input"]
            if self.token is None or not (ids == self.token).any():
                return None
            at = ids == self.token
            order = (at.cumsum(-1) - 1)[at] % self.count
            fill = self.rows[index].to(output)[order.to(output.device)]
            return output.masked_scatter(at[..., None].expand_as(output), fill)

        return after


def wear_rows(patch: Patch, bundle: Bundle, adapter: Adapter) -> None:
    """Let prompts say an adapter's learned tokens by its trigger, while the patch lasts.

    Raises `CheckpointMismatch` when the rows are not as wide as the model's own, or not one set a text encoder.
    """
    if not adapter.rows:
        return
    found = tables(bundle)
    parts = [name for name in bundle.parts if name.startswith("text")]
    rows = [adapter.rows[part] for part in parts if part in adapter.rows]
    wide = [table.weight.shape[1] for table in found]
    if len(rows) != len(found) or any(row.shape[1] != width for row, width in zip(rows, wide, strict=True)):
        told = ", ".join(f"{part} {tuple(row.shape)}" for part, row in adapter.rows.items())
        raise CheckpointMismatch(
            f"{adapter.name} has learned tokens of {told}; {bundle.name} reads tokens of {', '.join(map(str, wide))}. "
            "They belong to another model."
        )
    learned = _Learned(bundle, adapter.trigger, rows)
    patch.wrap("read", learned.around)
    for index, table in enumerate(found):
        patch.hook(table, learned.reader(index))


def remind(patch: Patch, bundle: Bundle, adapter: Adapter) -> None:
    """Warn once a run when none of its prompts holds the word that calls an adapter."""
    word = adapter.trigger.lower()
    heard: list[str] = []
    if not word:
        return

    def around(inner: Callable[..., TextStates]) -> Callable[..., TextStates]:
        def read(prompts: Sequence[str]) -> TextStates:
            heard.extend(prompts)
            return inner(prompts)

        return read

    def started(event: Event) -> None:
        if not isinstance(event, Started):
            return
        if heard and not any(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text.lower()) for text in heard):
            warnings.warn(
                f"No prompt says {adapter.trigger!r}, the word that calls the adapter {adapter.name}. Put it where the "
                "subject or style is named.",
                RuntimeWarning,
                stacklevel=2,
            )
        heard.clear()

    patch.wrap("read", around)
    patch.each(started)
