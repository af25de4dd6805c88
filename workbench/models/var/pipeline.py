"""VAR as a diffusers pipeline: saved and loaded by `from_pretrained`, called with classes or text embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from torch import Tensor

from workbench.blocks import scales
from workbench.core.bundle import Condition, TextStates
from workbench.core.errors import AskError
from workbench.core.tape import Tap, ignore
from workbench.models.var.bundle import check_pair, from_parts
from workbench.models.var.scheduler import VARScheduler
from workbench.models.var.transformer import VARTransformer
from workbench.models.var.vq import MultiScaleVQ


class VARPipeline(DiffusionPipeline):
    """A VQ, a transformer, maybe a refiner that takes over at late scales, and how to draw."""

    _optional_components = ("refiner",)
    model_cpu_offload_seq = "transformer->refiner->vq"

    def __init__(
        self,
        vq: MultiScaleVQ,
        transformer: VARTransformer,
        scheduler: VARScheduler,
        refiner: VARTransformer | None = None,
    ) -> None:
        super().__init__()
        for net in (transformer, *([refiner] if refiner is not None else [])):
            check_pair(vq, net, type(self).__name__)
        self.register_modules(vq=vq, transformer=transformer, scheduler=scheduler, refiner=refiner)

    @torch.no_grad()
    def __call__(
        self,
        class_labels: Sequence[int] | Tensor | None = None,
        *,
        prompt_embeds: Tensor | None = None,
        guidance_scale: float | Sequence[float] | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        more_smooth: bool | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        split: int | None = None,
        output_type: str = "pil",
        callback: Tap = ignore,
    ) -> ImagePipelineOutput:
        """Pictures of classes [B] or of text embeddings [B, E].

        `guidance_scale` is one number or one an image. One `generator` is consumed as the original code consumes its
        own, over all images together; a list has one an image, and then no image depends on the others. `split` lets
        the refiner do the scales from there on. `output_type` is pil, np or pt, or latent for the last state.
        """
        net: VARTransformer = self.transformer
        bundle = from_parts(self.vq, net, refiner=self.refiner, name=type(self).__name__)
        rows = self._conditions(net, class_labels, prompt_embeds)
        choice = self.scheduler.choice(top_k=top_k, top_p=top_p, smooth=more_smooth)
        guidance = self.scheduler.scales(guidance_scale, len(rows), rows)
        memory = scales.Memory(net.grids, 2 * len(rows))
        turns = [scales.Turn(0, self._told(net, rows, memory))]
        if split is not None:
            turns.append(self._second(split, class_labels, prompt_embeds, memory, bundle))
        draws = [generator] if isinstance(generator, torch.Generator) else list(generator or [_fresh(self.device)])
        if len(draws) not in (1, len(rows)):
            raise AskError(f"{len(draws)} generators were given for {len(rows)} images. Give one, or one an image.")
        run = scales.Descent(bundle, tuple(turns), guidance, choice, tuple(draws), callback)
        x = scales.descend(run, scales.blank(bundle, len(rows), net.grids[-1]))
        if output_type == "latent":
            return ImagePipelineOutput(images=x)  # type: ignore[arg-type]
        pixels = bundle.decode(x).float().add(1).div(2)
        if output_type == "pt":
            return ImagePipelineOutput(images=pixels)  # type: ignore[arg-type]
        arrays = pixels.permute(0, 2, 3, 1).cpu().numpy()
        return ImagePipelineOutput(images=self.numpy_to_pil(arrays) if output_type == "pil" else arrays)

    def _second(self, split: int, labels: Any, embeds: Any, memory: scales.Memory, bundle: Any) -> scales.Turn:
        """The refiner's turn."""
        last = len(memory.grids) - 1
        if self.refiner is None or not 1 <= split <= last:
            raise AskError(f"split is {split}; it has to be 1 to {last}, in a pipeline that has a refiner.")
        later = memory.handed(bundle.open("refiner").predict, memory.count)
        return scales.Turn(split, self._told(self.refiner, self._conditions(self.refiner, labels, embeds), later))

    def _conditions(self, net: VARTransformer, labels: Any, embeds: Tensor | None) -> Tensor:
        """Condition vectors [B, C] of classes or of text embeddings. Raises `AskError` when it is neither."""
        if (labels is None) == (embeds is None):
            raise AskError("Give class_labels or prompt_embeds, one of the two.")
        if embeds is not None:
            return net.embed(embeds.to(net.device, net.dtype))
        ids = torch.as_tensor(labels, device=net.device).long().reshape(-1)
        most = net.config["num_classes"]
        if len(ids) == 0 or not 0 <= int(ids.min()) <= int(ids.max()) <= most:
            raise AskError(f"class_labels is {ids.tolist()}; the classes are 0 to {most - 1}, and {most} is none.")
        return net.embed(ids)

    def _told(self, net: VARTransformer, rows: Tensor, memory: scales.Memory) -> Condition:
        """The condition of guided rows: those of nothing first."""
        count = len(rows)
        states = torch.cat([net.null().expand(count, -1), rows])[:, None]
        return Condition(
            TextStates(states), tuple(range(count)) * 2, ("uncond",) * count + ("cond",) * count, memory=memory
        )


def _fresh(device: torch.device) -> torch.Generator:
    """A generator nobody knows the seed of."""
    generator = torch.Generator(device)
    generator.seed()
    return generator
