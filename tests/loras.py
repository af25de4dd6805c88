"""Adapters as other programs write them, made up for a bundle, with the change that each must mean, in float64."""

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from workbench.core.bundle import Bundle

Made = tuple[dict[str, Tensor], dict[str, Tensor]]
_OUR = {"unet": "unet", "text": "text_encoder", "text2": "text_encoder_2"}
_KOHYA = {"unet": "lora_unet", "text": "lora_te", "text2": "lora_te2"}


def modules(bundle: Bundle, kinds: tuple[type, ...] = (nn.Linear, nn.Conv2d)) -> list[tuple[str, str, Any]]:
    """Every module of the drawing part and the text encoders that an adapter may change: part, path, module."""
    parts = [name for name in bundle.parts if name in _OUR]
    return [(part, path, module) for part in parts for path, module in bundle.parts[part].named_modules()
            if isinstance(module, kinds) and path]  # fmt: skip


def kohya(bundle: Bundle, part: str, path: str) -> str:
    """A module's name in kohya's files: `lora_te1_` and `lora_te2_` where there are two text encoders."""
    head = "lora_te1" if part == "text" and "text2" in bundle.parts else _KOHYA[part]
    tower = "text_model_" if part != "unet" and not path.startswith(("text_model", "text_projection")) else ""
    return f"{head}_{tower}{path.replace('.', '_')}"


def _draw(key: str, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(map(ord, key)) % 9973)
    return torch.randn(shape, generator=generator) / 4


def _flat(weight: Tensor) -> tuple[int, int]:
    return weight.shape[0], weight[0].numel()


def _pairs(weight: Tensor, key: str, rank: int) -> tuple[Tensor, Tensor]:
    out, width = _flat(weight)
    up, down = _draw(f"{key} up", out, rank), _draw(f"{key} down", rank, width)
    if weight.ndim == 4:
        return up[:, :, None, None], down.reshape(rank, *weight.shape[1:])
    return up, down


def _lora(name: Callable[..., str], ends: Sequence[str], alpha: float | None = None) -> Callable[..., Made]:
    def make(bundle: Bundle, rank: int = 2, expect: bool = True) -> Made:
        tensors: dict[str, Tensor] = {}
        wanted: dict[str, Tensor] = {}
        for part, path, module in modules(bundle):
            key = f"{part}:{path}.weight"
            up, down = _pairs(module.weight, key, rank)
            stem = name(bundle, part, path)
            tensors |= {f"{stem}{ends[0]}": down, f"{stem}{ends[1]}": up}
            if alpha is not None:
                tensors[f"{stem}.alpha"] = torch.tensor(alpha)
            if expect:
                scale = 1.0 if alpha is None else alpha / rank
                wanted[key] = scale * up.flatten(1).double() @ down.flatten(1).double()
        return tensors, wanted

    return make


def _dotted(bundle: Bundle, part: str, path: str) -> str:
    return f"{_OUR[part]}.{path}"


peft = _lora(lambda bundle, part, path: f"base_model.model.{'' if part == 'unet' else _OUR[part] + '.'}{path}",
             (".lora_A.weight", ".lora_B.weight"))  # fmt: skip
diffusers = _lora(_dotted, (".lora_A.weight", ".lora_B.weight"))
kohya_lora = _lora(kohya, (".lora_down.weight", ".lora_up.weight"), alpha=1.0)
dotted_alpha = _lora(_dotted, (".lora.down.weight", ".lora.up.weight"), alpha=3.0)


def old_diffusers(bundle: Bundle, rank: int = 2, expect: bool = True) -> Made:
    """Attention processors' names of the first diffusers versions; of the UNet's attention alone."""
    tensors: dict[str, Tensor] = {}
    wanted: dict[str, Tensor] = {}
    for part, path, module in modules(bundle, (nn.Linear,)):
        if part != "unet" or ".attn" not in path:
            continue
        head, _, last = path.removesuffix(".0").rpartition(".")
        key = f"{part}:{path}.weight"
        up, down = _pairs(module.weight, key, rank)
        stem = f"unet.{head}.processor.{last}_lora"
        tensors |= {f"{stem}.down.weight": down, f"{stem}.up.weight": up}
        wanted[key] = up.double() @ down.double() if expect else up
    return tensors, wanted


def locon(bundle: Bundle, rank: int = 2, expect: bool = True) -> Made:
    """kohya's names with a core in the convolutions that are larger than 1x1."""
    tensors: dict[str, Tensor] = {}
    wanted: dict[str, Tensor] = {}
    for part, path, module in modules(bundle):
        key, stem, weight = f"{part}:{path}.weight", kohya(bundle, part, path), module.weight
        up, down = _pairs(weight, key, rank)
        change = up.flatten(1).double() @ down.flatten(1).double()
        if weight.ndim == 4 and weight.shape[-1] > 1:
            down = _draw(f"{key} narrow", rank, weight.shape[1], 1, 1)
            mid = _draw(f"{key} mid", rank, rank, *weight.shape[2:])
            tensors[f"{stem}.lora_mid.weight"] = mid
            args = up.flatten(1).double(), mid.double(), down.flatten(1).double()
            change = torch.einsum("om,mnkl,ni->oikl", *args).flatten(1)
        tensors |= {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up,
                    f"{stem}.alpha": torch.tensor(1.0)}  # fmt: skip
        if expect:
            wanted[key] = change / rank
    return tensors, wanted


def loha(bundle: Bundle, rank: int = 2, expect: bool = True) -> Made:
    """Products of two low-rank matrices, entry by entry."""
    tensors: dict[str, Tensor] = {}
    wanted: dict[str, Tensor] = {}
    for part, path, module in modules(bundle):
        key, stem = f"{part}:{path}.weight", kohya(bundle, part, path)
        (out, width), values = _flat(module.weight), dict[str, Tensor]()
        for name, shape in (("w1_a", (out, rank)), ("w1_b", (rank, width)), ("w2_a", (out, rank)),
                            ("w2_b", (rank, width))):  # fmt: skip
            values[name] = _draw(f"{key} {name}", *shape)
            tensors[f"{stem}.hada_{name}"] = values[name]
        tensors[f"{stem}.alpha"] = torch.tensor(1.0)
        if expect:
            a, b, c, d = (values[name].double() for name in ("w1_a", "w1_b", "w2_a", "w2_b"))
            wanted[key] = (a @ b) * (c @ d) / rank
    return tensors, wanted


def _divisor(number: int) -> int:
    return next(d for d in (4, 3, 2, 1) if number % d == 0)


def lokr(bundle: Bundle, rank: int = 1, expect: bool = True) -> Made:
    """Kronecker products, the second part a product where it has a kernel of one, else whole."""
    tensors: dict[str, Tensor] = {}
    wanted: dict[str, Tensor] = {}
    for part, path, module in modules(bundle):
        key, stem, weight = f"{part}:{path}.weight", kohya(bundle, part, path), module.weight
        a, b = _divisor(weight.shape[0]), _divisor(weight.shape[1])
        one = _draw(f"{key} one", a, b)
        tensors |= {f"{stem}.lokr_w1": one, f"{stem}.alpha": torch.tensor(2.0)}
        rows, columns = weight.shape[0] // a, weight[0].numel() // b
        left, right = _draw(f"{key} left", rows, rank), _draw(f"{key} right", rank, columns)
        tensors |= {f"{stem}.lokr_w2_a": left, f"{stem}.lokr_w2_b": right}
        if expect:
            wanted[key] = torch.kron(one.double(), left.double() @ right.double()) * 2.0 / rank
    return tensors, wanted


def dora(bundle: Bundle, rank: int = 2, expect: bool = True) -> Made:
    """diffusers' names with a magnitude beside the factors."""
    tensors, wanted = diffusers(bundle, rank, expect)
    for part, path, module in modules(bundle):
        key, weight = f"{part}:{path}.weight", module.weight
        size = 1 + _draw(f"{key} size", weight.shape[0]).abs()
        tensors[f"{_OUR[part]}.{path}.lora_magnitude_vector"] = size
        if expect:
            moved = weight.detach().double().flatten(1) + wanted[key]
            norm = torch.linalg.vector_norm(moved, dim=1, keepdim=True)
            wanted[key] = size.double()[:, None] * moved / norm - weight.detach().double().flatten(1)
    return tensors, wanted


def ia3(bundle: Bundle, rank: int = 0, expect: bool = True) -> Made:
    """One factor an output, or an input where the file says so."""
    tensors: dict[str, Tensor] = {}
    wanted: dict[str, Tensor] = {}
    for index, (part, path, module) in enumerate(modules(bundle)):
        key, stem, weight = f"{part}:{path}.weight", kohya(bundle, part, path), module.weight
        by_input = index % 2 == 1
        vector = _draw(f"{key} vector", weight.shape[1 if by_input else 0])
        tensors |= {f"{stem}.weight": vector, f"{stem}.on_input": torch.tensor(by_input)}
        if expect:
            whole = weight.detach().double()
            sized = vector.double().reshape(*((1, -1) if by_input else (-1, 1)), *[1] * (weight.ndim - 2))
            wanted[key] = (whole * sized).flatten(1)
    return tensors, wanted


def full(bundle: Bundle, rank: int = 0, expect: bool = True) -> Made:
    """Differences of weights and biases as they are."""
    tensors: dict[str, Tensor] = {}
    wanted: dict[str, Tensor] = {}
    for part, path, module in modules(bundle):
        key, stem = f"{part}:{path}.weight", kohya(bundle, part, path)
        tensors[f"{stem}.diff"] = _draw(key, *module.weight.shape)
        wanted[key] = tensors[f"{stem}.diff"].double().flatten(1)
        if module.bias is not None:
            tensors[f"{stem}.diff_b"] = _draw(f"{key} bias", len(module.bias))
            wanted[f"{part}:{path}.bias"] = tensors[f"{stem}.diff_b"].double()
    return tensors, wanted


FORMATS: dict[str, Callable[..., Made]] = {
    "peft": peft, "diffusers": diffusers, "kohya": kohya_lora, "dotted": dotted_alpha, "old": old_diffusers,
    "locon": locon, "loha": loha, "lokr": lokr, "dora": dora, "ia3": ia3, "full": full}  # fmt: skip


def saved(tensors: dict[str, Tensor], path: Path, **meta: str) -> Path:
    """A safetensors file of them."""
    save_file({name: value.contiguous() for name, value in tensors.items()}, path, metadata=meta or None)
    return path


@functools.cache
def real_size(kind: str) -> Bundle:
    """Stable Diffusion 1.x or XL of real size with shapes and no numbers."""
    from workbench.models.blank import blank

    return blank(kind, device="meta")  # type: ignore[arg-type]


def first_names(bundle: Bundle, tensors: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The same tensors of the UNet under the names of first-generation programs, as files for SDXL have them."""
    assert bundle.aliases is not None
    names = {path.partition(":")[2].replace(".", "_"): name.partition(":")[2]
             for name, path in bundle.aliases().items()}  # fmt: skip
    for name, value in tensors.items():
        stem, dot, end = name.partition(".")
        plain = stem.removeprefix("lora_unet_")
        yield (f"lora_unet_{names[plain]}{dot}{end}" if plain in names and plain != stem else name), value
