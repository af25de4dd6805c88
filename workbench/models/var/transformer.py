"""The next-scale transformer of VAR: class or text in, a grid of token logits a scale out.

Paper: Tian, Jiang, Yuan, Peng and Wang 2024, "Visual Autoregressive Modeling", arXiv 2404.02905, section 3.

Equations, for tokens x of scale k and a condition c (one vector an image, the same at every scale):
    (g1, g2, s1, s2, b1, b2) = W silu(c)
    x <- x + g1 attn(LN(x) (1 + s1) + b1),   x <- x + g2 mlp(LN(x) (1 + s2) + b2)
    attn: q, k of unit length, q times exp(min(m, ln 100)) for each head; or plain with scale 1 / (4 sqrt(d))
    logits = W_h (LN(x) (1 + s) + b)
A token sees its own scale and all coarser ones. Tokens start as W_e (area mean of the latent so far) plus a vector for
the scale and one for the place; the first scale starts as c. With one AdaLN for all blocks, each adds a table of its
own to the six. In ground-truth mode (FlexVAR, arXiv 2502.20313) the input is the coarser scale's codes, enlarged.

Parameter names are those of the original checkpoints, so their state dicts load strictly; the buffers among them
(masks, levels, a bias of zeros) are worked out here and skipped. Licence of the reference: FoundationVision/VAR, MIT
(read, not copied), class `VAR`. Differs: labels are dropped where the caller says so, never inside `forward`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from workbench.core.errors import AskError
from workbench.models.var.packed import Linear, linear

Grid = tuple[int, int]

#: What original checkpoints hold besides weights.
BUFFERS = ("lvl_1L", "attn_bias_for_masking", "zero_k_bias")
#: Side of the table of places that is resized to each scale.
AREA = 32


@functools.lru_cache(maxsize=32)
def block_causal(grids: tuple[Grid, ...], device: torch.device) -> Tensor:
    """Which tokens may see which, bool [L, L]: those of their own scale and of all before it."""
    level = torch.tensor([k for k, (h, w) in enumerate(grids) for _ in range(h * w)], device=device)
    return level[:, None] >= level[None, :]


class Attention(nn.Module):
    """Self-attention with a fused projection; `store` keeps keys and values of the scales before."""

    def __init__(self, width: int, heads: int, l2_norm: bool) -> None:
        super().__init__()
        self.heads, self.l2_norm = heads, l2_norm
        self.mat_qkv = Linear(width, 3 * width, bias=False)
        self.q_bias, self.v_bias = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(width))
        self.proj = Linear(width, width)
        if l2_norm:
            self.scale_mul_1H11 = nn.Parameter(torch.full((1, heads, 1, 1), math.log(4.0)))

    def forward(self, x: Tensor, store: Any = None, mask: Tensor | None = None) -> Tensor:
        """Map tokens [R, N, C] to [R, N, C]; `store(key, value)` gives back all keys and values to look at."""
        R, N, C = x.shape
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        qkv = linear(x, self.mat_qkv.weight, bias).view(R, N, 3, self.heads, C // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # [R, A, N, d]
        scale = 0.25 / math.sqrt(C // self.heads)
        if self.l2_norm:
            much = self.scale_mul_1H11.float().clamp_max(math.log(100)).exp()
            query = (F.normalize(query.float(), dim=-1) * much).to(value.dtype)
            key = F.normalize(key.float(), dim=-1).to(value.dtype)
            scale = 1.0
        if store is not None:
            key, value = store(key, value)
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
        return self.proj(seen.transpose(1, 2).reshape(R, N, C))


class Feed(nn.Module):
    """Two layers with a GELU between."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = Linear(width, inner), Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens [R, N, C] to [R, N, C]."""
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class Block(nn.Module):
    """Attention and mlp, each normalised, modulated and gated by the condition."""

    def __init__(self, width: int, heads: int, inner: int, l2_norm: bool, shared: bool, eps: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=eps, elementwise_affine=False)
        self.attn = Attention(width, heads, l2_norm)
        self.ffn = Feed(width, inner)
        if shared:
            self.ada_gss = nn.Parameter(torch.randn(1, 1, 6, width) / width**0.5)
        else:
            self.ada_lin = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def modulation(self, cond: Tensor, shared: Tensor | None) -> Tensor:
        """The six vectors of a condition [R, C], [R, 1, 6, C]; `shared` is what all blocks have in common."""
        if shared is not None:
            return self.ada_gss + shared
        return self.ada_lin(cond).view(len(cond), 1, 6, -1)

    def forward(
        self, x: Tensor, six: Tensor, store: Any = None, mask: Tensor | None = None, drop: float = 0.0
    ) -> Tensor:
        """Map tokens [R, N, C] to [R, N, C] under modulation `six` [R, 1, 6, C]; in training `drop` skips rows."""
        gamma1, gamma2, scale1, scale2, shift1, shift2 = six.unbind(2)
        found = self.attn(torch.addcmul(shift1, self.norm(x), scale1 + 1), store=store, mask=mask)
        x = torch.addcmul(x, _thinned(found, drop), gamma1)
        return torch.addcmul(x, _thinned(self.ffn(torch.addcmul(shift2, self.norm(x), scale2 + 1)), drop), gamma2)


class Finish(nn.Module):
    """The modulated norm before the head."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=eps, elementwise_affine=False)
        self.ada_lin = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def modulation(self, cond: Tensor) -> Tensor:
        """Scale and shift of a condition [R, C]: [R, 1, 2, C]."""
        return self.ada_lin(cond).view(len(cond), 1, 2, -1)

    def forward(self, x: Tensor, two: Tensor) -> Tensor:
        """Map tokens [R, N, C] to [R, N, C]."""
        scale, shift = two.unbind(2)
        return torch.addcmul(shift, self.norm(x), scale + 1)


class VARTransformer(ModelMixin, ConfigMixin):
    """Next-scale prediction over grids of `patch_nums` sides; width 64 a head and as many heads as blocks by default.

    `num_classes` makes a table of classes with one row more for none; `pooled_dim` takes a text embedding of that
    width instead or as well; `text_model` names the model whose embedding it is. `position` is one vector a place of
    the model's own schedule (`absolute`) or a 32x32 table resized to any grid (`area`).
    """

    config_name = "config.json"
    _no_split_modules = ("Block",)

    @register_to_config
    def __init__(
        self,
        *,
        depth: int = 16,
        width: int | None = None,
        heads: int | None = None,
        mlp_ratio: float = 4.0,
        patch_nums: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16),
        vocab_size: int = 4096,
        latent_channels: int = 32,
        num_classes: int = 1000,
        pooled_dim: int = 0,
        text_model: str = "",
        prediction: Literal["residual", "direct"] = "residual",
        position: Literal["absolute", "area"] = "absolute",
        shared_aln: bool = False,
        attn_l2_norm: bool = True,
        norm_eps: float = 1e-6,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if not num_classes and not pooled_dim:
            raise AskError("num_classes and pooled_dim are both 0; a VAR needs classes, text, or both to be told of.")
        heads = heads or depth
        width = width or 64 * heads
        if width % heads:
            raise AskError(f"width is {width} and heads is {heads}; the width must be a multiple of the heads.")
        self.grids: tuple[Grid, ...] = tuple((p, p) for p in patch_nums)
        length = sum(h * w for h, w in self.grids)
        self.width, self.heads = width, heads
        if num_classes:
            self.class_emb = nn.Embedding(num_classes + 1, width)
        if pooled_dim:
            self.text_emb = nn.Linear(pooled_dim, width)
            if not num_classes:
                self.text_null = nn.Parameter(torch.zeros(width))
        self.pos_start = nn.Parameter(torch.zeros(1, 1, width))
        if position == "area":
            self.pos_1LC = nn.Parameter(torch.zeros(1, width, AREA, AREA))
        else:
            self.pos_1LC = nn.Parameter(torch.zeros(1, length, width))
            self.lvl_embed = nn.Embedding(len(patch_nums), width)
        self.word_embed = Linear(latent_channels, width)
        inner = round(width * mlp_ratio)
        if shared_aln:
            self.shared_ada_lin = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.blocks = nn.ModuleList(
            Block(width, heads, inner, attn_l2_norm, shared_aln, norm_eps) for _ in range(depth)
        )
        self.head_nm = Finish(width, norm_eps)
        self.head = Linear(width, vocab_size)
        self.register_load_state_dict_pre_hook(_skip_buffers)
        self.initialise()

    @torch.no_grad()
    def initialise(self, gamma: float = 1e-5, head: float = 0.02, ada: float = 0.5) -> None:
        """First weights as the paper's code makes them: small gates, a small head, and outputs scaled by depth."""
        std = math.sqrt(1 / (3 * self.width))
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.trunc_normal_(module.weight, std=std)
            if isinstance(module, nn.Linear) and module.bias is not None:
                module.bias.zero_()
        for name, value in self.named_parameters():
            if name in ("pos_start", "pos_1LC", "text_null"):
                nn.init.trunc_normal_(value, std=std)
        self.head.weight.mul_(head)
        self.head_nm.ada_lin[1].weight.mul_(ada)  # type: ignore[operator]
        for block in self.blocks:
            block.attn.proj.weight.div_(math.sqrt(2 * len(self.blocks)))  # type: ignore[union-attr, operator]
            block.ffn.fc2.weight.div_(math.sqrt(2 * len(self.blocks)))  # type: ignore[union-attr, operator]
            if self.config["shared_aln"]:
                block.ada_gss[:, :, 2:].mul_(ada)  # type: ignore[index]
                block.ada_gss[:, :, :2].mul_(gamma)  # type: ignore[index]
            else:
                rows = block.ada_lin[1].weight  # type: ignore[index, union-attr]
                rows[2 * self.width :].mul_(ada)
                rows[: 2 * self.width].mul_(gamma)

    def null(self) -> Tensor:
        """The condition of nothing, [C]: the last class, or the text model's own vector."""
        return self.class_emb.weight[-1] if self.config["num_classes"] else self.text_null

    def embed(self, condition: Tensor, dropped: Tensor | None = None) -> Tensor:
        """The condition [B, C] of class ids [B] or text embeddings [B, E]; rows where `dropped` [B] become null."""
        found = self.text_emb(condition) if condition.is_floating_point() else self.class_emb(condition)
        return found if dropped is None else torch.where(dropped[:, None], self.null(), found)

    def shared(self, cond: Tensor) -> Tensor | None:
        """What all blocks' modulations have in common [R, 1, 6, C], None where each has its own."""
        return self.shared_ada_lin(cond).view(len(cond), 1, 6, -1) if self.config["shared_aln"] else None

    def places(self, grids: Sequence[Grid]) -> Tensor:
        """The vectors of scale and place of a schedule's tokens, [L, C].

        Raises `AskError` for another schedule than the model's own where places are counted one by one.
        """
        if self.config["position"] == "area":
            tables = [F.interpolate(self.pos_1LC, size=grid, mode="area").flatten(2) for grid in grids]
            return torch.cat(tables, 2)[0].T
        if tuple(grids) != self.grids:
            raise AskError(
                f"The schedule is {named(grids)}; this model knows the places of {named(self.grids)} alone. "
                "Take that, or a model trained for any schedule (FlexVAR)."
            )
        counts = torch.tensor([h * w for h, w in grids], device=self.pos_1LC.device)
        return self.pos_1LC[0] + self.lvl_embed.weight.repeat_interleave(counts, 0)

    def enter(self, inputs: Tensor | None, cond: Tensor, first: int) -> Tensor:
        """Tokens [B, N, C] without their places: `first` of the condition, then those of inputs [B, N - first, Z]."""
        start = (cond[:, None] + self.pos_start).expand(-1, first, -1)
        return start if inputs is None else torch.cat([start, self.word_embed(inputs)], 1)

    def forward(
        self,
        condition: Tensor,
        inputs: Tensor,
        *,
        dropped: Tensor | None = None,
        grids: Sequence[Grid] | None = None,
    ) -> Tensor:
        """Logits [B, L, V] of all scales at once, each token seeing its own scale and coarser ones.

        `condition` is class ids [B] or text embeddings [B, E]; `inputs` [B, L - first, Z] what each scale but the
        first is given (`MultiScaleVQ.inputs`); `dropped` [B] marks rows without a condition.
        """
        grids = tuple(grids or self.grids)
        cond = self.embed(condition, dropped)
        x, places = self.enter(inputs, cond, grids[0][0] * grids[0][1]), self.places(grids)
        if x.shape[1] != len(places):
            raise AskError(f"{x.shape[1]} tokens were given for the scales {named(grids)}; they have {len(places)}.")
        x = x + places
        mask, shared = block_causal(grids, x.device), self.shared(cond)
        rates = torch.linspace(0, self.config["drop_path"] if self.training else 0.0, len(self.blocks)).tolist()
        for block, drop in zip(self.blocks, rates, strict=True):
            x = block(x, block.modulation(cond, shared), mask=mask, drop=drop)  # type: ignore[operator]
        return self.head(self.head_nm(x, self.head_nm.modulation(cond))).float()


def named(grids: Sequence[Grid]) -> str:
    """A schedule in words.

    >>> named([(1, 1), (2, 3)])
    '1, 2x3'
    """
    return ", ".join(str(h) if h == w else f"{h}x{w}" for h, w in grids)


def _thinned(x: Tensor, rate: float) -> Tensor:
    """Stochastic depth: whole rows out at a rate, the others larger by as much."""
    if not rate:
        return x
    kept = x.new_empty(len(x), 1, 1).bernoulli_(1 - rate)
    return x * kept / (1 - rate)


def _skip_buffers(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for name in [name for name in state if name.rpartition(".")[2] in BUFFERS]:
        del state[name]
