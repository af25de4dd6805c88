"""A transformers CLIPModel folder as a bundle of family `clip`: unit embeddings of texts and pictures, and sites."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workbench.core.bundle import Bundle, Handle, Seams, Shapes, Site, TextStates
from workbench.core.errors import CheckpointMismatch, MissingPart
from workbench.models.pipeline import part_errors, quiet, read_module, read_words
from workbench.models.weights import read_json

#: What OpenAI's CLIP was trained with, for folders without a preprocessor_config.json.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Look:
    """How a picture is made ready: side in pixels, mean and deviation of the channels in 0..1, cropped or squeezed."""

    side: int
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    crop: bool = True

    def __call__(self, pixels: Tensor) -> Tensor:
        """Pixels [B, 3, H, W] in -1..1 to the model's input [B, 3, side, side]."""
        pixels = pixels.float() / 2 + 0.5
        height, width = pixels.shape[-2:]
        if (height, width) != (self.side, self.side):
            pixels = self._resize(pixels, height, width)
        shape = (1, 3, 1, 1)
        mean = torch.tensor(self.mean, device=pixels.device).view(shape)
        return (pixels.clamp(0, 1) - mean) / torch.tensor(self.std, device=pixels.device).view(shape)

    def _resize(self, pixels: Tensor, height: int, width: int) -> Tensor:
        scale = self.side / min(height, width)
        wide = (max(self.side, round(height * scale)), max(self.side, round(width * scale)))
        size = wide if self.crop else (self.side, self.side)
        pixels = F.interpolate(pixels, size=size, mode="bicubic", antialias=True, align_corners=False)
        top, left = ((now - self.side) // 2 for now in size)
        return pixels[..., top : top + self.side, left : left + self.side]


def read(folder: Path, dtype: torch.dtype = torch.float32) -> tuple[Any, Any, Look]:
    """A CLIPModel, its tokenizer and its way of looking, from a folder. Raises `CheckpointMismatch`."""
    from transformers import CLIPModel, CLIPTokenizer

    with quiet():
        clip = read_module(CLIPModel, folder, dtype)
        with part_errors(folder):
            tokenizer = read_words(CLIPTokenizer, folder)
    longest = clip.config.text_config.max_position_embeddings
    tokenizer.model_max_length = min(tokenizer.model_max_length, longest)
    if len(tokenizer) > clip.config.text_config.vocab_size:
        raise CheckpointMismatch(
            f"{folder}: the tokenizer knows {len(tokenizer):,} tokens and the model "
            f"{clip.config.text_config.vocab_size:,}. They belong to different models; take both from the same one."
        )
    return clip, tokenizer, _look(folder, clip.config.vision_config.image_size)


def bundle(
    clip: Any,
    tokenizer: Any,
    look: Look,
    *,
    name: str,
    source: str = "",
    digest: str = "",
    opener: Callable[[str], Bundle] | None = None,
    world: Any = None,
    about: Mapping[str, Any] | None = None,
) -> Bundle:
    """A bundle over a CLIPModel. `read` gives text states and, as `pooled`, unit embeddings [R, E]; `encode` takes
    pixels [B, 3, H, W] in -1..1 to unit embeddings [B, E]; it draws nothing."""
    clip.eval().requires_grad_(False)
    tokens, width = tokenizer.model_max_length, clip.config.text_config.hidden_size
    side = look.side
    seams = judging_seams(name, _reader(clip, tokenizer))
    return Bundle(
        name=name, family="clip", digest=digest, parts={"clip": clip}, shapes=Shapes((0, 0, 0), (3, side, side),
        (tokens, width), multiple=1), seams=seams, all_sites=tuple(sites(clip)), encoder=_encoder(clip, look),
        opener=opener, world=world, source=source, about=dict(about or {}))  # fmt: skip


def sites(clip: Any) -> Iterator[Site]:
    """Attention, mlp and block sites of both towers, the text tower first, in the order of their forward passes."""
    vision = clip.config.vision_config
    grid = (vision.image_size // vision.patch_size) ** 2 + 1
    towers = (
        ("text_model", clip.text_model, clip.config.text_config, clip.config.text_config.max_position_embeddings),
        ("vision_model", clip.vision_model, vision, grid),
    )
    for tower, model, config, tokens in towers:
        root = f"{tower}.{_within(model)}encoder.layers"
        for index, layer in enumerate(clip.get_submodule(root)):
            yield from _layer_sites(f"{root}.{index}", layer, config.num_attention_heads, tokens)


def _layer_sites(path: str, layer: Any, heads: int, tokens: int) -> Iterator[Site]:
    def matrices(child: str, **names: str) -> dict[str, Handle]:
        owner = layer.get_submodule(child)
        return {
            ours: Handle(f"clip:{path}.{child}.{theirs}.weight", owner.get_submodule(theirs))
            for ours, theirs in names.items()
        }

    attention = matrices("self_attn", query="q_proj", key="k_proj", value="v_proj", out="out_proj")
    yield Site("clip", path, "block", layer, tokens=tokens)
    yield Site(
        "clip", f"{path}.self_attn", "self-attention", layer.self_attn, tokens=tokens, heads=heads, handles=attention
    )
    yield Site("clip", f"{path}.mlp", "mlp", layer.mlp, tokens=tokens, handles=matrices("mlp", up="fc1", down="fc2"))


def _within(model: nn.Module) -> str:
    """Where a tower keeps its encoder: transformers wraps it once more in some versions."""
    inner = [name for name, _ in model.named_modules() if name == "encoder" or name.endswith(".encoder")]
    return inner[0].removesuffix("encoder")


def _reader(clip: Any, tokenizer: Any) -> Callable[[Sequence[str]], TextStates]:
    def read(prompts: Sequence[str]) -> TextStates:
        batch = tokenizer(
            list(prompts), padding="max_length", max_length=tokenizer.model_max_length, truncation=True,
            return_tensors="pt").to(clip.device)  # fmt: skip
        out = clip.text_model(batch.input_ids)
        pooled = F.normalize(clip.text_projection(out.pooler_output).float(), dim=-1)
        return TextStates(out.last_hidden_state, pooled=pooled, ids=batch.input_ids)

    return read


def _encoder(clip: Any, look: Look) -> Callable[[Tensor, Any], Tensor]:
    def encode(pixels: Tensor, generators: Any = None) -> Tensor:
        out = clip.vision_model(pixel_values=look(pixels.to(clip.device)).to(clip.dtype))
        return F.normalize(clip.visual_projection(out.pooler_output).float(), dim=-1)

    return encode


def judging_seams(name: str, read: Callable[[Sequence[str]], TextStates] | None = None) -> Seams:
    """The seams of a model that looks at pictures and draws none: all refuse but `read`, where there is one."""

    def refuser(what: str) -> Callable[..., Any]:
        def refuse(*_: Any, **__: Any) -> Any:
            raise MissingPart(f"{name} judges pictures and draws none: it cannot {what}. Take a model that draws.")

        return refuse

    return Seams(read or refuser("read"), refuser("predict"), refuser("guide"), refuser("advance"), refuser("decode"))


def _look(folder: Path, side: int) -> Look:
    if not (folder / "preprocessor_config.json").is_file():
        return Look(side)
    facts = read_json(folder / "preprocessor_config.json")
    mean, std = (tuple(facts.get(key) or usual) for key, usual in (("image_mean", MEAN), ("image_std", STD)))
    if len(mean) != 3 or len(std) != 3 or not all(isinstance(v, int | float) and v for v in std):
        raise CheckpointMismatch(
            f"{folder}/preprocessor_config.json: image_mean and image_std must be three numbers each."
        )
    return Look(side, mean, std, bool(facts.get("do_center_crop", True)))
