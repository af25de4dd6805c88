"""Self-attention: where one place of the picture looks, and which places have keys of a kind.

Paper: Vaswani et al. 2017, "Attention Is All You Need", arXiv 1706.03762, eq. 1; as a view of diffusion models
Hertz et al. 2022, "Prompt-to-Prompt", arXiv 2208.01626, section 4 and Tumanyan et al. 2022, arXiv 2211.12572.

Equations: W = softmax(q k^T / sqrt(d)) [A, N, N] of one image at one step;
    map(p) = mean over heads and sites of the level of W[:, p, :]        sums to one over the N places
    evenness = H(W[a, p, :]) / log N, mean over heads and places         0 looks at one place, 1 everywhere alike
    parts = the first three principal components over the N places of the keys k of all heads and sites of the level,
            each spread to 0..1, as red, green and blue (Tumanyan et al., figure 3): places of a colour are of a kind

Differs: a single query at a time instead of principal components of all maps; keys without the network's other
features; signs follow from the data, so that a picture does not flip. The conditional rows only.

There are no official numbers. Licence of the reference: prompt-to-prompt, Apache-2.0 (read, not copied), function
`show_self_attention_comp`.
"""

from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field

from workbench.blocks.denoise import picture_size
from workbench.blocks.recorder import Recorder, entropies, keys, looks_from
from workbench.core.bundle import Site
from workbench.core.errors import AskError
from workbench.core.fields import Role, Unit
from workbench.core.method import Card, Lens
from workbench.core.report import Heat, Picture, Report, Table
from workbench.core.scene import Scene
from workbench.core.tape import Step
from workbench.ops.attention import place, principal, to_grid


class SelfAttention(Lens):
    """Follow the gaze of one pixel at one level and moment."""

    card: ClassVar[Card] = Card("self-attention", "Self-attention", "arXiv 1706.03762", ("unet", "dit"), "seconds")

    pixel: Annotated[tuple[int, int] | None, Role("pixel"), Unit("px")] = Field(
        None, description="Column and row of the pixel that looks; none is the middle."
    )
    level: int | None = Field(None, ge=0, le=8, description="Halvings of the latent grid; none is the finest there is.")
    moment: float = Field(0.5, ge=0, le=1, description="Share of the run at which to look: 0 first step, 1 last step.")

    def look(self, scene: Scene) -> Report:
        """A map an image with the picture underneath, and the evenness of every site."""
        sites = self._sites(scene)
        width, height = picture_size(scene.bundle, scene.ask)
        picture = (height, width)
        pixel = self.pixel or (picture[1] // 2, picture[0] // 2)
        place(pixel, picture, picture)  # refuse a pixel outside before any work
        recorder = Recorder(steps=self._here)
        recorder.attention(sites, "gaze", looks_from(pixel, picture))
        recorder.attention(sites, "evenness", entropies)
        recorder.attention(sites, "keys", keys)
        images = scene.run(record=recorder.attach)
        factor = scene.bundle.shapes.factor
        gaze = torch.stack([recorder.taken("gaze", site)[0] for site in sites]).mean(0)  # [B, N]
        grids = to_grid(gaze, (height // factor, width // factor)).numpy()
        step = recorder.times[0] + 1
        title = f"Where ({pixel[0]}, {pixel[1]}) looks at step {step}"
        under = [np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy()) for image in images]
        panels: list[Heat | Picture] = [
            Heat(grid, f"{title}: {prompt}", "share", 0.0, float(grid.max()), over=over)
            for grid, prompt, over in zip(grids, scene.ask.prompts, under, strict=True)
        ]
        features = torch.cat([recorder.taken("keys", site)[0] for site in sites], -1)  # [B, N, D]
        panels += [
            Picture(parts(rows, (height // factor, width // factor)), f"Places of a kind at step {step}: {prompt}")
            for rows, prompt in zip(features, scene.ask.prompts, strict=True)
        ]
        spread = {site.name: recorder.taken("evenness", site)[0].mean((0, 2)) for site in sites}  # [A]
        rows = tuple((name, *_stats(heads)) for name, heads in spread.items())
        table = Table(("site", "evenness", "most focused head", "least focused head"), rows, "Evenness, 0..1")
        return Report(
            (*panels, table), {"evenness": sum(float(heads.mean()) for heads in spread.values()) / len(spread)}
        )

    def _sites(self, scene: Scene) -> tuple[Site, ...]:
        known = scene.bundle.sites("self-attention")
        if not known:
            raise AskError(f"{scene.bundle.name} has no self-attention to look at.")
        levels = sorted({site.level for site in known})
        level = levels[0] if self.level is None else self.level
        if level not in levels:
            raise AskError(
                f"Level {level} of {scene.bundle.name} has no self-attention. Levels that have: "
                f"{', '.join(map(str, levels))}."
            )
        return tuple(site for site in known if site.level == level)

    def _here(self, step: Step) -> bool:
        return step.index == round(self.moment * (step.total - 1))


def parts(features: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
    """Features [N, D] as a picture [h, w, 3] of their first three principal components."""
    grids = to_grid(principal(features).T, size)  # [3, h, w]
    return (grids.permute(1, 2, 0) * 255).round().to(torch.uint8).contiguous().numpy()


def _stats(heads: torch.Tensor) -> tuple[float, float, float]:
    return round(heads.mean().item(), 4), round(heads.min().item(), 4), round(heads.max().item(), 4)
