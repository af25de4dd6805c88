"""Prompt match: how well pictures fit their prompts, in the eyes of a scorer.

Paper: Hessel et al. 2021, "CLIPScore: A Reference-free Evaluation Metric for Image Captioning", arXiv 2104.08718, with
a scorer of the CLIP kind (Radford et al. 2021, arXiv 2103.00020).

Equation: value = mean_i cos(E_image(x_i), E_text(c_i)); interval by percentile bootstrap over the pictures.

Differs: the plain cosine, without CLIPScore's factor 2.5 and its cut at 0 and without the words "A photo depicts",
so the number is that of the scorer's own training; the in-house scorer reads captions as they are.

Official numbers do not compare: they depend on the scorer. Licence of the reference: jmhessel/clipscore, MIT (read,
not copied), function `get_clip_score`.
"""

from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field

from workbench.core.ask import Ask
from workbench.core.bundle import Bundle, Images
from workbench.core.errors import MissingPart
from workbench.core.fields import Role
from workbench.core.method import Card, Metric
from workbench.core.report import Report, Table
from workbench.ops.stats import bootstrap


class PromptMatch(Metric):
    """Mean cosine between each picture and its prompt."""

    card: ClassVar[Card] = Card("prompt-match", "Prompt match", "arXiv 2104.08718", ("any",), "seconds")
    unit: ClassVar[str] = "cosine"
    better: ClassVar[Literal["higher", "lower"]] = "higher"

    scorer: Annotated[str, Role("model")] = Field("emoji-scorer", description="The model that compares.")

    @torch.no_grad()
    def score(self, images: Images, ask: Ask, bundle: Bundle) -> Report:
        """The mean cosine with its interval, and a line a picture."""
        scorer = bundle.open(self.scorer)
        pixels = images.to(scorer.device).to(scorer.dtype) / 127.5 - 1
        seen = torch.cat([scorer.encode(row) for row in pixels.split(1)])
        read = scorer.read(list(ask.prompts)).pooled
        if read is None:
            raise MissingPart(f"{self.scorer} gives no text embedding, so it cannot compare. Try emoji-scorer.")
        cosines = F.cosine_similarity(seen.float(), read.float(), dim=-1).cpu()
        low, high = bootstrap(cosines)
        rows = tuple((prompt, round(value, 4)) for prompt, value in zip(ask.prompts, cosines.tolist(), strict=True))
        table = Table(("prompt", "cosine"), rows, "Prompt match by picture")
        return Report((table,), {"value": cosines.double().mean().item(), "low": low, "high": high, "count": len(rows)})
