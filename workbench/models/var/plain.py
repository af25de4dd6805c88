"""Next-scale decoding written plainly: the yardstick of the engine's speed and the twin of its tokens.

It does what the published loop does, in the same order and with nothing clever: every block works out its modulation
at every scale, keys and values are concatenated as they come, top-p sorts the whole vocabulary, and
`torch.multinomial` draws. Licence of the reference: FoundationVision/VAR, MIT (read, not copied),
`VAR.autoregressive_infer_cfg`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from workbench.models.var.transformer import VARTransformer
from workbench.models.var.vq import MultiScaleVQ


class _Growing:
    """Keys and values of one block, longer after every scale."""

    def __init__(self) -> None:
        self.key: Tensor | None = None
        self.value: Tensor | None = None

    def __call__(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        self.key = key if self.key is None else torch.cat([self.key, key], 2)
        self.value = value if self.value is None else torch.cat([self.value, value], 2)
        return self.key, self.value


@torch.no_grad()
def decode(
    vq: MultiScaleVQ,
    net: VARTransformer,
    cond: Tensor,
    *,
    guidance: float,
    top_k: int = 0,
    top_p: float = 1.0,
    generators: list[torch.Generator],
    smooth: bool = False,
) -> tuple[Tensor, list[Tensor]]:
    """The latent [B, C, h, w] and each scale's tokens for condition rows [2 B, C], those of nothing first."""
    count, total, side = len(cond) // 2, len(net.grids), vq.patch_nums[-1]
    stores: list[Any] = [_Growing() for _ in net.blocks]
    f_hat = torch.zeros(count, net.config["latent_channels"], side, side, dtype=cond.dtype, device=cond.device)
    following, begin, drawn = f_hat, 0, []
    for k, (h, w) in enumerate(net.grids):
        places = net.lvl_embed.weight[k] + net.pos_1LC[:, begin : begin + h * w]
        if k == 0:
            x = (cond[:, None] + net.pos_start).expand(-1, h * w, -1) + places
        else:
            rows = net.word_embed(following.flatten(2).transpose(1, 2)) + places
            x = rows.repeat(2, 1, 1)
        for block, store in zip(net.blocks, stores, strict=True):
            x = block(x, block.modulation(cond, net.shared(cond)), store=store)  # type: ignore[operator]
        logits = net.head(net.head_nm(x, net.head_nm.modulation(cond))).float()
        t = guidance * k / max(total - 1, 1)
        logits = (1 + t) * logits[count:] - t * logits[:count]
        tokens, logits = _draw(logits, top_k, top_p, generators)
        drawn.append(tokens)
        codes = F.embedding(tokens, vq.quantize.embedding.weight)
        if smooth:
            codes = _mix(logits, k / max(total - 1, 1), generators) @ vq.quantize.embedding.weight
        f_hat, following = vq.accumulate(k, f_hat, codes.transpose(1, 2).reshape(count, -1, h, w))
        begin += h * w
    return f_hat, drawn


def _draw(logits: Tensor, top_k: int, top_p: float, generators: list[torch.Generator]) -> tuple[Tensor, Tensor]:
    """Tokens [B, n], each image's by its own generator, and the logits they were drawn from."""
    if top_k:
        least = logits.topk(top_k, largest=True, sorted=False).values.amin(-1, keepdim=True)
        logits = logits.masked_fill(logits < least, -torch.inf)
    if top_p < 1:
        rising, order = logits.sort(dim=-1, descending=False)
        out = rising.softmax(-1).cumsum(-1) <= 1 - top_p
        out[..., -1] = False
        logits = logits.masked_fill(out.scatter(-1, order, out), -torch.inf)
    rows = [
        torch.multinomial(row.softmax(-1), 1, replacement=True, generator=generator)[:, 0]
        for row, generator in zip(logits, generators, strict=True)
    ]
    return torch.stack(rows), logits


def _mix(logits: Tensor, share: float, generators: list[torch.Generator]) -> Tensor:
    """Weights of the codes [B, n, V]: a Gumbel softmax that sharpens with the scale."""
    gumbels = [
        -torch.empty_like(row).exponential_(generator=generator).log()
        for row, generator in zip(logits, generators, strict=True)
    ]
    tau = max(0.27 * (1 - share * 0.95), 0.005)
    return ((logits * (1 + share) + torch.stack(gumbels)) / tau).softmax(-1)
