"""The ledger of operations: each kind by hand, the fused core included."""

import torch
import torch.nn.functional as F

from workbench.blocks.ledger import Ledger, attention


@torch.no_grad()
def test_every_kind_is_counted_as_on_paper() -> None:
    q, k, v = torch.zeros(2, 3, 10, 4), torch.zeros(2, 3, 7, 4), torch.zeros(2, 3, 7, 4)
    with Ledger() as ledger:
        F.linear(torch.zeros(5, 6), torch.zeros(8, 6), torch.zeros(8))
        F.conv2d(torch.zeros(2, 3, 8, 8), torch.zeros(4, 3, 3, 3), padding=1)
        F.scaled_dot_product_attention(q, k, v)
    assert ledger.parts["matrices"] == 2 * 5 * 6 * 8
    assert ledger.parts["convolutions"] == 2 * 2 * 4 * 8 * 8 * 3 * 9
    assert ledger.parts["attention"] == attention(q, k, v) == 2 * 2 * 3 * 10 * 7 * (4 + 4)
    assert ledger.total == sum(ledger.parts.values())


@torch.no_grad()
def test_attention_with_a_mask_is_counted_once() -> None:
    q, mask = torch.zeros(1, 2, 6, 4), torch.zeros(1, 1, 6, 6)
    with Ledger() as ledger:
        F.scaled_dot_product_attention(q, q, q, attn_mask=mask)
    assert ledger.total == attention(q, q, q)


def test_nothing_is_counted_outside_and_results_are_the_same() -> None:
    x = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    with Ledger() as ledger:
        inside = x @ x
    before = ledger.total
    assert torch.equal(x @ x, inside)
    assert ledger.total == before
