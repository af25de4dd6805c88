"""The plain loop: one scale of it against teacher forcing, its tokens from torch's own draw."""

import torch
from torch.testing import assert_close

from tests.tiny import var_parts
from workbench.models.var import plain


@torch.no_grad()
def test_its_logits_are_those_of_teacher_forcing() -> None:
    """Greedy tokens of the loop are the likeliest of one pass over all scales, given themselves."""
    vq, net = var_parts()
    cond = torch.stack([net.null(), net.embed(torch.tensor([2]))[0]])
    _, tokens = plain.decode(vq, net, cond, guidance=0.0, top_k=1, generators=[torch.Generator().manual_seed(0)])
    logits = net(torch.tensor([2]), vq.inputs(tokens))
    assert torch.equal(logits.argmax(-1), torch.cat(tokens, 1))


@torch.no_grad()
def test_what_it_accumulates_is_what_its_tokens_say() -> None:
    vq, net = var_parts()
    cond = torch.cat([net.null().expand(2, -1), net.embed(torch.tensor([2, 3]))])
    draw = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    f_hat, tokens = plain.decode(vq, net, cond, guidance=2.0, top_p=0.9, generators=draw)
    slow = torch.zeros_like(f_hat)
    for k, at in enumerate(tokens):
        slow, _ = vq.accumulate(k, slow, vq.embed(k, at))
    assert_close(f_hat, slow)
    assert [at.shape[1] for at in tokens] == [1, 4, 9, 16, 36, 64]
