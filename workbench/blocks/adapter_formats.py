"""One change of one matrix, in any of the forms in which programs write it, as factors or as a dense difference.

LoRA (arXiv 2106.09685)    up, down, alpha:  (alpha / r) up down; of a convolution down is k x k and up 1 x 1
LoCon, with a core         up, mid, down:    sum_mn up[o,m] mid[m,n,k,l] down[n,i], again of rank r
LoHa (arXiv 2108.06098)    (alpha / r) (w1a w1b) * (w2a w2b): of rank r r, kept as factors where that is narrow
LoKr (arXiv 2309.14859)    (alpha / r) kron(W1, W2), each whole or a product
IA3 (arXiv 2205.05638)     W * (l - 1) along the output or the input
DoRA (arXiv 2402.09353)    m (W + dW) / |W + dW| - W, norms over each output (or, as some write it, each input)
full differences           dW and db as they are; and whole parameters W', whose difference W' - W is kept
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor

from workbench.ops.low_rank import Factors

_NAMED = r"(?:\.[A-Za-z0-9_-]+)?"  # peft may write the adapter's name in between
_SLOTS: tuple[tuple[str, str], ...] = (
    (rf"\.lora_A{_NAMED}\.weight", "down"), (rf"\.lora_B{_NAMED}\.weight", "up"),
    (rf"\.lora_B{_NAMED}\.bias", "up_b"),
    (r"\.lora_down\.weight", "down"), (r"\.lora_up\.weight", "up"), (r"\.lora_mid\.weight", "mid"),
    (r"(?:_lora|\.lora|\.lora_linear_layer)\.down\.weight", "down"),
    (r"(?:_lora|\.lora|\.lora_linear_layer)\.up\.weight", "up"),
    (r"\.alpha", "alpha"), (r"\.dora_scale", "dora"), (rf"\.lora_magnitude_vector{_NAMED}(?:\.weight)?", "magnitude"),
    *((rf"\.hada_{n}{_NAMED}", n) for n in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")),
    *((rf"\.lokr_{n}{_NAMED}", f"k{n}") for n in ("w1_a", "w1_b", "w1", "w2_a", "w2_b", "w2", "t2")),
    (rf"\.ia3_l{_NAMED}", "ia3"), (r"\.on_input", "on_input"), (r"\.diff", "diff"), (r"\.diff_b", "diff_b"),
    (r"\.weight", "weight"), (r"\.bias", "bias"),
)  # fmt: skip
_ENDS = tuple((re.compile(f"^(.*?){pattern}$"), slot) for pattern, slot in _SLOTS)
#: How old diffusers named projections inside an attention processor, and what they are called in both kinds of tower.
_PROCESSOR = re.compile(r"\.processor\.(to_(?:q|k|v|out))$")
_TEXT = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}
_OLD_TEXT = re.compile(r"(\.self_attn)\.(to_(?:q|k|v|out))$")


def learned(parts: Sequence[str], tensors: Mapping[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
    """The trigger that a file of textual inversion names, "" where it names none, and its rows [n, D] by text encoder.

    Known are a single `token -> rows` (diffusers), `emb_params` (web interfaces) and SDXL's `clip_l` and `clip_g`.
    """
    rows = {name: value.reshape(-1, value.shape[-1]) for name, value in tensors.items() if value.ndim in (1, 2)}
    if set(rows) == {"clip_l", "clip_g"} and {"text", "text2"} <= set(parts):
        return "", {"text": rows["clip_l"], "text2": rows["clip_g"]}
    if len(rows) != 1 or len(tensors) != 1 or not parts or slot(next(iter(rows))) is not None:
        return "", {}
    name, value = next(iter(rows.items()))
    return "" if name in ("emb_params", "*") else name, {parts[0]: value}


class Misfit(Exception):
    """Why tensors do not fit the matrix they are meant for."""


@dataclass(frozen=True, eq=False)
class Change:
    """A matrix's change: factors or a dense difference, that of its bias, the form it was written in, and its rank."""

    kind: str
    rank: int = 0
    pair: Factors | None = None
    dense: Tensor | None = None
    bias: Tensor | None = None


def slot(name: str) -> tuple[str, str] | None:
    """A tensor's module and what it is of it, or None for a name of no known form.

    >>> slot("lora_unet_mid_block_attentions_0_proj_in.lora_down.weight")
    ('lora_unet_mid_block_attentions_0_proj_in', 'down')
    >>> slot("unet.mid_block.attn1.processor.to_out_lora.up.weight")
    ('unet.mid_block.attn1.to_out.0', 'up')
    """
    for pattern, what in _ENDS:
        hit = pattern.match(name)
        if hit:
            stem = _PROCESSOR.sub(lambda m: f".{m[1]}.0" if m[1] == "to_out" else f".{m[1]}", hit[1])
            return _OLD_TEXT.sub(lambda m: f"{m[1]}.{_TEXT[m[2]]}", stem), what
    return None


def rank_of(group: Mapping[str, Tensor]) -> int:
    """The rank r that a form's alpha is divided by, 0 where it has none."""
    for name, axis in (("down", 0), ("w1_b", 0), ("kw2_b", 0), ("kw1_b", 0), ("kt2", 0)):
        if name in group and group[name].ndim >= 1:
            return group[name].shape[axis]
    return 0


def change(
    group: Mapping[str, Tensor], shape: tuple[int, ...], scale: float, weight: Callable[[], Tensor]
) -> Change:  # fmt: skip
    """What a group of tensors does to a weight of a shape; `weight` gives it where the form needs it.

    Raises `Misfit` when the tensors do not belong to such a weight, or parts are missing.
    """
    bias = group.get("diff_b")
    if {"up", "down"} <= set(group):
        up, down = _pair(group, shape)
        bias = bias if bias is not None or "up_b" not in group else group["up_b"] * scale
        made = Change("locon" if "mid" in group else "lora", up.shape[1], (up * scale, down))
    elif {"w1_a", "w1_b", "w2_a", "w2_b"} <= set(group):
        made = _hadamard(group, shape, scale)
    elif any(name.startswith("kw") for name in group):
        made = _kronecker(group, shape, scale)
    elif "ia3" in group or {"weight", "on_input"} <= set(group):
        made = Change("ia3", 0, dense=_ia3(group, shape, weight()))
    elif "diff" in group:
        made = Change("full", 0, dense=_fits(group["diff"], shape))
    elif "weight" in group:
        made = Change("whole", 0, dense=_fits(group["weight"], shape) - weight().float())
    elif bias is not None:
        made = Change("full")
    else:
        raise Misfit(f"only {', '.join(sorted(group))} of it is there")
    made = replace(made, bias=bias)
    if "magnitude" in group:  # peft's is of the outputs, whatever shape it is kept in
        return _dora(made, group["magnitude"].flatten(), shape, weight())
    return _dora(made, group["dora"], shape, weight()) if "dora" in group else made


def _pair(group: Mapping[str, Tensor], shape: tuple[int, ...]) -> Factors:
    up, down = group["up"], group["down"]
    if min(up.ndim, down.ndim) < 2 or prod(up.shape[2:]) != 1:
        raise Misfit(f"up is {_x(up)} and down {_x(down)}")
    if "mid" in group:
        mid = group["mid"]
        if mid.ndim != 4 or prod(down.shape[2:]) != 1 or mid.shape[1] != down.shape[0]:
            raise Misfit(f"mid is {_x(mid)} and down {_x(down)}")
        _room(down.shape[1] * prod(mid.shape[2:]), shape[1:])
        down = torch.einsum("mnkl,ni->mikl", mid, down.flatten(1))
    up, down = up.flatten(1), down.flatten(1)
    if up.shape[1] != down.shape[0] or not up.shape[1]:
        raise Misfit(f"up has rank {up.shape[1]} and down {down.shape[0]}")
    _refuse(up.shape[0], down.shape[1], shape)
    return up, down


def _hadamard(group: Mapping[str, Tensor], shape: tuple[int, ...], scale: float) -> Change:
    a, b, c, d = (group[name] for name in ("w1_a", "w1_b", "w2_a", "w2_b"))
    if any(m.ndim != 2 for m in (a, b, c, d)):
        raise Misfit(f"its factors are {', '.join(map(_x, (a, b, c, d)))}")
    if "t1" in group and "t2" in group:
        one, two = (_core(t, u, v, shape, shape) for t, u, v in ((group["t1"], a, b), (group["t2"], c, d)))
        return Change("loha", b.shape[0], dense=_fits(one * two * scale, shape))
    if a.shape[1] != b.shape[0] or c.shape[1] != d.shape[0] or (len(a), b.shape[1]) != (len(c), d.shape[1]):
        raise Misfit(f"its factors are {', '.join(map(_x, (a, b, c, d)))}")
    _refuse(len(a), b.shape[1], shape)
    if b.shape[0] * d.shape[0] > min(len(a), b.shape[1]):
        return Change("loha", b.shape[0], dense=((a @ b) * (c @ d) * scale).reshape(shape))
    up = (a[:, :, None] * c[:, None, :]).flatten(1)
    return Change("loha", b.shape[0], (up * scale, (b[:, None, :] * d[None, :, :]).flatten(0, 1)))


def _core(core: Tensor, up: Tensor, down: Tensor, shape: tuple[int, ...], whole: tuple[int, ...]) -> Tensor:
    """sum_ij core[i,j,k,l] up[i,o] down[j,c] as [o, c, k, l]."""
    if core.ndim != 4 or core.shape[:2] != (len(up), len(down)) or (up.shape[1], down.shape[1]) != shape[:2]:
        raise Misfit(f"its core is {_x(core)} between {_x(up)} and {_x(down)}")
    _room(up.shape[1] * down.shape[1] * prod(core.shape[2:]), whole)
    return torch.einsum("ijkl,io,jc->ockl", core, up, down)


def _kronecker(group: Mapping[str, Tensor], shape: tuple[int, ...], scale: float) -> Change:
    one, two = _part(group, "kw1", shape), _part(group, "kw2", shape)
    if one.ndim != 2 or two.ndim not in (2, 4):
        raise Misfit(f"its parts are {_x(one)} and {_x(two)}")
    a, b = group.get("kw2_a"), group.get("kw2_b")
    if (
        a is not None
        and b is not None
        and "kt2" not in group
        and 2 * len(one.T) * len(b) <= min(shape[0], prod(shape[1:]))
    ):
        # kron(W1, a b) = kron(W1, a) kron(1, b)
        _refuse(len(one) * len(a), one.shape[1] * b.shape[1], shape)
        eye = torch.eye(one.shape[1], dtype=one.dtype)
        return Change("lokr", rank_of(group), (torch.kron(one, a) * scale, torch.kron(eye, b.contiguous())))
    flat = two.flatten(2) if two.ndim == 4 else two[:, :, None]
    _refuse(len(one) * len(two), one.shape[1] * prod(two.shape[1:]), shape)
    dense = torch.einsum("ab,cdk->acbdk", one, flat) * scale
    return Change("lokr", rank_of(group), dense=dense.reshape(shape))


def _part(group: Mapping[str, Tensor], name: str, shape: tuple[int, ...]) -> Tensor:
    """A part of a Kronecker product for a weight of a shape: whole, a product, or a product around a core."""
    if name in group:
        return group[name]
    up, down, core = (group.get(f"{name}_{end}", group.get("kt2") if end == "t2" else None) for end in ("a", "b", "t2"))
    if up is None or down is None or up.ndim != 2 or down.ndim != 2:
        raise Misfit(f"only {', '.join(sorted(group))} of it is there")
    if name == "kw2" and core is not None:
        return _core(core, up, down, (up.shape[1], down.shape[1]), shape)
    if up.shape[1] != down.shape[0]:
        raise Misfit(f"its factors are {_x(up)} and {_x(down)}")
    _room(len(up) * down.shape[1], shape)
    return up @ down


def _ia3(group: Mapping[str, Tensor], shape: tuple[int, ...], weight: Tensor) -> Tensor:
    """W * (l - 1); files without an `ia3_l` hold l - 1 itself, and say which side it is on."""
    if "ia3" in group:
        vector = group["ia3"]
        by_input = vector.ndim > 1 and vector.shape[0] == 1 and vector.shape[1] == shape[1]
        vector = vector.flatten() - 1
    else:
        by_input, vector = bool(group["on_input"].flatten()[:1].any()), group["weight"].flatten()
    if vector.numel() != shape[1 if by_input else 0]:
        raise Misfit(f"its vector has {vector.numel()} numbers for a weight of {'x'.join(map(str, shape))}")
    sized = vector.reshape((1, -1) if by_input else (-1, 1))
    return weight.float() * sized.reshape(*sized.shape, *[1] * (len(shape) - 2))


def _dora(made: Change, magnitude: Tensor, shape: tuple[int, ...], weight: Tensor) -> Change:
    dense = made.dense if made.pair is None else made.pair[0] @ made.pair[1]
    if dense is None:
        raise Misfit("it has a magnitude and no direction")
    moved = weight + dense.reshape(shape)
    by_input = magnitude.ndim > 1 and magnitude.shape[0] == 1 and magnitude.shape[1] > 1
    if magnitude.numel() != shape[1 if by_input else 0]:
        raise Misfit(f"its magnitude has {magnitude.numel()} numbers for a weight of {'x'.join(map(str, shape))}")
    axes = [axis for axis in range(len(shape)) if axis != (1 if by_input else 0)]
    size = [1] * len(shape)
    size[1 if by_input else 0] = -1
    norm = moved.square().sum(axes, keepdim=True).sqrt()
    scaled = magnitude.reshape(size) * moved / norm.clamp_min(torch.finfo(torch.float32).tiny)
    return Change("dora", made.rank, dense=scaled - weight, bias=made.bias)


def _fits(value: Tensor, shape: tuple[int, ...]) -> Tensor:
    if value.numel() != prod(shape) or value.shape[:1] != shape[:1]:
        raise Misfit(f"it is {_x(value)} for a parameter of {'x'.join(map(str, shape))}")
    return value.reshape(shape)


def _room(count: int, shape: tuple[int, ...]) -> None:
    """Refuse a product that is larger than what it is for, before it is made: small factors can ask for any memory."""
    if count > prod(shape):
        raise Misfit(f"its parts make {count:,} numbers where {'x'.join(map(str, shape))} have room")


def _refuse(out: int, width: int, shape: tuple[int, ...]) -> None:
    if len(shape) < 2 or (out, width) != (shape[0], prod(shape[1:])):
        raise Misfit(f"it changes {out}x{width}, and the weight is {'x'.join(map(str, shape))}")


def _x(value: Tensor) -> str:
    return "x".join(map(str, value.shape)) or "a number"
