"""K-LoRA: the closed form decides as the reference does at every call; each step is one adapter a matrix."""

import pytest
import torch
from torch.testing import assert_close

from tests.contract.stage import ASK, drawn_with
from tests.methods.compose.layouts import random_factors
from tests.tiny import tiny_sd
from workbench.blocks.adapters import random_adapter
from workbench.blocks.gates import Now
from workbench.core.bundle import Condition
from workbench.core.catalog import method
from workbench.core.errors import AskError
from workbench.core.scene import using
from workbench.core.tape import Step
from workbench.methods.compose.k_lora import KLora, turning
from workbench.ops.low_rank import LowRank

TWO = ("random:1", "random:2")


def adapters() -> tuple[LowRank, LowRank]:
    sizes = (0.3, 1.0, 2.5, 6.0)
    content = {f"unet:{i}.weight": random_factors(i, 9, 8) for i in range(4)}
    style = {f"unet:{i}.weight": (sizes[i] * random_factors(9 + i, 9, 8)[0], random_factors(9 + i, 9, 8)[1])
             for i in range(4)}  # fmt: skip
    return LowRank(content), LowRank(style)


def decided(content: list[float], style: list[float], count: int, ratio: float, share: float) -> bool:
    """The reference's decision at one call, from sorted dense entries."""
    one, two = (sum(sorted((abs(v) for v in part), reverse=True)[:count]) for part in (content, style))
    return one / ratio > two * (1.5 * share + 0.5)


def test_the_closed_form_is_every_calls_decision() -> None:
    content, style = adapters()
    edit = KLora(adapters=TWO)
    turns = edit.turns(content, style)
    flat = {key: tuple(part.dense(key).flatten().tolist() for part in (content, style)) for key in content}
    ratio = sum(sum(map(abs, c)) / sum(map(abs, s)) for c, s in flat.values()) / len(flat)
    seen = set()
    for t in range(400):
        for key, (c, s) in flat.items():
            chosen = decided(c, s, 9, ratio, t / 400)  # K = 3 * 3
            assert chosen == (t / 400 < turns[key])
            seen.add((key, chosen))
    assert len(seen) > len(flat)  # some matrix turns over during the run


def test_a_gate_opens_one_adapter_at_a_time() -> None:
    turns = {"unet:a.weight": 0.5}
    first, second = turning(turns, first=True), turning(turns, first=False)
    for index in range(4):
        cond = Condition(tiny_sd().read(["a"]), (0,), ("cond",), Step(index, 4, 1.0))
        now = Now("unet:a.weight", (1, 4, 4), "picture", cond, (2, 2))
        assert (first(now), second(now)) == ((1.0, 0.0) if index < 2 else (0.0, 1.0))
        other = Now("unet:b.weight", (1, 4, 4), "picture", cond, (2, 2))
        assert (first(other), second(other)) == (1.0, 1.0)


@torch.no_grad()
@pytest.mark.parametrize("beta", [0.0, 10.0])
def test_at_the_ends_it_is_one_adapter_alone(beta: float) -> None:
    """With beta 0 every matrix begins with the content, with beta 10 with the style."""
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    cond = Condition(tiny_sd().read(["a cat"]), (0,), ("cond",), Step(0, 4, 500.0))
    with using(tiny_sd(), method("lora", adapters=(TWO[0] if beta == 0 else TWO[1],))) as bundle:
        alone = bundle.predict(x, torch.full((1,), 500), cond)
    with using(tiny_sd(), KLora(adapters=TWO, beta=beta)) as bundle:
        assert torch.equal(bundle.predict(x, torch.full((1,), 500), cond), alone)


def test_weights_do_not_change_the_choice() -> None:
    content, style = adapters()
    edit = KLora(adapters=TWO)
    before, after = edit.turns(content, style), edit.turns(content.scaled(3.0), style)
    assert_close(torch.tensor(list(after.values())), torch.tensor(list(before.values())), atol=1e-6, rtol=1e-6)


def test_it_takes_two_adapters() -> None:
    for sources in (TWO[:1], (*TWO, "random:3")):
        with pytest.raises(AskError, match=f"k-lora takes 2 adapters; {len(sources)} were given"):
            drawn_with(tiny_sd(), KLora(adapters=sources), ask=ASK.row(0))


def test_every_shipped_matrix_of_a_pair_has_a_turn() -> None:
    lows = [random_adapter(tiny_sd(), name).low_rank for name in TWO]
    turns = KLora(adapters=TWO).turns(*lows)
    assert set(turns) == set(lows[0])
    assert all(
        turn == pytest.approx(1 / 3, abs=0.2) for turn in turns.values()
    )  # adapters of one size: (1 - 0.5) / 1.5
