"""Cross-scale attention: which coarser scales a decoder by scale looks back at, and where in them.

Paper: Tian, Jiang, Yuan, Peng and Wang 2024, "Visual Autoregressive Modeling", arXiv 2404.02905: a token sees its own
scale and all coarser ones.

Equations, for the tokens i of scale k with weights W [A, N, L] over the tokens of scales 0 to k:
    M[k, j] = mean over layers, heads and i of sum over the tokens l of scale j of W[i, l],   rows sum to one
    P[j, y, x] = mean over layers and heads of W[i*, l] at the tokens l of scale j, i* the token under a pixel
M / (tokens of scale j over tokens of scales 0 to k) tells whether a scale is looked at more than its size alone would
have it; the table gives both.

Differs: nothing of the paper's; it shows no such map. Weights are those that are really computed, of the conditional
rows. An edit that keeps fewer tokens of a scale leaves no way to say which scale a key belongs to: it is refused.

There are no official numbers. Licence of the reference: FoundationVision/VAR, MIT (read, not copied).
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from workbench.blocks.recorder import Look, Recorder
from workbench.blocks.scales import own_grids
from workbench.core.bundle import Site, told
from workbench.core.errors import AskError, MissingPart, PatchError
from workbench.core.fields import Role
from workbench.core.method import Card, Lens
from workbench.core.report import Curve, Film, Heat, Report, Table
from workbench.core.scene import Scene
from workbench.ops.residual_scales import Grid


class CrossScaleAttention(Lens):
    """Attention between the scales of a decoder."""

    card: ClassVar[Card] = Card(
        "cross-scale-attention", "Cross-scale attention", "arXiv 2404.02905", ("var",), "seconds"
    )

    by: Literal["all", "layer"] = Field("all", description="One matrix over all layers, or one a layer.")
    at: Annotated[tuple[int, int] | None, Role("pixel")] = Field(
        None, description="A pixel (x, y) of which the looks of its token at the last scale are shown; none shows none."
    )

    def look(self, scene: Scene) -> Report:
        """The matrix of looks from scale to scale, and where one token looks."""
        bundle = scene.bundle
        sites = bundle.sites("self-attention")
        if not sites:
            raise MissingPart(f"{bundle.name} has no self-attention to look at.")
        height, width = bundle.shapes.image[1:]
        if self.at is not None and not (0 <= self.at[0] < width and 0 <= self.at[1] < height):
            raise AskError(f"at is {self.at}; the picture has {width}x{height} pixels, counted from 0.")
        most = len(own_grids(bundle))
        recorder = Recorder()
        recorder.attention(sites, "mass", masses)
        if self.at is not None:
            recorder.attention(sites, "place", Looking(self.at, (height, width), most))
        with torch.no_grad():
            images = scene.run(record=recorder.attach)
        whole = torch.stack([by_scale(recorder, "mass", site) for site in sites])[:, :, 0, 0]  # [layers, S, S]
        panels = [self._heat(whole.mean(0).numpy(), "Looks from each scale (rows) to each scale")]
        if self.by == "layer":
            panels = [
                self._heat(layer.numpy(), name)
                for name, layer in zip((site.name for site in sites), whole, strict=True)
            ]
        grids = own_grids(bundle)
        mean = whole.mean(0).double().numpy()
        extra = [self._own(whole.double().numpy()), self._table(mean, grids)]
        films = [] if self.at is None else self._films(scene, recorder, sites, images)
        own = float(np.mean(np.diag(mean)[1:])) if len(mean) > 1 else 1.0
        return Report((*films, *panels, *extra), {"own_scale": own, "first_scale": float(mean[-1, 0])})

    def _heat(self, values: np.ndarray, title: str) -> Heat:
        return Heat(values, title, "share of attention", 0.0, 1.0)

    def _own(self, layers: np.ndarray) -> Curve:
        """How much of each layer's attention stays within the scale, mean over scales after the first."""
        stay = np.array([np.diag(layer)[1:].mean() if len(layer) > 1 else 1.0 for layer in layers])
        first = np.array([layer[1:, 0].mean() if len(layer) > 1 else 1.0 for layer in layers])
        return Curve(np.arange(1, len(layers) + 1, dtype=np.float64), np.stack([stay, first]),
                     ("to its own scale", "to the first scale"), "How far back each layer looks",
                     ("layer", "share of attention"))  # fmt: skip

    def _table(self, mean: np.ndarray, grids: tuple[Grid, ...]) -> Table:
        counts = np.array([h * w for h, w in grids], dtype=np.float64)
        rows = tuple(
            (k + 1, j + 1, round(float(mean[k, j]), 4),
             round(float(mean[k, j] / (counts[j] / counts[: k + 1].sum())), 3))
            for k in range(len(mean))
            for j in range(k + 1)
        )  # fmt: skip
        return Table(("from scale", "to scale", "share", "over its share of tokens"), rows, "Looks between scales")

    def _films(self, scene: Scene, recorder: Recorder, sites: tuple[Site, ...], images: Tensor) -> list[Film]:
        """Where the token under the pixel looks at the last scale: one frame a scale, over each picture."""
        last = torch.stack([rows_of(recorder, "place", site) for site in sites]).mean(0)  # [B, S, h, w]
        grids = own_grids(scene.bundle)
        labels = tuple(f"in scale {k + 1}, {h}x{w}" for k, (h, w) in enumerate(grids))
        under = [np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy()) for image in images]
        return [Film(last[row].numpy(), labels, f"{prompt}: looks from pixel {self.at}", under[row])
                for row, prompt in enumerate(scene.ask.prompts)]  # fmt: skip


def by_scale(recorder: Recorder, key: str, site: Site) -> Tensor:
    """What a site's calls said of each scale, mean over the calls of one: [S, ...]; a run may call image by image."""
    values = recorder.taken(key, site)
    times = torch.tensor(recorder.times[: len(values)])  # another network may have taken over
    return torch.stack([values[times == k].mean(0) for k in times.unique()])


def rows_of(recorder: Recorder, key: str, site: Site) -> Tensor:
    """What a site said at the last scale it was called at, of every image: [B, ...]."""
    values = recorder.taken(key, site)
    times = torch.tensor(recorder.times[: len(values)])
    return values[times == times.max()].flatten(0, 1)


def _grids(look: Look) -> tuple[tuple[Grid, ...], int]:
    """The schedule of the call under way and its scale. Raises `PatchError` when the keys do not fit it."""
    now = told.get()
    if now is None or now[0].memory is None or now[0].step is None:
        raise PatchError("Looks between scales are seen within a run of a decoder by scale alone.")
    grids, k = tuple(now[0].memory.grids), now[0].step.index
    wanted = sum(h * w for h, w in grids[: k + 1])
    if look.call.key.shape[-2] != wanted:
        raise PatchError(
            f"{look.site.name} saw {look.call.key.shape[-2]} tokens where scales 1 to {k + 1} have {wanted}, so an "
            "edit keeps fewer and it is not known of which scale. Look without it."
        )
    return grids, k


def masses(look: Look) -> Tensor:
    """How much the tokens of the scale under way look at each scale: [1, 1, S], mean over rows, heads and tokens."""
    grids, k = _grids(look)
    counts = [h * w for h, w in grids[: k + 1]]
    weights = torch.cat([part.mean((0, 1)) for part in look.weights()])[-counts[-1] :]  # [n, L]
    found = torch.stack([part.sum(-1).mean() for part in weights.split(counts, -1)])
    return torch.nn.functional.pad(found.cpu(), (0, len(grids) - k - 1))[None, None]


@dataclass(frozen=True)
class Looking:
    """A reducer: the looks of the token under a pixel (x, y) of a picture (height, width) at each of `most` scales."""

    at: tuple[int, int]
    size: tuple[int, int]
    most: int

    def __call__(self, look: Look) -> Tensor:
        """Maps on the finest grid [B, most, h, w]; each token's share fills the places it stands for."""
        grids, k = _grids(look)
        h, w = grids[k]
        x, y = self.at
        queries = look.call.query.shape[-2]
        token = queries - h * w + (y * h // self.size[0]) * w + x * w // self.size[1]
        row = look.call.weights(slice(token, token + 1)).mean(1)[:, 0]  # [B, L]
        rows, columns = grids[-1]
        found = torch.zeros(len(row), self.most, rows, columns)
        for j, part in enumerate(row.split([a * b for a, b in grids[: k + 1]], -1)):
            a, b = grids[j]
            small = part.reshape(-1, a, b).cpu()
            found[:, j] = small[:, torch.arange(rows) * a // rows][:, :, torch.arange(columns) * b // columns]
        return found
