"""Attention rollout: which patches a scorer's answer comes from, by attention alone.

Paper: Abnar and Zuidema 2020, "Quantifying Attention Flow in Transformers", arXiv 2005.00928.

Equations: A^_l = rownorm(mean over heads of A_l + I),   R = A^_L ... A^_1;   the map is R[CLS, patches] (eq. 1).

Differs: nothing. It knows neither the words nor the values, so it is the same for every prompt; see chefer for what
speaks for a prompt. Official numbers: about 73.5 pixel accuracy, 55.4 mIoU and 84.8 mAP on ImageNet-Segmentation in
later comparisons, quoted from memory. Licence of the reference: samiraabnar/attention_flow, Apache-2.0 (not read).
"""

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from workbench.blocks.judged import patches, pictures_of, pixels_of, scorer_of, under, vision_sites
from workbench.blocks.recorder import Look, Recorder
from workbench.core.fields import Role
from workbench.core.method import Card, Lens
from workbench.core.patch import Patch
from workbench.core.report import Heat, Report
from workbench.core.scene import Scene
from workbench.ops.attention import evenness, mean_heads, roll


class Rollout(Lens):
    """Follow a scorer's attention back to the patches."""

    card: ClassVar[Card] = Card(
        "rollout", "Attention rollout", "arXiv 2005.00928", ("unet", "dit", "mmdit", "var", "clip"), "seconds"
    )

    scorer: Annotated[str, Role("model")] = Field("emoji-scorer", description="The model that looks at the picture.")

    @torch.no_grad()
    def look(self, scene: Scene) -> Report:
        """A map a picture over its patches, and how even it is."""
        scorer = scorer_of(scene, self.scorer)
        images = pictures_of(scene)
        sites, grid, recorder = vision_sites(scorer), patches(scorer), Recorder()
        recorder.attention(sites, "weights", _head_mean)
        with Patch(scorer) as patch, recorder.during(len(images), grid):
            recorder.attach(patch)
            scorer.encode(pixels_of(images, scorer))
        flow: Tensor | None = None
        for site in sites:
            flow = roll(recorder.taken("weights", site)[0][:, None], flow)
        shares = flow[:, 0, 1:].unflatten(-1, grid).cpu()  # type: ignore[index]
        panels = [
            Heat(rows.numpy(), f"Where the scorer's answer comes from: {prompt}", "share", over=over)
            for rows, prompt, over in zip(shares, scene.ask.prompts, under(images), strict=True)
        ]
        even = evenness((shares / shares.sum((1, 2), keepdim=True)).flatten(1)).mean().item()
        return Report(tuple(panels), {"evenness": even})


def _head_mean(look: Look) -> Tensor:
    return torch.cat([mean_heads(part) for part in look.weights()], 1)
