"""Concept attention: which concept each place of a diffusion transformer's picture is nearest to.

Paper: Helbling, Meral, Hoover, Yanardag and Chau 2025, "ConceptAttention: Diffusion Transformers Learn Highly
Interpretable Features", arXiv 2502.04320 (ICML 2025).

Equations, in every joint attention of a transformer over picture x and text: concepts c are one token each, pass
through the text's own projections, modulation and mlp, and
    o_c = softmax(q_c [k_c; k_x]^T / sqrt(d)) [v_c; v_x]          concepts see each other and the picture,
while picture and text see nothing of them; with o_x the picture's own output before its projection, heads side by
side,
    map(p, c) = mean over steps and layers of softmax over c of <o_x(p), o_c>

Differs: the concepts ride along as further text tokens of a second call at the same x_t, in which their attention is
cut as above (text tokens go through a block one by one, so this is the paper's extra stream); the picture is drawn
without them, bit for bit. A concept's token is the mean of its word's tokens. Layers default to the last quarter of
the joint ones; the paper takes 15 to 18 of FLUX's 19.

Official numbers: 83.07 pixel accuracy, 71.04 mIoU and 90.45 mAP on ImageNet-Segmentation with FLUX, quoted from
memory. Licence of the reference: helblazer811/ConceptAttention names none (equations only).
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from workbench.blocks.recorder import Sums, evenly
from workbench.blocks.spans import lead, tokens
from workbench.blocks.wordmaps import spread_of
from workbench.core.attend import Attention
from workbench.core.bundle import Bundle, Condition, Site, TextStates
from workbench.core.errors import AskError, PatchError
from workbench.core.fields import Role
from workbench.core.method import Card, Lens
from workbench.core.patch import Patch
from workbench.core.report import Film, Report, Table
from workbench.core.scene import Scene
from workbench.ops.attention import to_grid


class ConceptAttention(Lens):
    """Compare each place with concepts of your choice."""

    card: ClassVar[Card] = Card("concept-attention", "Concept attention", "arXiv 2502.04320", ("mmdit",), "seconds")
    quick: ClassVar[Mapping[str, Any]] = {"steps": 1}

    words: Annotated[tuple[str, ...], Role("word")] = Field(
        ("cat", "background"), min_length=2, description="Concepts that share out each place, in the prompt or not."
    )
    steps: int = Field(4, ge=1, le=100, description="At how many steps of the run to look, evenly spread.")
    layers: tuple[int, int] | None = Field(
        None, description="First and last joint layer that counts, from 0; none is the last quarter."
    )

    def look(self, scene: Scene) -> Report:
        """A film of concept maps over each picture; at each place they sum to one."""
        sites = [site for site in scene.bundle.all_sites if site.text]
        if not sites:
            raise AskError(f"{scene.bundle.name} has no joint attention over picture and text. Try open-word-maps.")
        streams = [site for site in sites if "text_query" in site.handles] or sites  # FLUX goes on in one stream
        watch = _Stream(self._chosen(streams), len(self.words), self.steps)

        def attach(patch: Patch) -> None:
            concepts = torch.cat([concept(scene.bundle, word) for word in self.words])
            patch.wrap("predict", lambda inner: watch.follow(inner, concepts))
            for site in sites:
                patch.attend(site, watch.attending(site))

        images = scene.run(record=attach)
        films: list[Film] = []
        rows: list[tuple[str, str, float, float]] = []
        for maps, prompt, image in zip(watch.maps(), scene.ask.prompts, images, strict=True):
            under = np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy())
            films.append(Film(maps.numpy(), self.words, prompt, over=under))
            rows += [(prompt, word, *spread_of(heat)) for word, heat in zip(self.words, maps, strict=True)]
        table = Table(("prompt", "concept", "evenness", "peak over mean"), tuple(rows), "How far each is spread")
        return Report((*films, table), {"evenness": float(np.mean([row[2] for row in rows]))})

    def _chosen(self, sites: list[Site]) -> set[str]:
        first, last = self.layers or (len(sites) - max(1, len(sites) // 4), len(sites) - 1)
        if not 0 <= first <= last < len(sites):
            raise AskError(f"concept-attention: layers is ({first}, {last}); there are layers 0 to {len(sites) - 1}.")
        return {site.name for site in sites[first : last + 1]}


def concept(bundle: Bundle, word: str) -> Tensor:
    """One text state [1, 1, D] for a word or phrase: the mean of its tokens."""
    count = len(tokens(bundle, word))
    if not count:
        raise AskError(f"The concept {word!r} has no tokens. Give a word such as cat.")
    first = lead(bundle)
    return bundle.read([word]).states[:, first : first + count].mean(1, keepdim=True)


class _Stream:
    """The second call with concepts, and what its attention says of each place."""

    def __init__(self, chosen: set[str], count: int, steps: int) -> None:
        self.chosen, self.count, self.steps = chosen, count, steps
        self.tape = Sums(ceiling=256 << 20)
        self.size = (0, 0)
        self.text = 0  # tokens of the text before the concepts; 0 outside the second call

    def follow(self, inner: Callable[..., Tensor], concepts: Tensor) -> Callable[..., Tensor]:
        """`predict` as it is, with the second call after it at the chosen steps; `concepts` [K, 1, D]."""

        def predict(x: Tensor, t: Tensor, cond: Condition) -> Tensor:
            output = inner(x, t, cond)
            step = cond.step
            if step is None or step.index in evenly(step.total, self.steps):
                rows = cond.where("cond")
                told = cond.rows(rows)
                more = concepts.to(told.text.states).transpose(0, 1).expand(len(rows), -1, -1)
                text = TextStates(torch.cat([told.text.states, more], 1), told.text.pooled)
                self.text, self.size = told.text.states.shape[1], (x.shape[-2], x.shape[-1])
                try:
                    inner(x[rows], t[rows], replace(told, text=text, step=None))  # beside the run: caches pass by
                finally:
                    self.text = 0
            return output

        return predict

    def attending(self, site: Site) -> Callable[[Attention], Tensor]:
        """A site's attention: as it is, or with the concepts beside picture and text."""

        def attend(call: Attention) -> Tensor:
            if not self.text:
                return call.run()
            if call.mask is not None or call.causal:
                raise PatchError(f"{site.name} masks its attention, so concepts cannot ride along with its text.")
            whole = call.query.shape[-2]
            start = self.text if site.text == "first" else whole - self.count
            stop = start + self.count
            places = slice(stop, whole) if site.text == "first" else slice(0, whole - self.count - self.text)
            others = [*range(start), *range(stop, whole)]
            seen = [*range(start, stop), *range(places.start, places.stop)]
            output = torch.empty_like(call.query)
            for queries, keys in ((others, others), (list(range(start, stop)), seen)):
                part = call.but(query=call.query[:, :, queries], key=call.key[:, :, keys], value=call.value[:, :, keys])
                output[:, :, queries] = part.run()
            if site.name in self.chosen:
                self.tape.add("maps", nearest(output[:, :, places], output[:, :, start:stop]))
            return output

        return attend

    def maps(self) -> Tensor:
        """The mean maps [B, K, h, w]. Raises `PatchError` when nothing was seen."""
        if "maps" not in self.tape:
            raise PatchError("No joint attention was called at the chosen steps. Look without edits that skip blocks.")
        return to_grid(self.tape.mean("maps").transpose(1, 2), self.size)


def nearest(places: Tensor, concepts: Tensor) -> Tensor:
    """Softmax over K concepts of the dot products of outputs [B, A, N, d] and [B, A, K, d], heads as one: [B, N, K]."""
    return torch.einsum("band,bakd->bnk", places.float(), concepts.float()).softmax(-1)
