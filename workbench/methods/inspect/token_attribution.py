"""Token attribution: which word of the prompt moved which region, by leaving it out, held against its attention.

Papers: leaving one out is Li, Monroe and Jurafsky 2016, "Understanding Neural Networks through Representation
Erasure", arXiv 1612.08220; attention maps are token-maps' (DAAM, arXiv 2210.04885); that attention need not say what
mattered is Jain and Wallace 2019, "Attention is not Explanation", arXiv 1902.10186.

Equations, at chosen steps of the run on the very same x_t:
    effect_w(p) = mean over steps of |e(x_t, c) - e(x_t, c without w)|_2 over channels at place p
    agreement_w = Spearman correlation over places of effect_w and the word's attention map
where e is the network's conditional prediction and "without w" is the prompt read anew with the word left out. The
picture itself is drawn with the whole prompt; these calls are beside it.

Differs: regions are latent places; articles left alone by the word stay. There are no official numbers and there is
no reference code.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from workbench.blocks.denoise import picture_size
from workbench.blocks.recorder import Recorder, Sums, evenly
from workbench.blocks.wordmaps import averaging, cross_sites, follow, gather, word_maps
from workbench.core.bundle import Condition, TextStates
from workbench.core.fields import Role
from workbench.core.method import Card, Lens
from workbench.core.patch import Patch
from workbench.core.report import Film, Report, Table
from workbench.core.scene import Scene
from workbench.ops.truth import correlation


class TokenAttribution(Lens):
    """Leave each word out, see which places change, and whether attention said so."""

    card: ClassVar[Card] = Card("token-attribution", "Token attribution", "arXiv 1612.08220", ("unet",), "minutes")
    quick: ClassVar[Mapping[str, Any]] = {"steps": 1}

    words: Annotated[tuple[str, ...], Role("word")] = Field(
        (), description="Words or phrases of the prompt to leave out; none takes every word that names something."
    )
    steps: int = Field(4, ge=1, le=100, description="At how many steps of the run to ask, evenly spread.")

    def look(self, scene: Scene) -> Report:
        """A film of effects and one of attention over each picture, and how well they agree word by word."""
        bundle, prompts = scene.bundle, scene.ask.prompts
        sites = cross_sites(bundle)
        found = [follow(bundle, prompt, self.words) for prompt in prompts]
        recorder = Recorder(tape=Sums(256 << 20))
        recorder.attention(sites, "maps", word_maps(averaging(bundle, prompts, found)))
        effects: list[dict[str, Tensor]] = [{} for _ in prompts]

        def attach(patch: Patch) -> None:
            raw = bundle.seams.predict  # the recorder must not take the calls without a word for the picture's
            less = [{word: bundle.read([left_out(prompt, word)]) for word in words}
                    for prompt, words in zip(prompts, found, strict=True)]  # fmt: skip
            recorder.attach(patch)
            patch.wrap("predict", lambda inner: self._asking(inner, raw, less, effects))

        images = scene.run(record=attach)
        width, height = picture_size(bundle, scene.ask)
        size = (height // bundle.shapes.factor, width // bundle.shapes.factor)
        maps = gather([recorder.taken("maps", site) for site in sites], size)
        panels: list[Film] = []
        rows: list[tuple[str, str, float, float]] = []
        for prompt, words, effect, image, place in zip(prompts, found, effects, images, maps, strict=True):
            under = np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy())
            looked = dict(zip(words, place.unbind(-1), strict=False))
            for title, heats in ((f"What each word moved: {prompt}", effect), (f"Attention: {prompt}", looked)):
                panels.append(Film(np.stack([heats[w].numpy() for w in words]), tuple(words), title, over=under))
            for word in words:
                agree = correlation(effect[word].flatten(), looked[word].flatten())
                rows.append((prompt, word, round(float(effect[word].mean()), 6), round(agree, 4)))
        table = Table(("prompt", "word", "mean effect", "agreement with attention"), tuple(rows), "Word by word")
        return Report((*panels, table), {"agreement": float(np.mean([row[3] for row in rows]))})

    def _asking(
        self, inner: Callable[..., Tensor], raw: Callable[..., Tensor], less: Sequence[Mapping[str, TextStates]],
        effects: list[dict[str, Tensor]],
    ) -> Callable[..., Tensor]:  # fmt: skip
        """`predict` as it is, with calls of `raw` beside it at the chosen steps, whole and with each word left out.

        Those are outside the run (their step is None), so that edits which remember earlier steps do not mind them.
        """

        def predict(x: Tensor, t: Tensor, cond: Condition) -> Tensor:
            step = cond.step
            if step is not None and step.index in (chosen := evenly(step.total, self.steps)):
                for image, at in enumerate(cond.where("cond")):
                    one, rows = replace(cond.rows([at]), step=None), slice(at, at + 1)
                    whole = raw(x[rows], t[rows], one)
                    for word, text in less[image].items():
                        moved = raw(x[rows], t[rows], replace(one, text=_told(one.text, text))) - whole
                        share = moved.float().norm(dim=1)[0].cpu() / len(chosen)
                        effects[image][word] = effects[image].get(word, torch.zeros_like(share)) + share
            return inner(x, t, cond)

        return predict


def _told(text: TextStates, other: TextStates) -> TextStates:
    """Another text in place of a row's, what only the row has kept."""
    return TextStates(other.states, other.pooled if text.pooled is not None else None,
                      other.mask if text.mask is not None else None, other.ids)  # fmt: skip


def left_out(prompt: str, word: str) -> str:
    """The prompt without any occurrence of a word or phrase.

    >>> left_out("a red cat and a cat", "cat")
    'a red and a'
    """
    bare = re.sub(rf"(?<!\w){re.escape(word)}(?!\w)", " ", prompt, flags=re.IGNORECASE)
    return " ".join(bare.split())
