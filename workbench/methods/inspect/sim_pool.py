"""SimPool map: what a picture is about, by the one query that pools a scorer's patches.

Paper: Psomas, Kakogeorgiou, Karantzalos and Avrithis 2023, "Keep It SimPool: Who Said Supervised Transformers Suffer
from Attention Deficit?", arXiv 2309.06891 (ICCV 2023).

Equations: u = mean of the n patch features X,   a = softmax((W_q u) (W_k LN(X))^T / sqrt(d)),   z = sum_j a_j LN(X)_j;
the map is a over the patches, times n (1 everywhere: nothing stands out).

Differs: trained on the scorer's frozen patch features against its frozen texts, not together with the network; one
head and no exponent gamma. Official numbers: maximum boxes accuracy 79.0 of a ViT-S on CUB against 63.1 of its class
token, quoted from memory. Licence of the reference: billpsomas/simpool, Apache-2.0 (read, not copied), class `SimPool`.
"""

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from workbench.blocks.judged import patches, pictures_of, pixels_of, scorer_of, under
from workbench.blocks.recorder import Recorder
from workbench.blocks.simpool import load_simpool
from workbench.core.bundle import Bundle, Images
from workbench.core.fields import Role
from workbench.core.method import Card, Lens
from workbench.core.patch import Patch
from workbench.core.report import Heat, Report
from workbench.core.scene import Scene


class SimPoolMap(Lens):
    """The patches that a pooled picture consists of."""

    card: ClassVar[Card] = Card(
        "sim-pool", "SimPool map", "arXiv 2309.06891", ("unet", "dit", "mmdit", "var", "clip"), "seconds"
    )

    scorer: Annotated[str, Role("model")] = Field("emoji-scorer", description="The model that looks at the picture.")

    @torch.no_grad()
    def look(self, scene: Scene) -> Report:
        """A map a picture over its patches, and how far its peak stands out."""
        scorer = scorer_of(scene, self.scorer)
        pool = load_simpool(scorer).to(scorer.device)
        images = pictures_of(scene)
        weights = pool.weights(patch_features(scorer, images))
        maps = (weights * weights.shape[1]).unflatten(-1, patches(scorer)).cpu()
        panels = [
            Heat(rows.numpy(), f"What the picture is about: {prompt}", "times an even share", low=0.0, over=over)
            for rows, prompt, over in zip(maps, scene.ask.prompts, under(images), strict=True)
        ]
        return Report(tuple(panels), {"peak_over_mean": float(maps.amax((1, 2)).mean())})


def patch_features(scorer: Bundle, images: Images) -> Tensor:
    """What the last layer of a scorer's picture tower says of each patch [B, n, D], in float32."""
    last = [site for site in scorer.sites("block") if site.path.startswith("vision")][-1]
    recorder = Recorder()
    recorder.values([last], "features")
    with Patch(scorer) as patch, recorder.during(len(images), patches(scorer)):
        recorder.attach(patch)
        scorer.encode(pixels_of(images, scorer))
    return recorder.taken("features", last)[0][:, 1:].float().to(scorer.device)
