"""Next-scale decoding: the plain loop's tokens, pictures that belong to their seed, and what is refused."""

from typing import Any

import pytest
import torch

from tests.tiny import tiny_var
from workbench.blocks.scales import Memory, generators, own_grids, turn
from workbench.core.ask import Ask
from workbench.core.bundle import Bundle
from workbench.core.errors import AskError
from workbench.core.scene import Scene
from workbench.core.tape import Step, ignore
from workbench.methods.decode.var import Var
from workbench.models.var import plain

ASK = Ask(prompts=["class:2", "a cat"], seeds=[1, 2])


def states(bundle: Bundle, sampler: Var, ask: Ask = ASK) -> list[Step]:
    steps: list[Step] = []
    sampler.sample(bundle, ask, steps.append)
    return steps


def test_the_likeliest_token_alone_leaves_nothing_to_chance() -> None:
    greedy = Var(top_k=1, guidance=0)
    first = greedy.sample(tiny_var(), ASK, ignore)
    assert torch.equal(first, greedy.sample(tiny_var(), ASK.but(seeds=[7, 8]), ignore))


@pytest.mark.parametrize("smooth", [False, True])
def test_one_picture_is_what_the_plain_loop_draws(smooth: bool) -> None:
    bundle, ask = tiny_var(), ASK.row(1)
    mine = states(bundle, Var(guidance=3.0, top_k=10, top_p=0.9, smooth=smooth), ask)[-1].x
    cond = turn(bundle, ask, Memory(own_grids(bundle), 2), True).cond.text.states[:, 0]
    vq: Any = bundle.parts["vq"]
    net: Any = bundle.parts["var"]
    draw = list(generators(bundle, ask))
    slow, _ = plain.decode(vq, net, cond, guidance=3.0, top_k=10, top_p=0.9, smooth=smooth, generators=draw)
    torch.testing.assert_close(mine, slow, atol=1e-4, rtol=0)


def test_a_picture_alone_is_bit_for_bit_that_of_the_batch() -> None:
    sampler = Var(alone=True)
    together = states(tiny_var(), sampler)
    for i in range(2):
        for both, single in zip(together, states(tiny_var(), sampler, ASK.row(i)), strict=True):
            assert both.x is not None
            assert torch.equal(both.x[i : i + 1], single.x)


def test_no_guidance_computes_no_unconditional_rows() -> None:
    seen: list[int] = []

    def count(inner: Any) -> Any:
        return lambda x, t, cond: seen.append(len(x)) or inner(x, t, cond)

    for guidance in (0, 1):
        Scene(tiny_var(), Var(guidance=guidance), (), ASK).run(record=lambda patch: patch.wrap("predict", count))
    assert seen == [2] * 6 + [4] * 6


def test_guidance_grows_with_the_scale_and_is_none_at_the_first() -> None:
    scales: list[float] = []

    def listen(inner: Any) -> Any:
        return lambda p, n, scale, cond: scales.append(scale) or inner(p, n, scale, cond)

    Scene(tiny_var(), Var(guidance=2.0), (), ASK).run(record=lambda patch: patch.wrap("guide", listen))
    assert scales == pytest.approx([1.0, 1.4, 1.8, 2.2, 2.6, 3.0])


def test_prefixes_are_the_state_that_grows() -> None:
    steps = states(tiny_var(), Var())
    assert [step.level for step in steps] == [1, 2, 3, 4, 6, 8]
    assert all(step.x is not None and step.x.shape == (2, 4, 8, 8) for step in steps)
    assert steps[2].x is not None
    assert tiny_var().decode(steps[2].x).shape == (2, 3, 16, 16)  # a preview of three scales


def test_the_tiny_model_draws_this_number_with_seeds_1_and_2() -> None:
    found = Var(guidance=1.5, top_p=0.9).sample(tiny_var(), ASK.but(prompts=["class:2", "class:4"]), ignore)
    assert found.float().mean().item() == pytest.approx(113.8236, rel=1e-3)  # grey levels


def refused(ask: Ask = ASK, **settings: Any) -> str:
    with pytest.raises(AskError) as caught:
        Var(**settings).sample(tiny_var(), ask, ignore)
    return str(caught.value)


def test_wrong_requests_are_one_line() -> None:
    assert "top_k is 25; the model's vocabulary has 24 tokens" in refused(top_k=25)
    assert "The prompt is 'class:5'; the classes of tiny-var are 0 to 4" in refused(Ask(prompts="class:5"))
    assert "the classes of tiny-var are 0 to 4" in refused(Ask(prompts="class:" + "9" * 5000))
    assert "The prompt is 'class:x'" in refused(Ask(prompts="class:x"))
    assert "The size is 32x32; tiny-var draws 16x16 alone" in refused(ASK.but(size=(32, 32)))
    assert "var draws without a picture" in refused(ASK.but(image="a.png"))
