"""The one interception point of attention: `F.scaled_dot_product_attention` inside a site's forward.

A `TorchFunctionMode` catches the call; it is thread-local, so it is entered inside the module's own forward, in
whatever thread runs the model. Nothing else of the model is touched and outputs stay bit for bit what they were.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.overrides import TorchFunctionMode

from workbench.core.errors import PatchError


@dataclass(frozen=True, eq=False)
class Attention:
    """One call of attention: query [B, A, N, d], key and value [B, G, L, d] (G divides A), and its options."""

    query: Float[Tensor, "B A N d"]
    key: Float[Tensor, "B G L d"]
    value: Float[Tensor, "B G L e"]
    mask: Tensor | None = None
    causal: bool = False
    scale: float | None = None
    grouped: bool = False
    dropout: float = 0.0

    def but(self, **changes: Any) -> "Attention":
        """The call with some inputs changed."""
        return replace(self, **changes)

    def run(self) -> Float[Tensor, "B A N e"]:
        """The fused kernel's output."""
        return F.scaled_dot_product_attention(
            self.query, self.key, self.value, attn_mask=self.mask, dropout_p=self.dropout, is_causal=self.causal,
            scale=self.scale, enable_gqa=self.grouped)  # fmt: skip

    def weights(self, rows: slice | None = None) -> Float[Tensor, "B A N L"]:
        """softmax(q k^T scale + mask) in float32, for some queries or all, honouring mask, causality and grouping."""
        query, key = self.query, self.key
        if key.shape[1] != query.shape[1]:
            key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
        at = rows or slice(None)
        scale = self.scale if self.scale is not None else 1 / math.sqrt(query.shape[-1])
        logits = (query[..., at, :].float() @ key.float().transpose(-1, -2)) * scale
        if self.causal:
            seen = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
            logits = logits.masked_fill(~seen[at], -math.inf)
        if self.mask is not None:
            mask = self.mask[..., at, :] if self.mask.shape[-2] == query.shape[-2] else self.mask
            logits = logits.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else logits + mask.float()
        return logits.softmax(-1)


Attend = Callable[[Attention], Tensor]


class _Catch(TorchFunctionMode):
    def __init__(self, fn: Attend) -> None:
        self.fn = fn
        self.seen = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            self.seen += 1
            return self.fn(_read_call(*args, **(kwargs or {})))  # the mode is suspended here, so fn may call it again
        return func(*args, **(kwargs or {}))


def _read_call(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
               is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False) -> Attention:  # fmt: skip
    return Attention(query, key, value, attn_mask, is_causal, scale, enable_gqa, dropout_p)


def intercept(forward: Callable[..., Any], fn: Attend, name: str) -> Callable[..., Any]:
    """A forward in which every attention call goes through `fn(call) -> output` [B, A, N, e].

    Raises `PatchError` when the module computed its attention another way, so that nothing was seen; an outer
    interception sees nothing when an inner one answers without asking further, which is its right.
    """
    inner = getattr(forward, "intercepts", False)

    def attended(*args: Any, **kwargs: Any) -> Any:
        catch = _Catch(fn)
        with catch:
            result = forward(*args, **kwargs)
        if not catch.seen and not inner:
            raise PatchError(
                f"{name} did not call scaled_dot_product_attention, so its attention cannot be seen. Load the model "
                "with the default attention processor (no slicing, xformers or flash backends)."
            )
        return result

    attended.intercepts = True  # type: ignore[attr-defined]
    return attended
