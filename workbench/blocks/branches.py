"""Further predictions for each image, made in the same call as the guided pair.

    branch = Branch(bundle, "cat, dog")
    patch.wrap("predict", branch.wrap)
    patch.wrap("guide", ...)             # branch.output is there by then, [B, C, h, w]

A `Branch` is one more row an image under another text. Edits of the guidance that need more than the prompt's and the
negative's predictions take it from here. Outside a run, and where a run is not guided, nothing is added and `output` is
None.

    branches = Branches(3)
    attach(patch, bundle, adapter, branches.gate(1))     # acts in the second branch alone
    patch.wrap("predict", branches.wrap)                 # after the adapters, so that it goes around them

`Branches` are several copies of every row, each of which an adapter's gate can tell from the others, and whose
predictions are made one: their mean, or a blend by masks.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# torch's unflatten carries no types

from collections.abc import Callable
from dataclasses import replace
from functools import reduce

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.blocks import gates
from workbench.blocks.denoise import condition
from workbench.core.ask import Ask
from workbench.core.bundle import Bundle, Condition


class Branch:
    """Rows of role `branch` behind the guided pair's, one an image, told `prompt`; their prediction is `output`."""

    def __init__(self, bundle: Bundle, prompt: str, when: Callable[[Condition], bool] = lambda cond: True) -> None:
        self.prompt, self.when = prompt, when
        self.output: Tensor | None = None
        _, height, width = bundle.shapes.image
        with torch.no_grad():
            self.text = condition(bundle, Ask(prompts=[prompt]), False, (width, height)).text

    def told(self, cond: Condition) -> Condition:
        """The conditional rows' condition, told the branch's prompt instead."""
        rows = cond.where("cond")
        here = cond.rows(rows)
        copies: dict[str, Tensor | None] = {}
        for name in ("states", "pooled", "mask", "ids"):
            mine, theirs = getattr(self.text, name), getattr(here.text, name)
            copies[name] = None if theirs is None else mine.to(theirs).expand(len(rows), *mine.shape[1:])
        return replace(here, text=replace(here.text, **copies), roles=("branch",) * len(rows))  # type: ignore[arg-type]

    def wrap(self, inner: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """`predict` with the branch's rows behind the others; they are taken off again."""

        def predict(x: Tensor, t: Tensor, cond: Condition) -> Tensor:
            self.output = None
            rows = cond.where("cond")
            if cond.step is None or not rows or not cond.where("uncond") or not self.when(cond):
                return inner(x, t, cond)
            made = inner(torch.cat([x, x[rows]]), torch.cat([t, t[rows]]), both(cond, self.told(cond)))
            count = len(rows) if cond.step.x is None else len(cond.step.x)
            self.output = made[len(x) :].unflatten(0, (-1, count)).mean(0)  # an edit around this may have copied rows
            return made[: len(x)]

        return predict


Combine = Callable[[Tensor, Condition], Tensor]
Retell = Callable[[int, Condition], Condition]


def mean(predictions: Float[Tensor, "n R C h w"], cond: Condition) -> Float[Tensor, "R C h w"]:
    """The mean of all branches, the same weight for each."""
    return predictions.mean(0)


def masked(
    predictions: Float[Tensor, "n R C h w"], masks: Float[Tensor, "n R 1 h w"] | Float[Tensor, "n 1 1 h w"]
) -> Float[Tensor, "R C h w"]:
    """Each place from the branches whose mask is there, in its proportions; masks hold something everywhere."""
    return (predictions * masks).sum(0) / masks.sum(0)


def images(cond: Condition, count: int) -> list[int]:
    """Which of `count` images each row belongs to: rows of a role are in the images' order, once or several times."""
    found: dict[int, int] = {}
    for role in ("cond", "uncond", "branch"):
        found |= {row: number % count for number, row in enumerate(cond.where(role))}
    return [found[row] for row in range(len(cond.roles))]


class Branches:
    """`count` copies of every row in one call, made one prediction by `combine(predictions [n, R, C, h, w], cond)`.

    `retell(branch, cond)` may tell the rows of a branch something else, such as another text.
    """

    def __init__(self, count: int, combine: Combine = mean, retell: Retell | None = None) -> None:
        self.count, self.combine = count, combine
        self.mark = f"branch {id(self)}"  # in a condition's extras: which branch a row belongs to
        self.retell: Retell = retell or (lambda branch, cond: cond)

    def gate(self, branch: int) -> gates.Gate:
        """1 in the rows of a branch and 0 in those of the others; 1 where there are no branches, as while text is
        read."""

        def open_(cond: Condition) -> Tensor:
            mark = cond.extra.get(self.mark)
            return torch.ones(len(cond.roles)) if mark is None else (mark == branch).float()

        return gates.rows(open_)

    def spread(self, cond: Condition) -> Condition:
        """The rows of every branch, one branch after the other, each marked as its own."""
        told: list[Condition] = []
        for branch in range(self.count):
            mine = self.retell(branch, cond)
            mark = torch.full((len(cond.roles),), float(branch), device=cond.text.states.device)
            told.append(replace(mine, extra={**mine.extra, self.mark: mark}))
        return reduce(both, told)

    def rows(self, branch: int, cond: Condition) -> list[int]:
        """The conditional rows of a branch in a condition that was spread."""
        return [row for row in cond.where("cond") if float(cond.extra[self.mark][row]) == branch]

    def wrap(self, inner: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """`predict` that answers for every branch and combines."""

        def predict(x: Tensor, t: Tensor, cond: Condition) -> Tensor:
            many = inner(x.repeat(self.count, 1, 1, 1), t.repeat(self.count), self.spread(cond))
            return self.combine(many.unflatten(0, (self.count, len(x))), cond)

        return predict


def both(first: Condition, second: Condition) -> Condition:
    """The rows of two conditions of one step, one after the other."""
    texts: dict[str, Tensor | None] = {}
    for name in ("states", "pooled", "mask", "ids"):
        mine, theirs = getattr(first.text, name), getattr(second.text, name)
        texts[name] = None if mine is None else torch.cat([mine, theirs])
    extra = {name: torch.cat([value, second.extra[name]]) for name, value in first.extra.items()}
    return replace(
        first,
        text=replace(first.text, **texts),  # type: ignore[arg-type]
        seeds=first.seeds + second.seeds,
        roles=first.roles + second.roles,
        extra=extra,
    )
