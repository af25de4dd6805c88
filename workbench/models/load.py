"""`load`: a name, folder, file or hub id becomes a Bundle; one reader a layout."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from workbench.blocks.world import World
from workbench.core.bundle import Bundle, Shapes
from workbench.models import files, judge, kinds, placement, scorer, single, var_folder
from workbench.models.pipeline import part_errors, quiet, read_module, read_pipeline
from workbench.models.weights import digest, header, read_json

Opener = Callable[[str], Bundle]


def load(model: str = "", *, models: str | Path | None = None, device: str = "", dtype: str = "") -> Bundle:
    """A model ready to draw or to judge. "" is the shipped default.

    `model` is a diffusers folder, a single .safetensors file, a name in the folder `models` or of a shipped model, or a
    hub id. `device` is cuda, mps or cpu and `dtype` float32, float16 or bfloat16; "" chooses.
    Raises `ModelError` (missing, damaged, of another kind) or `AskError` (device, dtype) in one line.
    """
    found = locate(model, models)
    place = placement.choose(device, dtype, _parameters(found))
    mark = digest(_files(found))

    @functools.lru_cache(maxsize=4)
    def opener(name: str) -> Bundle:
        return load(name, models=models, device=device, dtype=dtype)

    return _READERS[found.layout](found, place, mark, opener)


def locate(model: str = "", models: str | Path | None = None) -> files.Found:
    """Where a model lies and what it is, downloading a hub id if need be; loads nothing."""
    found = files.find(model, models)
    if found is None:
        from workbench.models import hub

        found = hub.fetch(model)
    return found


def pipeline(found: files.Found, place: placement.Placement) -> Any:
    """The plain diffusers pipeline of a model in its place; a VAE that overflows in half precision stays in float32."""
    pipe = read_pipeline(found, place.dtype)
    pipe.set_progress_bar_config(disable=True)
    for name, part in pipe.components.items():
        if isinstance(part, nn.Module):
            narrow = place.dtype == torch.float16 and name == "vae" and pipe.vae.config.get("force_upcast", False)
            with quiet():
                if place.dtype == torch.float16 and getattr(part, "_keep_in_fp32_modules", None):
                    part.to(place.device)  # T5 overflows in half precision and keeps what does in float32
                else:
                    place.put(part, torch.float32 if narrow else None)
    return pipe


def from_pipeline(pipe: Any, **given: Any) -> Bundle:
    """A bundle over a loaded diffusers pipeline by its architecture's reader; `given` is name, source, digest, ...

    Raises `UnsupportedFamily` for one that none reads.
    """
    kind = kinds.kind_of(type(pipe).__name__) or kinds.SD
    return kind.reader.from_pipeline(pipe, **given)


def _pipeline_bundle(found: files.Found, place: placement.Placement, mark: str, opener: Opener) -> Bundle:
    pipe = pipeline(found, place)
    world = _world(found)
    ours = {"text_encoder": "text", "text_encoder_2": "text2", "text_encoder_3": "text3"}
    parts = {str(ours.get(name, name)): part for name, part in pipe.components.items() if isinstance(part, nn.Module)}
    about = describe(found, parts, world)
    source = str(found.path)
    return from_pipeline(
        pipe, name=found.name, source=source, digest=mark, opener=opener, world=world, about=about)  # fmt: skip


def _scorer_bundle(found: files.Found, place: placement.Placement, mark: str, opener: Opener) -> Bundle:
    clip, tokenizer, look = scorer.read(found.path, place.dtype)
    place.put(clip)
    world = _world(found)
    about = describe(found, {"clip": clip}, world)
    return scorer.bundle(
        clip, tokenizer, look, name=found.name, source=str(found.path), digest=mark, opener=opener, world=world,
        about=about)  # fmt: skip


def _judge_bundle(found: files.Found, place: placement.Placement, mark: str, opener: Opener) -> Bundle:
    with part_errors(found.path):
        module = judge.Judge.load(found.path, place.dtype)
    place.put(module)
    world = _world(found)
    about = describe(found, {"judge": module}, world)
    about |= {"objects": list(module.config.objects), "styles": list(module.config.styles)}
    module.requires_grad_(False)

    def logits(pixels: Tensor, generators: Any = None) -> Tensor:
        """Objects and "none", then styles and "none", of pixels in -1..1: [B, O + 1 + S + 1]."""
        seen = module(pixels.to(place.device, place.dtype))
        return torch.cat([seen.objects, seen.styles], 1)

    shapes = Shapes((0, 0, 0), (3, 64, 64), multiple=1)
    seams = scorer.judging_seams(found.name)
    return Bundle(
        name=found.name, family="judge", digest=mark, parts={"judge": module}, shapes=shapes, seams=seams,
        encoder=logits, opener=opener, world=world, source=str(found.path), about=about)  # fmt: skip


def _var_bundle(found: files.Found, place: placement.Placement, mark: str, opener: Opener) -> Bundle:
    from workbench.models.var import MultiScaleVQ, VARTransformer
    from workbench.models.var.bundle import from_parts

    with quiet():
        parts = {
            part: read_module(MultiScaleVQ if part == "vq" else VARTransformer, found.path / part, place.dtype)
            for part in var_folder.parts(found.path)
        }
        for part in parts.values():
            place.put(part)
    world = _world(found)
    about = describe(found, parts, world)
    if (found.path / "objects.json").is_file():  # an emoji model that was shown some of the world
        about |= {key: value for key, value in read_json(found.path / "objects.json").items() if key in about}
    return from_parts(
        parts["vq"], parts["transformer"], refiner=parts.get("refiner"), name=found.name, source=str(found.path),
        digest=mark, opener=opener, world=world, about=about)  # fmt: skip


_READERS: dict[files.Layout, Callable[[files.Found, placement.Placement, str, Opener], Bundle]] = {
    "pipeline": _pipeline_bundle,
    "single": _pipeline_bundle,
    "clip": _scorer_bundle,
    "judge": _judge_bundle,
    "var": _var_bundle,
}


def describe(found: files.Found, parts: Mapping[str, nn.Module], world: World | None) -> dict[str, Any]:
    """What `workbench about` tells: class, licence, parts with their parameters; of emoji models their words."""
    facts: dict[str, Any] = {
        "class": found.cls,
        "licence": licence(found.path),
        "parts": {
            name: {"class": type(part).__name__, "parameters": sum(p.numel() for p in part.parameters())}
            for name, part in parts.items()
        },
    }
    if world is not None:
        facts |= {
            "objects": list(world.tier),
            "styles": [style for style in world.styles if style not in world.split["held_out_styles"]],
            "backgrounds": list(world.backgrounds),
            "templates": list(TEMPLATES),
        }
    return facts


#: How the captions of the emoji world read in full.
TEMPLATES = ("a {style} emoji of a {object} on a {background} background", "a {style} emoji of a {left} and a {right}")


def licence(path: Path) -> str:
    """The licence that a model's card or metadata names, or "" where none is named."""
    if path.is_file():
        return header(path)[1].get("modelspec.license", "")
    card = path / "README.md"
    if not card.is_file():
        return ""
    lines = card.read_text("utf-8", errors="replace").splitlines()[:60]
    if not lines or lines[0].strip() != "---":
        return ""
    named = (line.partition(":") for line in lines[1:])
    return next((value.strip() for key, _, value in named if key.strip() in ("license", "licence")), "")


def _world(found: files.Found) -> World | None:
    return World.load() if found.path.name.startswith("emoji-") else None


def _files(found: files.Found) -> list[tuple[str, Path]]:
    """(name within the model, file) of all that decides what it draws; of a single file also what was configured."""
    if found.layout != "single":
        return files.weight_files(found.path)
    folder = single.configuration(single.detect(found.path.name, *header(found.path)))
    configured = [(path.relative_to(folder).as_posix(), path) for path in folder.rglob("*config*.json")]
    return [("model.safetensors", found.path), *configured]


def _parameters(found: files.Found) -> int:
    """How many numbers the weight files hold, from their headers."""
    from math import prod

    weights = [path for _, path in _files(found) if path.suffix == ".safetensors"]
    return sum(prod(shape) for path in weights for shape in header(path)[0].values())
