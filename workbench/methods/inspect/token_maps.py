"""Token maps: which part of the picture each word of the prompt went to.

Paper: Tang, Liu, Pandey, Jiang, Yang, Kumar, Stenetorp, Lin and Ture 2022, "What the DAAM: Interpreting Stable
Diffusion Using Cross Attention", arXiv 2210.04885 (ACL 2023).

Equations: W = softmax(q k^T / sqrt(d)) [A, N, L] of a cross-attention l at step t;
    D_word = mean over l of max(0, bicubic(mean over heads, t, the word's tokens and its occurrences of W_l[:, :, k]))
on the latent grid, over cross-attentions of the down and up path whose grid has at least 16 cells a side (8x8 layers
and the middle are left out, as in the official code at 512 px). `by` shows the terms of the mean one by one: each
step, each layer, or each head of each layer.

`relative`, on by default, shows D_word / D_all with D_all summed over the prompt's tokens: most attention rests on the
start token, and how much of it is left over differs from place to place more than words do. On made scenes of the
shipped model this is what makes the maps agree with the masks (see inspect-report).

Differs: means over steps instead of sums (the scale only); relative by default, where the official code leaves it to
the reader; heads and tokens are averaged before resizing, so the cut
at 0 acts on their mean; grids of any shape; the conditional rows by their role, where the official code drops half of
the heads when guidance is off; any number of text tokens. Maps stay unmerged under a token merger.

Official numbers: mean IoU at threshold 0.4 of SD 2 on generated COCO captions 64.8 (80 classes) and 60.7 (open
vocabulary), table 1; quoted from memory, check before comparing. Licence of the reference: castorini/daam, MIT (read,
not copied), function `DiffusionHeatMapHooker.compute_global_heat_map`.
"""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from workbench.blocks.denoise import picture_size
from workbench.blocks.recorder import Recorder, Sums
from workbench.blocks.wordmaps import Side, averaging, cross_sites, follow, gather, overlap, spread_of, word_maps
from workbench.core.bundle import Site
from workbench.core.errors import AskError
from workbench.core.fields import Role
from workbench.core.method import Card, Lens
from workbench.core.report import Film, Report, Table
from workbench.core.scene import Scene
from workbench.core.tape import Step, Tape


class TokenMaps(Lens):
    """Cross-attention of each word, over layers, heads and steps."""

    card: ClassVar[Card] = Card("token-maps", "Token maps (DAAM)", "arXiv 2210.04885", ("unet", "dit"), "seconds")

    words: Annotated[tuple[str, ...], Role("word")] = Field(
        (), description="Words or phrases of the prompt to follow; none follows every word that names something."
    )
    by: Literal["word", "step", "layer", "head"] = Field(
        "word", description="What a frame is: a word over all steps, layers and heads, or one step, layer or head."
    )
    first: float = Field(0.0, ge=0, le=1, description="Share of the run from which steps count.")
    last: float = Field(1.0, ge=0, le=1, description="Share of the run up to which steps count.")
    level: int | None = Field(None, ge=0, le=8, description="Halvings of the latent grid; none takes all fine ones.")
    side: Side = Field("all", description="Which half of the network; all is both halves without the middle.")
    relative: bool = Field(True, description="Divide by the sum over all tokens of the prompt at each place.")

    def look(self, scene: Scene) -> Report:
        """A film of word maps over each picture, and how the words share it."""
        bundle, prompts = scene.bundle, scene.ask.prompts
        sites = cross_sites(bundle, self.level, self.side)
        found = [self._follow(scene, prompt) for prompt in prompts]
        recorder = Recorder(steps=self._within, tape=Tape(256 << 20) if self.by == "step" else Sums(256 << 20))
        recorder.attention(sites, "maps", word_maps(averaging(bundle, prompts, found), heads=self.by == "head"))
        images = scene.run(record=recorder.attach)
        if not recorder.times:
            raise AskError(f"token-maps counts no step between {self.first} and {self.last} of the run. Widen it.")
        frames = [(name, self._shared(maps)) for name, maps in self._frames(scene, recorder, sites)]
        under = [np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy()) for image in images]
        films = [
            film
            for row, (prompt, words) in enumerate(zip(prompts, found, strict=True))
            for film in self._films(prompt, tuple(words), [(name, maps[row]) for name, maps in frames], under[row])
        ]
        rows = [(film.title, label, *spread_of(torch.from_numpy(frame)))
                for film in films for label, frame in zip(film.labels, film.frames, strict=True)]  # fmt: skip
        first = "prompt" if self.by == "word" else "word"
        table = Table((first, self.by, "evenness", "peak over mean"), tuple(rows), "How far each map is spread")
        numbers = {"evenness": float(np.mean([row[2] for row in rows])), "overlap": overlap(films)}
        return Report((*films, table), numbers)

    def _follow(self, scene: Scene, prompt: str) -> dict[str, list[list[int]]]:
        try:
            return dict(follow(scene.bundle, prompt, self.words))
        except AskError as error:
            if self.words:
                raise AskError(f"{error} For words that are not in the prompt there is open-word-maps.") from None
            raise

    def _frames(self, scene: Scene, recorder: Recorder, sites: tuple[Site, ...]) -> Iterator[tuple[str, Tensor]]:
        """The maps [B, h, w, W] of each frame with its name; the last column is the sum over the prompt's tokens."""
        width, height = picture_size(scene.bundle, scene.ask)
        factor = scene.bundle.shapes.factor
        size = (height // factor, width // factor)
        values = {site.name: recorder.taken("maps", site) for site in sites}
        match self.by:
            case "word":
                yield "", gather(list(values.values()), size)
            case "step":
                if {len(maps) for maps in values.values()} != {len(recorder.times)}:
                    raise AskError("An edit skips some layers at some steps, so by=step has no whole map. Try by=word.")
                for index, time in enumerate(recorder.times):
                    yield f"step {time + 1}", gather([maps[index] for maps in values.values()], size)
            case "layer":
                for name, maps in values.items():
                    yield name, gather([maps], size)
            case "head":
                for name, maps in values.items():
                    for head in range(maps.shape[1]):
                        yield f"{name} head {head + 1}", gather([maps[:, head]], size)

    def _shared(self, maps: Tensor) -> Tensor:
        """The words' columns alone, relative to the whole prompt's where that is asked."""
        words, whole = maps[..., :-1], maps[..., -1:]
        return words / whole.clamp_min(1e-12) if self.relative else words

    def _films(
        self, prompt: str, words: tuple[str, ...], frames: list[tuple[str, Tensor]], under: np.ndarray
    ) -> Iterator[Film]:
        """One film of words, or a film a word with what `by` names."""
        if self.by == "word":
            heats = [frames[0][1][..., column].numpy() for column in range(len(words))]
            yield Film(np.stack(heats), words, prompt, over=under)
            return
        for column, word in enumerate(words):
            heats = [maps[..., column].numpy() for _, maps in frames]
            yield Film(np.stack(heats), tuple(name for name, _ in frames), word, over=under)

    def _within(self, step: Step) -> bool:
        return self.first <= step.index / max(step.total - 1, 1) <= self.last
