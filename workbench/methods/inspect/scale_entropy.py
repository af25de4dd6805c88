"""Scale entropy: how sure a decoder by scale is of each token, and how hard guidance pulls at it.

Paper: the decoder is Tian, Jiang, Yuan, Peng and Wang 2024, arXiv 2404.02905; entropy and divergence are Shannon's and
Kullback and Leibler's.

Equations, for every token of scale k with p = softmax(l(c)) and q = softmax(l(none)), V codes:
    H = -sum_v p_v log2 p_v, in bits, of log2 V at most       top-5 = the five largest p_v together
    guidance = KL(p | q) = sum_v p_v log2(p_v / q_v), in bits: what the prompt says about this token
    chosen = p_r of the token r that was drawn
Maps are shown scale by scale over the picture; `at` picks a pixel and lists its likeliest codes at every scale.

Differs: these are the network's own probabilities, before top_k, top_p, temperature and guidance, so they do not depend
on the sampler's settings but through the tokens drawn before. Scales at which an edit leaves the unconditional rows out
have no guidance map.

There are no official numbers. Licence of the reference: FoundationVision/VAR, MIT (read, not copied).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from workbench.core.bundle import Condition
from workbench.core.errors import AskError
from workbench.core.fields import Role
from workbench.core.method import Card, Lens
from workbench.core.patch import Patch
from workbench.core.report import Curve, Film, Report, Table
from workbench.core.scene import Scene

TOP = 5


@dataclass(eq=False)
class Seen:
    """What one scale's rows said: logits of conditional and unconditional rows [B, V, p, q], and tokens [B, p * q]."""

    positive: list[Tensor] = field(default_factory=list[Tensor])
    negative: list[Tensor] = field(default_factory=list[Tensor])
    tokens: Tensor | None = None


class ScaleEntropy(Lens):
    """Entropy, top-5 and guidance of every token."""

    card: ClassVar[Card] = Card("scale-entropy", "Scale entropy", "arXiv 2404.02905", ("var",), "seconds")

    at: Annotated[tuple[int, int] | None, Role("pixel")] = Field(
        None, description="A pixel (x, y) whose likeliest codes are listed at every scale; none lists no codes."
    )

    def look(self, scene: Scene) -> Report:
        """Films of entropy and guidance over each picture, and their means by scale."""
        height, width = scene.bundle.shapes.image[1:]
        if self.at is not None and not (0 <= self.at[0] < width and 0 <= self.at[1] < height):
            raise AskError(f"at is {self.at}; the picture has {width}x{height} pixels, counted from 0.")
        heard: dict[int, Seen] = {}
        with torch.no_grad():
            images = scene.run(record=lambda patch: listen(patch, heard))
        scales = [measured(heard[k]) for k in sorted(heard)]
        under = [np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy()) for image in images]
        labels = tuple(f"scale {k + 1}, {'x'.join(map(str, m.entropy.shape[1:]))}" for k, m in enumerate(scales))
        panels: list[Any] = []
        for row, prompt in enumerate(scene.ask.prompts):
            panels.append(Film(_laid([m.entropy[row] for m in scales]), labels, f"{prompt}: entropy, bits", under[row]))
            pulled = [
                (label, m.guidance[row]) for label, m in zip(labels, scales, strict=True) if m.guidance is not None
            ]
            if pulled:
                names, maps = zip(*pulled, strict=True)
                panels.append(Film(_laid(list(maps)), names, f"{prompt}: guidance, bits", under[row]))
        panels += [self._curve(scales), self._table(scales)]
        if self.at is not None:
            panels.append(self._codes(heard, (height, width)))
        counts = np.array([m.entropy[0].size for m in scales], dtype=np.float64)
        mean = float(np.average([m.entropy.mean() for m in scales], weights=counts))
        return Report(tuple(panels), {"entropy_bits": mean, "entropy_first": float(scales[0].entropy.mean()),
                                      "entropy_last": float(scales[-1].entropy.mean())})  # fmt: skip

    def _curve(self, scales: list["Measured"]) -> Curve:
        x = np.arange(1, len(scales) + 1, dtype=np.float64)
        return Curve(x, np.stack([[m.entropy.mean() for m in scales]]), ("entropy",), "How sure each scale is",
                     ("scale", "bits a token"))  # fmt: skip

    def _table(self, scales: list["Measured"]) -> Table:
        def mean(values: np.ndarray | None) -> float | str:
            return "" if values is None else round(float(values.mean()), 4)

        rows = tuple(
            (k + 1, m.entropy[0].size, mean(m.entropy), mean(m.top), mean(m.chosen), mean(m.guidance))
            for k, m in enumerate(scales)
        )
        return Table(("scale", "tokens", "entropy, bits", "top-5", "chosen", "guidance, bits"), rows, "Means by scale")

    def _codes(self, heard: dict[int, Seen], size: tuple[int, int]) -> Table:
        """The likeliest codes under a pixel of the first picture, and the one that was drawn."""
        x, y = self.at or (0, 0)
        rows: list[tuple[str | int | float, ...]] = []
        for k in sorted(heard):
            logits = torch.cat(heard[k].positive)[0].float()
            h, w = logits.shape[-2:]
            i, j = y * h // size[0], x * w // size[1]
            best = logits[:, i, j].softmax(0).topk(min(TOP, len(logits)))
            pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
            said = ", ".join(f"{code} ({share:.2f})" for code, share in pairs)
            tokens = heard[k].tokens
            rows.append((k + 1, f"{i}, {j}", said, "" if tokens is None else int(tokens[0, i * w + j])))
        return Table(("scale", "row, column", "likeliest codes", "drawn"), tuple(rows), f"Codes under pixel {x}, {y}")


@dataclass(frozen=True, eq=False)
class Measured:
    """Maps of one scale: entropy, top-5 share, probability of the chosen token, guidance; [B, p, q] each."""

    entropy: np.ndarray
    top: np.ndarray
    chosen: np.ndarray | None
    guidance: np.ndarray | None


def measured(seen: Seen) -> Measured:
    """Entropy, top-5, chosen probability and guidance of a scale."""
    log = torch.cat(seen.positive).double().log_softmax(1)
    p = log.exp()
    entropy = -(p * log.clamp(min=-1e4)).sum(1) / np.log(2)
    top = p.topk(min(TOP, p.shape[1]), dim=1).values.sum(1)
    chosen, guidance = None, None
    if seen.tokens is not None and len(seen.tokens) == len(p):
        chosen = p.flatten(2).gather(1, seen.tokens[:, None]).reshape(len(p), *p.shape[2:]).cpu().numpy()
    if seen.negative:
        other = torch.cat(seen.negative).double().log_softmax(1)
        if other.shape == log.shape:
            guidance = ((p * (log - other)).sum(1) / np.log(2)).clamp(min=0).cpu().numpy()
    return Measured(entropy.clamp(min=0).cpu().numpy(), top.cpu().numpy(), chosen, guidance)


def listen(patch: Patch, heard: dict[int, Seen]) -> None:
    """Note every scale's logits by role, and what was drawn of them; nothing of the run changes."""

    def predicting(inner: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def predict(x: Tensor, t: Tensor, cond: Condition) -> Tensor:
            logits = inner(x, t, cond)
            seen = heard.setdefault(_scale(cond), Seen())
            for role, kept in (("cond", seen.positive), ("uncond", seen.negative)):
                rows = cond.where(role)  # type: ignore[arg-type]
                if rows and len(logits) == len(cond.roles):
                    kept.append(logits[rows].detach().cpu())
            return logits

        return predict

    def advancing(inner: Callable[..., Any]) -> Callable[..., Any]:
        def advance(x: Tensor, logits: Tensor, t: Tensor, cond: Condition, *more: Any) -> Any:
            result = inner(x, logits, t, cond, *more)
            drawn = getattr(cond.memory, "tokens", {}).get(_scale(cond))
            if drawn is not None:
                heard.setdefault(_scale(cond), Seen()).tokens = drawn.detach().cpu()
            return result

        return advance

    patch.wrap("predict", predicting)
    patch.wrap("advance", advancing)


def _scale(cond: Condition) -> int:
    if cond.step is None:
        raise AskError("scale-entropy looks at a run; the network was called outside of one.")
    return cond.step.index


def _laid(maps: list[np.ndarray]) -> np.ndarray:
    """Maps of several grids on the finest one, each value over the places it stands for: [S, h, w]."""
    rows, columns = (max(sizes) for sizes in zip(*(m.shape for m in maps), strict=True))
    down, across = np.arange(rows), np.arange(columns)
    return np.stack([m[down * m.shape[0] // rows][:, across * m.shape[1] // columns] for m in maps])
