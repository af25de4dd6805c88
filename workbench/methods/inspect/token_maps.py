"""Token maps: which part of the picture each word of the prompt went to.

Paper: Tang, Liu, Pandey, Jiang, Yang, Kumar, Stenetorp, Lin and Ture 2022, "What the DAAM: Interpreting Stable
Diffusion Using Cross Attention", arXiv 2210.04885 (ACL 2023).

Equations: W = softmax(q k^T / sqrt(d)) [A, N, L] of a cross-attention l at step t;
    D_k = mean over l of max(0, bicubic(mean over heads and t of W_l[:, :, k]))    on the latent grid
    D_word = mean of D_k over the word's tokens, and over its occurrences
Cross-attentions of the down and up path whose grid is at most four times coarser than the latent (factor 8 and the
middle are left out, as in the official code).

Differs: means over steps instead of sums (the scale only); heads are averaged before resizing, so the cut at 0 acts
on their mean; grids of any shape; the conditional rows by their role, where the official code drops half of the
heads when guidance is off; any number of text tokens. Maps stay unmerged under a token merger.

Official numbers: mean IoU at threshold 0.4 of SD 2 on generated COCO captions 64.8 (80 classes) and 60.7 (open
vocabulary), table 1; quoted from memory, check before comparing. Licence of the reference: castorini/daam, MIT (read,
not copied), function `DiffusionHeatMapHooker.compute_global_heat_map`.
"""

from typing import Annotated, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from workbench.blocks.denoise import picture_size
from workbench.blocks.recorder import Recorder, Sums, token_maps
from workbench.blocks.spans import content_words, find, spans, tokens
from workbench.core.bundle import Bundle, Site
from workbench.core.errors import AskError
from workbench.core.fields import Role
from workbench.core.method import Card, Lens
from workbench.core.report import Film, Report, Table
from workbench.core.scene import Scene
from workbench.core.tape import Step
from workbench.ops.attention import evenness, mean_tokens, resize, to_grid

COARSEST = 2  # halvings of the latent grid


class TokenMaps(Lens):
    """Cross-attention of each word, over layers, heads and steps."""

    card: ClassVar[Card] = Card("token-maps", "Token maps (DAAM)", "arXiv 2210.04885", ("unet",), "seconds")

    words: Annotated[tuple[str, ...], Role("word")] = Field(
        (), description="Words or phrases of the prompt to follow; none follows every word that names something."
    )
    first: float = Field(0.0, ge=0, le=1, description="Share of the run from which steps count.")
    last: float = Field(1.0, ge=0, le=1, description="Share of the run up to which steps count.")
    relative: bool = Field(False, description="Divide by the sum over all words of the prompt at each place.")

    def look(self, scene: Scene) -> Report:
        """A film of word maps over each picture, and how the words share it."""
        sites = cross_sites(scene.bundle)
        found = [self._where(scene.bundle, prompt) for prompt in scene.ask.prompts]
        recorder = Recorder(steps=self._within, tape=Sums(ceiling=256 << 20))
        recorder.attention(sites, "maps", token_maps)
        images = scene.run(record=recorder.attach)
        maps = self._gather(scene, recorder, sites)
        films: list[Film] = []
        rows: list[tuple[str, str, float, float]] = []
        for prompt, where, image, place in zip(scene.ask.prompts, found, images, maps, strict=True):
            if self.relative:
                place = place / place[..., 1 : self._end(scene, prompt)].sum(-1, keepdim=True).clamp_min(1e-12)
            heats = {word: word_map(place, at) for word, at in where.items()}
            frames = np.stack([heat.numpy() for heat in heats.values()])
            under = np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy())
            films.append(Film(frames, tuple(heats), prompt, over=under))
            rows += [(prompt, word, *spread_of(heat)) for word, heat in heats.items()]
        table = Table(("prompt", "word", "evenness", "peak over mean"), tuple(rows), "How far each word is spread")
        numbers = {"evenness": float(np.mean([row[2] for row in rows])), "overlap": overlap(films)}
        return Report((*films, table), numbers)

    def _where(self, bundle: Bundle, prompt: str) -> dict[str, list[list[int]]]:
        """The token positions of the words to follow in a prompt; words beyond the model's reach are left out."""
        if self.words:
            return {word: spans(bundle, prompt, word) for word in self.words}
        found = {word: find(bundle, prompt, word) for word in content_words(prompt)}
        if not any(found.values()):
            raise AskError(f"The prompt {prompt[:80]!r} has no words to follow. Ask for something, or name words.")
        return {word: at for word, at in found.items() if at}

    def _gather(self, scene: Scene, recorder: Recorder, sites: tuple[Site, ...]) -> Tensor:
        if not recorder.times:
            raise AskError(f"token-maps counts no step between {self.first} and {self.last} of the run. Widen it.")
        width, height = picture_size(scene.bundle, scene.ask)
        factor = scene.bundle.shapes.multiple
        sums = [recorder.tape[f"maps/{site.name}"][0] / len(recorder.times) for site in sites]
        return gather(sums, (height // factor, width // factor))

    def _end(self, scene: Scene, prompt: str) -> int:
        return 1 + len(tokens(scene.bundle, prompt))

    def _within(self, step: Step) -> bool:
        return self.first <= step.index / max(step.total - 1, 1) <= self.last


def cross_sites(bundle: Bundle) -> tuple[Site, ...]:
    """The cross-attentions that count. Raises `AskError` where there are none."""
    sites = tuple(s for s in bundle.sites("cross-attention") if s.side != "mid" and s.level <= COARSEST)
    if not sites:
        raise AskError(f"{bundle.name} has no cross-attention fine enough for maps of words.")
    return sites


def gather(maps: list[Tensor], size: tuple[int, int]) -> Tensor:
    """Mean of head-mean maps [B, N, L] of several sites on the latent grid `size`: [B, h, w, L]."""
    whole = [resize(to_grid(m.transpose(1, 2), size), size, "bicubic").clamp_min(0) for m in maps]
    return torch.stack(whole).mean(0).permute(0, 2, 3, 1)


def word_map(maps: Tensor, at: list[list[int]]) -> Tensor:
    """Map [h, w] of a word from token maps [h, w, L] and the positions of its occurrences."""
    flat = maps.flatten(0, 1)
    return torch.stack([mean_tokens(flat, torch.tensor(span)) for span in at]).mean(0).unflatten(0, maps.shape[:2])


def spread_of(heat: Tensor) -> tuple[float, float]:
    """Evenness of a map over the picture, 0..1, and its peak over its mean."""
    mass = heat.flatten() / heat.sum().clamp_min(1e-12)
    return round(evenness(mass[None])[0].item(), 4), round((mass.max() * mass.numel()).item(), 4)


def overlap(films: list[Film]) -> float:
    """Mean cosine between the maps of different words of a prompt; 1 where every prompt has a single word."""
    cosines: list[float] = []
    for film in films:
        flat = F.normalize(torch.from_numpy(film.frames).flatten(1).double(), dim=1)
        pairs = torch.triu_indices(len(flat), len(flat), offset=1)
        cosines += (flat @ flat.T)[pairs[0], pairs[1]].tolist()
    return float(np.mean(cosines)) if cosines else 1.0
